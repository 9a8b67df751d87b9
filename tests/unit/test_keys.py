"""API keys: how they are made, named in the settings, and told from each other."""

import hashlib
import io
import re
from datetime import UTC, datetime, timedelta

import pytest

from app.core.keys import KeyClass, Keyring, digest_of, new_key, parse_expiry, parse_keys
from app.keys import main

NOW = datetime(2027, 1, 31, 12, tzinfo=UTC)


def made(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def test_the_command_makes_a_key_and_what_the_settings_take(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = re.fullmatch(r"key:  ([\w-]{40,})\nhash: ([0-9a-f]{64})\n", made(capsys))
    assert shown is not None
    assert hashlib.sha256(shown[1].encode()).hexdigest() == shown[2]
    [entry] = parse_keys(shown[2])
    assert entry.digest == digest_of(shown[1])
    assert made(capsys) != shown[0]


def test_the_command_takes_an_expiry_and_a_key_of_ones_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("open-sesame\n"))
    own = hashlib.sha256(b"open-sesame").hexdigest()
    assert made(capsys, "--hash", "--expires", "2027-01-31") == f"hash: {own}@2027-01-31\n"
    for wrong in (["--expires", "soon"], ["--hash"]):  # nothing is left on standard input
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2


@pytest.mark.parametrize(
    ("expiry", "moment"),
    [
        ("2027-01-31", "2027-02-01T00:00:00+00:00"),  # the last day
        ("2027-01-31T12:00:00Z", "2027-01-31T12:00:00+00:00"),
        ("2027-01-31T12:00:00", "2027-01-31T12:00:00+00:00"),
        ("2027-01-31T12:00:00+02:00", "2027-01-31T10:00:00+00:00"),
    ],
)
def test_a_key_expires_at_a_moment(expiry: str, moment: str) -> None:
    key = new_key()
    at = datetime.fromisoformat(moment)
    assert parse_expiry(expiry) == at
    ring = Keyring({KeyClass.READ: parse_keys(f"{digest_of(key).hex()}@{expiry}")})
    just_before = at - timedelta(microseconds=1)
    assert ring.classes(digest_of(key), just_before) == ({KeyClass.READ}, set())
    assert ring.classes(digest_of(key), at) == (set(), {KeyClass.READ})


def test_a_key_that_stands_twice_is_good_while_one_of_them_is() -> None:
    digest = digest_of("key").hex()
    ring = Keyring({KeyClass.READ: parse_keys(f"{digest}@2020-01-01,{digest}")})
    assert ring.classes(digest_of("key"), NOW) == ({KeyClass.READ}, set())
    assert ring.classes(digest_of("other"), NOW) == (set(), set())
