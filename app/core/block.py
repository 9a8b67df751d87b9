"""Columns of rows on their way to the engine, as arrays: nothing is done for each row in Python."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Column:
    """The values of one column.

    Attributes:
        kind: the ClickHouse type: `UUID`, `String`, or a number that numpy has too.
        values: a UUID is 16 bytes, in the order of `UUID.bytes`: an array of shape (rows, 16). Text
            is a list of bytes. Numbers are an array of their type.
        filled: where a value is not NULL; None when the type has no NULL.
    """

    kind: str
    values: Array | list[bytes]
    filled: Array | None = None

    @property
    def full_kind(self) -> str:
        return self.kind if self.filled is None else f"Nullable({self.kind})"

    def objects(self) -> list[Any]:
        """The values as Python has them: int, bytes, UUID, None."""
        if isinstance(self.values, list):
            return self.values
        if self.kind == "UUID":
            found: list[Any] = [UUID(bytes=bytes(value)) for value in self.values]
        else:
            found = self.values.tolist()
        if self.filled is None:
            return found
        return [value if filled else None for value, filled in zip(found, self.filled, strict=True)]


Block = Mapping[str, Column]
"""Columns by name, each with the same number of values."""


def structure(block: Block) -> str:
    """As in CREATE TABLE."""
    return ", ".join(f"{name} {column.full_kind}" for name, column in block.items())


def native(block: Block) -> bytes:
    """The block in ClickHouse's format `Native`, as in a file."""
    rows = len(next(iter(block.values())).values)
    pieces = [_varint(len(block)), _varint(rows)]
    for name, column in block.items():
        pieces += [_text(name.encode()), _text(column.full_kind.encode())]
        if column.filled is not None:
            pieces.append((~column.filled).tobytes())
        pieces.append(_data(column))
    return b"".join(pieces)


def _data(column: Column) -> bytes:
    if isinstance(column.values, list):
        return b"".join(map(_text, column.values))
    if column.kind == "UUID":
        # Two numbers of 64 bits, the upper first, each with its least byte first.
        return np.ascontiguousarray(column.values).reshape(-1, 2, 8)[:, :, ::-1].tobytes()
    return column.values.tobytes()


def _text(raw: bytes) -> bytes:
    size = len(raw)
    # The length of most fits in a byte.
    return (_ONE_BYTE[size] if size < 0x80 else _varint(size)) + raw


def _varint(number: int) -> bytes:
    written = bytearray()
    while number >= 0x80:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


_ONE_BYTE = [bytes([number]) for number in range(0x80)]
