"""Who was erased: known by a hash, and refused by both doors for ever."""

import hashlib
import re
import secrets
from collections.abc import Mapping
from uuid import UUID

import numpy as np

from app.core.block import Array
from app.core.clickhouse_client import ClickHouseClient, Fence, load_query
from app.ingest.decode import Rejected
from app.ingest.decode_many import Decoded
from app.ingest.events import Events
from app.schemas.events import RejectionReason

_SALT_BYTES = 16
_FINGERPRINT_BITS = 20

_UUID = re.compile(
    rb"(?<![0-9a-fA-F])[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}(?![0-9a-fA-F])"
)

_REFUSED = Rejected(RejectionReason.ERASED_USER, "the user was erased", "user_id")


class Tombstones:
    """The table `erased_users`, in memory.

    An event of somebody else costs a few operations on arrays: of each erased user the table has 20
    bits of a cheap hash beside the SHA-256, which is computed only where those agree.

    Raises:
        StoreUnavailableError, StoreError: from every method that waits.
    """

    def __init__(self, store: ClickHouseClient) -> None:
        self._store = store
        self._rows = 0
        # By salt: the hashes, and which fingerprints there are. There is one salt as a rule.
        self._hashes: Mapping[bytes, frozenset[str]] = {}
        self._marked: Mapping[bytes, Array] = {}
        self._doubtful = True

    def doubt(self) -> None:
        """Somebody else in this process may have added one."""
        self._doubtful = True

    async def refresh(self, fence: Fence | None = None) -> None:
        """See what was added since. Asks the store only where another process can have done it."""
        if self._store.exclusive and not self._doubtful:
            return
        [row] = await self._store.execute(load_query("tombstone_count"), ahead=True, fence=fence)
        if row["tombstones"] != self._rows:
            await self._load(fence)
            self._rows = row["tombstones"]
        self._doubtful = False

    async def add(self, user_id: UUID, fence: Fence | None) -> None:
        """Durable when it returns. Adding one that is there changes nothing."""
        self.doubt()
        await self.refresh(fence)
        if self.has(user_id):
            return
        salt = next(iter(self._hashes), None) or secrets.token_bytes(_SALT_BYTES)
        [fingerprint] = _fingerprints(salt, np.frombuffer(user_id.bytes, np.uint8).reshape(1, 16))
        condition = "1" if fence is None else fence.condition
        await self._store.execute(
            "INSERT INTO erased_users (salt, user_hash, fingerprint, erased_at)"
            " SELECT {salt:String}, {user_hash:String}, {fingerprint:UInt32}, now()"
            f" WHERE {condition}",
            {
                "salt": salt.hex(),
                "user_hash": _hash(salt, user_id.bytes),
                "fingerprint": int(fingerprint),
            },
            ahead=True,
            fence=fence,
        )
        self.doubt()
        await self.refresh(fence)

    def has(self, user_id: UUID) -> bool:
        return self._has(user_id.bytes)

    def among(self, events: Events) -> Array:
        """Of each event, whether its user was erased: an array of bool."""
        erased = np.zeros(len(events), np.bool_)
        if not self._hashes or not len(events):
            return erased
        users = np.ascontiguousarray(events.rows["user_id"])
        known: dict[bytes, bool] = {}
        for salt, marked in self._marked.items():
            for place in np.flatnonzero(marked[_fingerprints(salt, users)]):
                user = users[place].tobytes()
                if user not in known:
                    known[user] = self._has(user)
                erased[place] |= known[user]
        return erased

    def refuse(self, decoded: Decoded) -> Decoded:
        """The same, but that the events of erased users are rejected."""
        erased = self.among(decoded.events)
        if not erased.any():
            return decoded
        return decoded.without(dict.fromkeys(decoded.places[erased].tolist(), _REFUSED))

    def are_in(self, text: bytes) -> bool:
        """Whether an erased user's id is in a text: in either case, with or without hyphens."""
        return bool(self._hashes) and any(
            self._has(bytes.fromhex(found.decode().replace("-", "")))
            for found in _UUID.findall(text)
        )

    def _has(self, user: bytes) -> bool:
        return any(_hash(salt, user) in hashes for salt, hashes in self._hashes.items())

    async def _load(self, fence: Fence | None) -> None:
        rows = await self._store.execute(load_query("tombstones"), ahead=True, fence=fence)
        hashes: dict[bytes, set[str]] = {}
        marked: dict[bytes, Array] = {}
        for row in rows:
            salt = bytes.fromhex(row["salt"])
            hashes.setdefault(salt, set()).add(row["user_hash"])
            marks = marked.setdefault(salt, np.zeros(1 << _FINGERPRINT_BITS, np.bool_))
            marks[row["fingerprint"]] = True
        self._marked = marked
        self._hashes = {salt: frozenset(some) for salt, some in hashes.items()}


def _hash(salt: bytes, user: bytes) -> str:
    return hashlib.sha256(salt + user).hexdigest()


def _fingerprints(salt: bytes, users: Array) -> Array:
    """20 bits of each user: the upper ones of a sum of products (multiply-shift hashing)."""
    factors = np.frombuffer(salt, "<u8") | np.uint64(1)
    products = users.view("<u8") * factors
    sums: Array = products[:, 0] + products[:, 1]
    return sums >> np.uint64(64 - _FINGERPRINT_BITS)
