"""What the files of a store hold, the compressed ones too."""

import re
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import cramjam
import lz4.block

_CHECKSUM, _HEADER = 16, 9  # of each compressed block: before it, and the first bytes of it
_LZ4, _ZSTD, _NONE, _MULTIPLE, _DELTA = 0x82, 0x90, 0x02, 0x91, 0x92
# Where a block may begin: how it is compressed, and less than 16 MiB of it.
_METHOD = re.compile(rb"[\x82\x90\x02\x91\x92]...\x00", re.DOTALL)


def forms_of(user: UUID) -> list[bytes]:
    """How an id may be written: as the engine has it, in bytes, and as text."""
    halves = user.bytes[:8], user.bytes[8:]
    engine = b"".join(half[::-1] for half in halves)
    swapped = b"".join(half[::-1] for half in halves[::-1])
    texts = [str(user), user.hex, str(user).upper(), user.hex.upper()]
    return [user.bytes, user.bytes[::-1], engine, swapped, *(text.encode() for text in texts)]


def files_with(folder: Path, forms: list[bytes]) -> list[str]:
    """The files below a folder in which one of the forms is, as they are or decompressed."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            raw = path.read_bytes()
            if any(form in text for form in forms for text in (raw, *decompressed(raw))):
                found.append(str(path.relative_to(folder)))
    return found


def decompressed(raw: bytes) -> Iterator[bytes]:
    """What the compressed blocks in a file hold, one after another.

    A part that is one file has several streams of blocks in it: so each place is tried.
    """
    whole = []
    place = 0
    while (found := _METHOD.search(raw, place + _CHECKSUM)) is not None:
        block = _block(raw, found.start())
        if block is None:
            place = found.start() + 1 - _CHECKSUM
            continue
        size, text = block
        whole.append(text)
        place = found.start() + size
    yield b"".join(whole)  # a value may begin in one block and end in the next


def _block(raw: bytes, start: int) -> tuple[int, bytes] | None:
    """Of a block that begins here: its size, and what it holds."""
    method = raw[start]
    size = int.from_bytes(raw[start + 1 : start + 5], "little")
    plain = int.from_bytes(raw[start + 5 : start + 9], "little")
    if not _HEADER < size <= len(raw) - start or plain > 1 << 28:
        return None
    body = raw[start + _HEADER : start + size]
    text = _plain(method, body, plain)
    return None if text is None else (size, text)


def _plain(method: int, body: bytes, plain: int) -> bytes | None:
    try:
        if method == _NONE:
            return body if len(body) == plain else None
        if method == _LZ4:
            return bytes(lz4.block.decompress(body, uncompressed_size=plain))
        if method == _ZSTD:
            return bytes(cramjam.zstd.decompress(body))
        if method == _MULTIPLE:
            # How many codecs, and which; then the block of the last.
            count = body[0]
            inner, methods = body[1 + count :], body[1 : 1 + count]
            for one in reversed(methods):
                size = int.from_bytes(inner[1:5], "little")
                length = int.from_bytes(inner[5:9], "little")
                if one == _DELTA:
                    return inner  # times and numbers: no ids
                found = _plain(one, inner[_HEADER:size], length)
                if found is None:
                    return None
                inner = found
            return inner
    except (lz4.block.LZ4BlockError, cramjam.DecompressionError, ValueError, IndexError):
        return None
    return None
