"""Makes an API key: `python -m app.keys`."""

import argparse
import sys
from collections.abc import Sequence

from app.core.keys import digest_of, new_key, parse_expiry


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a new key and its hash, or the hash of the key on standard input.

    Returns:
        The exit code: 0, or 2 for arguments that make no sense.
    """
    parser = argparse.ArgumentParser(
        prog="python -m app.keys",
        description="Make an API key. The key goes to who asks; its hash into INGEST_API_KEYS, "
        "READ_API_KEYS or ADMIN_API_KEY. Nothing is kept.",
    )
    parser.add_argument(
        "--expires",
        metavar="WHEN",
        help="a date, the last day (UTC) that it works (2027-01-31), or an RFC 3339 time",
    )
    parser.add_argument(
        "--hash", action="store_true", help="read a key of your own from standard input"
    )
    chosen = parser.parse_args(arguments)
    ending = ""
    if chosen.expires is not None:
        try:
            parse_expiry(chosen.expires)
        except ValueError as error:
            parser.error(f"--expires: {error}")
        ending = f"@{chosen.expires}"
    key = sys.stdin.readline().strip() if chosen.hash else new_key()
    if not key:
        parser.error("--hash: no key on standard input")
    if not chosen.hash:
        print(f"key:  {key}")
    print(f"hash: {digest_of(key).hex()}{ending}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
