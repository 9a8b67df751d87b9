"""A clock that is set back an hour, across midnight, and on again, while the service runs."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from app.core.config import Settings
from tests.conftest import NOW, running
from tests.integration.test_kafka import event as kafka_event
from tests.integration.test_kafka import message, settings_for
from tests.support.answers import PREFIX, assert_answers
from tests.support.brokers import Kafka
from tests.support.ingestion import caught_up
from tests.support.oracle import Truth
from tests.support.viewing import MOVIES, USERS

HOUR = timedelta(hours=1)
# Half an hour after a midnight: an hour back is another day.
START = NOW.replace(hour=0, minute=30, second=0) - timedelta(days=1)


class Clock:
    """Shows the time that it was set to."""

    def __init__(self, shows: datetime) -> None:
        self.shows = shows

    def __call__(self) -> datetime:
        return self.shows


@pytest.fixture
def engine() -> str:
    return "embedded"


def event(moment: datetime | None, **fields: Any) -> dict[str, Any]:
    dated = {} if moment is None else {"timestamp": moment.isoformat()}
    return {
        "event_id": str(uuid4()), "user_id": USERS[0], "movie_id": MOVIES[0],
        "event_type": "start", **dated, **fields,
    }  # fmt: skip


async def test_events_and_answers_follow_the_clock_back_and_on(settings: Settings) -> None:
    clock = Clock(START)
    stored: list[dict[str, Any]] = []
    async with running(settings, clock) as (_, client):

        async def send(sent: dict[str, Any], status: int) -> None:
            answer = await client.post(f"{PREFIX}/events", json=sent)
            assert answer.status_code == status, answer.text
            if status == 201:
                stored.append({"timestamp": clock.shows.isoformat(), **sent})

        async def check() -> None:
            for _ in range(2):  # the second answers are kept ones
                for tz in ("UTC", "Asia/Kathmandu"):
                    await assert_answers(client, Truth(stored, clock.shows), USERS[:2], 3, tz)

        undated = event(None)
        dated = event(START - timedelta(minutes=1))
        await send(undated, 201)
        await send(dated, 201)
        await check()
        for shows in (START - HOUR, START + HOUR, START):
            clock.shows = shows
            await check()
            await send(event(None), 201)
            await send(event(shows - timedelta(hours=2)), 201)
            # The same, though it seems to be of a time to come.
            await send(undated, 200)
            await send(dated, 200 if shows >= START else 422)
            await check()


async def test_kafka_is_never_complete_through_a_time_to_come(
    kafka: Kafka, settings: Settings
) -> None:
    clock = Clock(datetime.now(UTC))
    sent = 0
    async with running(settings_for(kafka, settings), clock) as (_, client):
        for shift in (timedelta(0), -HOUR, HOUR):
            clock.shows += shift
            kafka.send([message(kafka_event(timestamp=(clock.shows - HOUR).isoformat()))])
            sent += 1
            report = await caught_up(client, sent)
            through = [report, *report["kafka"]["partitions"]]
            times = [datetime.fromisoformat(one["complete_through"]) for one in through]
            assert set(times) == {clock.shows}
