"""API keys: made here, told by their SHA-256, which is all that the settings hold."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum

_ENTRY = re.compile(r"(?P<digest>[0-9a-fA-F]{64})(?:@(?P<expiry>\S+))?")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_PREFIX = "cinema_"  # so that programs that look for leaked secrets, and people, know it again
_RANDOM_BYTES = 32


class KeyClass(StrEnum):
    """What a key lets its holder do."""

    INGEST = "ingest"
    READ = "read"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Entry:
    """A key as the settings name it.

    Attributes:
        digest: the SHA-256 of the key's bytes.
        expiry: aware; from then on the key is worth nothing. None: never.
    """

    digest: bytes
    expiry: datetime | None

    def expired(self, now: datetime) -> bool:
        return self.expiry is not None and now >= self.expiry


class Keyring:
    """Says which classes a key that was presented is of.

    Args:
        entries: of each class; one without any needs no key.
    """

    def __init__(self, entries: Mapping[KeyClass, Sequence[Entry]]) -> None:
        self._entries = [(of, one) for of, every in entries.items() for one in every]
        self.guarded = frozenset(of for of, _ in self._entries)
        """The classes that have keys."""

    def classes(self, digest: bytes, now: datetime) -> tuple[set[KeyClass], set[KeyClass]]:
        """The classes of the key with this SHA-256, and those for which it has expired.

        Every entry is looked at, each in constant time: how long it takes says nothing of a key.
        """
        good: set[KeyClass] = set()
        expired: set[KeyClass] = set()
        for of, entry in self._entries:
            if hmac.compare_digest(digest, entry.digest):
                (expired if entry.expired(now) else good).add(of)
        return good, expired - good

    def expiry(self, digest: bytes, of: KeyClass) -> datetime | None:
        """From when on the key with this SHA-256 won't be of a class any more; None: for ever."""
        expiries = [
            entry.expiry
            for entry_of, entry in self._entries
            if entry_of is of and hmac.compare_digest(digest, entry.digest)
        ]
        return max((one for one in expiries if one), default=None) if all(expiries) else None


def new_key() -> str:
    """A key that can't be guessed, of letters, digits, `-` and `_`."""
    return _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def digest_of(key: str | bytes) -> bytes:
    """The SHA-256 of a key. A key is random: no salt and no slow hash would make it safer."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()


def parse_keys(text: str) -> list[Entry]:
    """Entries `<SHA-256 in hex>` or `<SHA-256 in hex>@<expiry>`, with commas between them.

    Raises:
        ValueError: one is neither. The text doesn't repeat it: it may be a key.
    """
    return [_parse(one.strip()) for one in text.split(",")] if text.strip() else []


def _parse(text: str) -> Entry:
    entry = _ENTRY.fullmatch(text)
    if entry is None:
        raise ValueError(
            "must be SHA-256 hashes of 64 hex digits (make one with `python -m app.keys`), each "
            "with @ and a date or time of expiry or without, and with commas between them"
        )
    expiry = None if entry["expiry"] is None else parse_expiry(entry["expiry"])
    return Entry(bytes.fromhex(entry["digest"]), expiry)


def parse_expiry(text: str) -> datetime:
    """The moment from which a key has expired: an RFC 3339 time, or the end of a date, in UTC.

    A time without an offset is UTC.

    Raises:
        ValueError: it is neither.
    """
    try:
        if _DAY.fullmatch(text):
            after = date.fromisoformat(text) + timedelta(days=1)
            return datetime.combine(after, time(), UTC)
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ValueError(
            "a key's expiry must be a date (2027-01-31) or a time (2027-01-31T12:00:00Z)"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
