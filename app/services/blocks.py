"""Which blocks of the rollup `audience` make up local days, or hours of the clock over many days.

A union of blocks counts whom it holds once, so each answer takes the fewest blocks: a day in UTC is
one, in any other zone some; an hour over a month is one for each of some spans of days.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from app.core.clickhouse_client import Parameters
from app.services.window import Window

_DAY = 86_400
# Those of clickhouse/schema.sql, the longest first.
_LENGTHS = (1440, 240, 60, 15)
_SPANS = (64, 16, 4, 1)


class Block(NamedTuple):
    """So many minutes from `begin` (seconds since 1970 UTC) on, on each of so many days."""

    minutes: int
    days: int
    begin: int


def blocks_by_day(window: Window) -> dict[int, list[Block]]:
    """The blocks of each day of the window. Days are counted from 0, the first of them."""
    midnights = [int(midnight.timestamp()) for midnight in window.midnights()]
    return {
        day: list(_split(start, end, _LENGTHS))
        for day, (start, end) in enumerate(pairwise(midnights))
    }


def blocks_by_hour(window: Window) -> dict[int, list[Block]]:
    """The blocks of each hour of the window's clock, 0 to 23."""
    hours: dict[int, list[Block]] = {hour: [] for hour in range(24)}
    # While the clock isn't changed, the same hour is at the same time of each UTC day.
    for start, end, offset in window.clocks():
        lengths = (60, 15) if offset % 3600 == 0 else (15,)
        for block in _cover(start, end, lengths):
            hours[(block.begin + offset) // 3600 % 24].append(block)
    return hours


def block_parameters(blocks: Iterable[Block]) -> Parameters:
    """Blocks as the queries take them."""
    every = list(blocks)
    return {
        "minutes": [block.minutes for block in every],
        "days": [block.days for block in every],
        "begins": [block.begin for block in every],
    }


def _cover(start: int, end: int, lengths: tuple[int, ...]) -> Iterator[Block]:
    """Whole UTC days in spans of several, and what is left of days at both ends."""
    first_midnight = min(-(-start // _DAY) * _DAY, end)
    yield from _split(start, first_midnight, lengths)
    day = first_midnight
    while day + _DAY <= end:
        span = next(
            span for span in _SPANS if day % (span * _DAY) == 0 and day + span * _DAY <= end
        )
        for block in _split(day, day + _DAY, lengths):
            yield block._replace(days=span)
        day += span * _DAY
    yield from _split(day, end, lengths)


def _split(start: int, end: int, lengths: tuple[int, ...]) -> Iterator[Block]:
    """From one instant to another on one UTC day or two, in the longest blocks that fit."""
    while start < end:
        length = next(
            length
            for length in lengths
            if start % (length * 60) == 0 and start + length * 60 <= end
        )
        yield Block(length, 1, start)
        start += length * 60
