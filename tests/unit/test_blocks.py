"""The blocks of an answer hold every quarter of an hour of it once, and no other."""

from collections import Counter
from datetime import datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from app.core.schema import schema_statements
from app.services.blocks import Block, blocks_by_day, blocks_by_hour
from app.services.window import Window, last_days
from tests.conftest import NOW
from tests.support.viewing import ZONES

QUARTER = 900
DAY = 86_400

windows = st.builds(
    last_days,
    st.integers(1, 365),
    st.sampled_from(ZONES),
    st.integers(-400 * DAY, 0).map(lambda seconds: NOW + timedelta(seconds=seconds)),
)


def quarters(blocks: list[Block]) -> Counter[int]:
    """When the quarters begin that are in the blocks, and in how many of them each is."""
    return Counter(
        block.begin + day * DAY + second
        for block in blocks
        for day in range(block.days)
        for second in range(0, block.minutes * 60, QUARTER)
    )


def all_quarters(window: Window) -> range:
    return range(int(window.start.timestamp()), int(window.end.timestamp()), QUARTER)


@given(windows)
def test_the_days_have_their_quarters(window: Window) -> None:
    blocks = blocks_by_day(window)
    assert sorted(blocks) == list(range(window.days))
    midnights = [int(midnight.timestamp()) for midnight in window.midnights()]
    for day, (start, end) in enumerate(pairwise(midnights)):
        assert quarters(blocks[day]) == Counter(range(start, end, QUARTER))


@given(windows)
def test_the_hours_have_the_quarters_that_the_clock_gives_them(window: Window) -> None:
    zone = ZoneInfo(window.timezone)
    expected: dict[int, Counter[int]] = {hour: Counter() for hour in range(24)}
    for quarter in all_quarters(window):
        expected[datetime.fromtimestamp(quarter, zone).hour][quarter] += 1
    assert {hour: quarters(blocks) for hour, blocks in blocks_by_hour(window).items()} == expected


@given(windows)
def test_an_answer_takes_few_blocks(window: Window) -> None:
    """As many as its days are worth, whatever happened on them."""
    assert max(map(len, blocks_by_day(window).values()), default=0) <= 16
    clocks = len(list(window.clocks()))
    # Of an hour: spans of 64, 16, 4 and 1 days at both ends, four quarters at most.
    assert max(map(len, blocks_by_hour(window).values())) <= 4 * clocks * (5 + 2 * 3 * 3 + 2)


@given(windows)
def test_every_block_is_one_that_the_rollup_has(window: Window) -> None:
    [view] = [one for one in schema_statements("db", None) if "audience_mv" in one]
    for by in (blocks_by_day(window), blocks_by_hour(window)):
        for block in {block for blocks in by.values() for block in blocks}:
            assert f"({block.minutes}, {block.days})" in view
            assert block.begin % (block.minutes * 60) == 0
            assert block.begin // DAY % block.days == 0
