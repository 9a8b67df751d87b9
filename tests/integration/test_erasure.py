"""A user is erased: from every answer, from the disk, and for ever."""

import asyncio
import csv
import io
import json
import random
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from app.core.clickhouse_client import ClickHouseClient, Row
from app.core.config import Settings
from app.core.errors import StoreUnavailableError
from app.ingest.rebuild import rebuild
from app.ingest.rejections import RejectedEvents, RejectedMessage
from app.ingest.removal import begin_removal
from app.ingest.rollups import load_rollups
from app.schemas.events import RejectionReason
from tests.conftest import NOW, opened_store, running
from tests.integration.test_kafka import message, settings_for
from tests.support.answers import PREFIX, assert_answers, assert_problem
from tests.support.brokers import Kafka, Message
from tests.support.consistency import assert_rollups_match
from tests.support.disk import files_with, forms_of
from tests.support.ingestion import caught_up, rejected_rows
from tests.support.kills import Batch, make_batch
from tests.support.oracle import Truth

USERS = [str(UUID(int=random.Random(n).getrandbits(128))) for n in range(30)]
ERIN, ANN, OTTO = USERS[:3]
BATCH = f"{PREFIX}/events/batch"


def viewing(dice: random.Random, size: int) -> Batch:
    """Events of many users, some without an id, in sessions, with metadata."""
    events = make_batch(dice, size)
    for event in events:
        event["user_id"] = dice.choice(USERS)
        event["metadata"] = {"device": "tv", "account": event["user_id"]}
        if dice.random() < 0.5:
            event["session_id"] = str(UUID(int=dice.getrandbits(1) << 100 | dice.getrandbits(3)))
        if dice.random() < 0.3:
            del event["event_id"]
    return events


def without(events: Batch, *users: str) -> Batch:
    return [event for event in events if event["user_id"] not in users]


async def send(client: httpx.AsyncClient, events: Batch) -> dict[str, Any]:
    answer = await client.post(BATCH, json=events)
    assert answer.status_code == 200, answer.text
    receipt: dict[str, Any] = answer.json()
    return receipt


async def erase(client: httpx.AsyncClient, user: str, mode: str = "erase") -> dict[str, Any]:
    answer = await client.delete(f"{PREFIX}/user/{user}?mode={mode}")
    assert answer.status_code == 200, answer.text
    receipt: dict[str, Any] = answer.json()
    assert (receipt["user_id"], receipt["mode"]) == (user, mode)
    return receipt


async def export(client: httpx.AsyncClient, user: str, **about: Any) -> httpx.Response:
    answer = await client.get(f"{PREFIX}/user/{user}/export", **about)
    assert answer.status_code == 200, answer.text
    return answer


async def assert_truth(client: httpx.AsyncClient, events: Batch) -> None:
    for tz, days in (("UTC", 365), ("Asia/Kathmandu", 60)):
        await assert_answers(client, Truth(events, NOW), USERS[:4], days, tz)


@pytest.mark.parametrize("engine", ["embedded"])
async def test_events_that_wait_for_an_erasure_are_stored(settings: Settings) -> None:
    dice = random.Random(11)
    async with running(settings) as (_, client):
        events = viewing(dice, 300)
        await send(client, events)
        for user in USERS[3:6]:
            erasing = asyncio.create_task(erase(client, user))
            await asyncio.sleep(0.05)  # whenever they come
            late = without(viewing(dice, 40), *USERS[3:6])
            await send(client, late)
            await erasing
            events = [*without(events, user), *late]
            await assert_truth(client, events)


async def test_an_erased_user_is_in_no_answer_and_comes_back_by_no_door(
    settings: Settings, engine: str
) -> None:
    dice = random.Random(5)
    events = viewing(dice, 900)
    for event in events[:40]:  # of one who is alone in a month
        event["user_id"] = OTTO
    async with running(settings) as (app, client):
        for start in range(0, 900, 300):
            await send(client, events[start : start + 300])
        await assert_truth(client, events)
        for user in (ERIN, OTTO):
            receipt = await erase(client, user)
            assert receipt["events"] == len(events) - len(without(events, user))
            assert receipt["rejected_messages"] == 0
        left = without(events, ERIN, OTTO)
        await assert_truth(client, left)
        again = await erase(client, ERIN)
        assert (again["events"], again["rejected_messages"]) == (0, 0)
        # Late, in any notation, alone and beside others.
        receipt = await send(client, events)
        assert (receipt["stored"], receipt["duplicates"]) == (0, len(left))
        assert {one["reason"] for one in receipt["rejections"]} == {"erased_user"}
        late = events[0] | {"user_id": UUID(OTTO).hex.upper()}
        assert_problem(await client.post(f"{PREFIX}/events", json=late), 422, "erased_user")
        nobody = str(uuid4())
        assert (await erase(client, nobody))["events"] == 0
        late["user_id"] = nobody
        assert_problem(await client.post(f"{PREFIX}/events", json=late), 422, "erased_user")
        await assert_truth(client, left)
        assert await app.state.store.execute("SHOW TABLES LIKE '%remov%'") == []
        tables = await app.state.store.execute(
            "SELECT name FROM system.tables WHERE database = currentDatabase()"
            " AND engine LIKE '%MergeTree' AND engine_full NOT LIKE '%old_parts_lifetime = 60%'"
        )
        assert tables == []
    # It is remembered.
    async with running(settings) as (app, client):
        assert (await send(client, events))["stored"] == 0
        await assert_truth(client, left)
        await assert_rollups_match(app.state.store)


async def test_nothing_of_an_erased_user_is_on_the_disk(tmp_path: Path) -> None:
    events = viewing(random.Random(6), 600)
    path = tmp_path / "store"
    forms = forms_of(UUID(ERIN))
    settings = Settings(_env_file=None, clickhouse_path=path, enable_kafka=False)
    async with running(settings) as (app, client):
        rejected = RejectedEvents(app.state.store)
        payloads = [ERIN, ERIN.upper(), UUID(ERIN).hex, "somebody", ANN]
        await rejected.keep(
            [
                RejectedMessage(
                    "stream's",
                    0,
                    offset,
                    RejectionReason.INVALID_FIELD,
                    "",
                    b"\xff" + text.encode(),
                )
                for offset, text in enumerate(payloads)
            ],
            NOW,
        )
        for start in range(0, 600, 100):
            await send(client, events[start : start + 100])
        await app.state.store.execute("OPTIMIZE TABLE viewing_events FINAL")  # old parts stay
        places = files_with(path, forms)
        assert len(places) > 10
        assert "incoming.native" in places
        receipt = await erase(client, ERIN)
        assert receipt["rejected_messages"] == 3
        assert files_with(path, forms) == []
        assert len(await rejected_rows(app.state.store)) == 2
        assert len(files_with(path, forms_of(UUID(ANN)))) > 3
        await send(client, events)
        assert files_with(path, forms) == []
    assert files_with(path, forms) == []
    async with opened_store(path) as store:
        await assert_rollups_match(store)


@pytest.mark.parametrize("engine", ["embedded"])
async def test_an_answer_is_with_the_user_or_without(settings: Settings) -> None:
    events = viewing(random.Random(7), 500)
    before, after = Truth(events, NOW), Truth(without(events, ERIN), NOW)
    async with running(settings) as (_, client):
        await send(client, events)
        erasing = asyncio.create_task(erase(client, ERIN))
        seen = set()
        while not erasing.done():
            for path, truths in (
                ("trends", [one.trends(90, "Asia/Kathmandu") for one in (before, after)]),
                ("peak-hours", [one.peak_hours(90, "UTC") for one in (before, after)]),
                (
                    "content/popular",
                    [one.popular(90, "Asia/Kathmandu", 100) for one in (before, after)],
                ),
                (
                    f"user/{ERIN}/stats",
                    [one.user_stats(ERIN, 90, "UTC") for one in (before, after)],
                ),
            ):
                limit = "&limit=100" if "content" in path else ""
                tz = truths[0]["timezone"]
                answer = await client.get(f"{PREFIX}/{path}?days=90&tz={tz}{limit}")
                assert answer.json() in truths
                seen.add(truths.index(answer.json()))
                await asyncio.sleep(0)
        await erasing
        assert 0 in seen
        await assert_truth(client, without(events, ERIN))


@pytest.mark.parametrize("engine", ["embedded"])
async def test_events_that_wait_while_their_user_is_erased_are_refused(settings: Settings) -> None:
    events = viewing(random.Random(8), 400)
    async with running(settings) as (_, client):
        await send(client, events[:100])
        sending = [
            asyncio.create_task(send(client, [event]))
            for event in events[100:]
            if event["user_id"] in (ERIN, ANN)
        ]
        await asyncio.sleep(0.02)
        same = await asyncio.gather(erase(client, ERIN), erase(client, ERIN))
        assert same[0] == same[1]
        await asyncio.gather(*sending)
        answer = await client.get(f"{PREFIX}/user/{ERIN}/stats?days=365")
        assert answer.json()["unique_movies_watched"] == 0
        taken = events[:100] + [event for event in events[100:] if event["user_id"] == ANN]
        await assert_truth(client, without(taken, ERIN))


@pytest.mark.parametrize("engine", ["embedded"])
async def test_an_anonymised_user_is_counted_and_unknown(settings: Settings) -> None:
    events = viewing(random.Random(9), 600)
    theirs = [event for event in events if event["user_id"] == ERIN]
    alone = Truth(theirs, NOW)
    async with running(settings) as (app, client):
        await send(client, events)
        paths = [
            f"{PREFIX}/{name}?days=365&tz={tz}"
            for name in ("trends", "peak-hours", "content/popular")
            for tz in ("UTC", "Asia/Kathmandu")
        ]
        before = [(await client.get(path)).json() for path in paths]
        old = await app.state.store.execute(
            f"SELECT id, session_id FROM viewing_events WHERE user_id = '{ERIN}'"
        )
        assert (await erase(client, ERIN, "anonymise"))["events"] == len(theirs)
        assert [(await client.get(path)).json() for path in paths] == before
        await assert_rollups_match(app.state.store)
        answer = await client.get(f"{PREFIX}/user/{ERIN}/stats?days=365")
        assert answer.json() == Truth([], NOW).user_stats(ERIN, 365, "UTC")
        [new] = await app.state.store.execute(
            f"SELECT DISTINCT user_id FROM viewing_events WHERE user_id NOT IN {tuple(USERS)}"
        )
        stats = (await client.get(f"{PREFIX}/user/{new['user_id']}/stats?days=365")).json()
        assert stats == alone.user_stats(ERIN, 365, "UTC") | {"user_id": new["user_id"]}
        rows = await app.state.store.execute(
            "SELECT id, session_id, metadata FROM viewing_events"
            f" WHERE user_id = '{new['user_id']}'"
        )
        assert len({row["id"] for row in rows} - {row["id"] for row in old}) == len(theirs)
        sessions = {row["session_id"] for row in rows} - {None}
        assert len(sessions) == len({row["session_id"] for row in old} - {None}) > 3
        assert not sessions & {row["session_id"] for row in old}
        assert {row["metadata"] for row in rows} == {"{}"}
        receipt = await send(client, theirs)
        assert (receipt["stored"], receipt["rejected"]) == (0, len(theirs))
        assert [(await client.get(path)).json() for path in paths] == before


async def test_an_export_is_what_was_sent(settings: Settings) -> None:
    dice = random.Random(10)
    events = viewing(dice, 300)
    for event in events:
        event["event_id"] = str(UUID(int=dice.getrandbits(128)))
        event.setdefault("session_id", None)
        event["metadata"] = {"title": 'A "b", c;\nd', "n": [1, {"e": "é"}]}
    # More than a piece, many of them in one second.
    events += [
        event | {"event_id": str(uuid4()), "timestamp": events[n % 7]["timestamp"], "user_id": ERIN}
        for n, event in enumerate(events * 8)
    ]
    theirs = [event for event in events if event["user_id"] == ERIN]
    assert len(theirs) > 2_000

    def in_seconds(sent: str) -> str:
        return f"{sent[:19]}Z"

    expected = {
        one["event_id"]: one | {"timestamp": in_seconds(one["timestamp"])} for one in theirs
    }
    async with running(settings) as (_, client):
        await send(client, events)
        answer = await export(client, ERIN)
        assert answer.headers["content-type"] == "application/x-ndjson"
        lines = [json.loads(line) for line in answer.text.splitlines()]
        assert len(lines) == len(theirs)
        assert {one["event_id"]: one for one in lines} == expected
        times = [one["timestamp"] for one in lines]
        assert times == sorted(times)
        # It can be sent again.
        headers = {"content-type": "application/x-ndjson"}
        again = await client.post(BATCH, content=answer.content, headers=headers)
        assert again.json()["duplicates"] == len(theirs)
        for about in ({"params": {"format": "csv"}}, {"headers": {"accept": "text/csv"}}):
            answer = await export(client, ERIN, **about)
            assert answer.headers["content-type"].startswith("text/csv")
            rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
            assert [
                {
                    **row,
                    "position_seconds": int(row["position_seconds"]),
                    "session_id": row["session_id"] or None,
                    "metadata": json.loads(row["metadata"]),
                }
                for row in rows
            ] == lines
        nobody = str(uuid4())
        assert (await export(client, nobody)).content == b""
        assert (await export(client, nobody, params={"format": "csv"})).text.count("\n") == 1
        assert_problem(await client.get(f"{PREFIX}/user/{ERIN}/export?format=xml"), 422)
        assert_problem(await client.delete(f"{PREFIX}/user/{ERIN}?mode=hide"), 422)
        await erase(client, ERIN)
        assert (await export(client, ERIN)).content == b""


@pytest.mark.parametrize("engine", ["embedded"])
async def test_late_messages_of_an_erased_user_leave_nothing(
    kafka: Kafka, settings: Settings
) -> None:
    events = viewing(random.Random(11), 40)
    for event in events[:9]:
        event["user_id"] = ERIN
    async with running(settings_for(kafka, settings)) as (app, client):
        await asyncio.to_thread(kafka.send, map(message, events))
        await caught_up(client, 40)
        await erase(client, ERIN)
        left = without(events, ERIN)
        # The same once more, some of no use, and one of somebody else's.
        bad = [b'{"user_id": "%s", "movie_id": 1}' % text for text in (
            ERIN.upper().encode(), UUID(ERIN).hex.encode(), ANN.encode()
        )]  # fmt: skip
        await asyncio.to_thread(
            kafka.send,
            [*map(message, events), *(Message("stream.start", value, b"k") for value in bad)],
        )
        report = await caught_up(client, 83)
        assert report["kafka"]["rejections"] == {
            "erased_user": len(events) - len(left), "invalid_field": 3,
        }  # fmt: skip
        await assert_truth(client, left)
        rows = await rejected_rows(app.state.store)
        reasons = [reason for _, _, _, reason, payload in rows if payload == b""]
        assert (
            sorted(reasons) == ["erased_user"] * (len(events) - len(left)) + ["invalid_field"] * 2
        )
        assert [payload for *_, payload in rows if payload] == [bad[2]]
        assert files_with(settings.clickhouse_path, forms_of(UUID(ERIN))) == []


async def test_events_are_stored_while_a_user_is_removed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = random.Random(21)
    events = viewing(dice, 400)
    async with running(settings) as (app, client):
        await send(client, events)
        store = app.state.store
        copying, may_go_on = asyncio.Event(), asyncio.Event()
        execute = store.execute

        async def slowly(sql: str, *args: Any, **kwargs: Any) -> list[Row]:
            if sql.startswith("INSERT INTO removing_"):
                copying.set()
                await may_go_on.wait()
            rows: list[Row] = await execute(sql, *args, **kwargs)
            return rows

        monkeypatch.setattr(store, "execute", slowly)
        erasing = asyncio.create_task(erase(client, ERIN))
        await copying.wait()
        for _ in range(5):
            more = viewing(dice, 60)
            receipt = await send(client, more)
            others = without(more, ERIN)
            assert receipt["stored"] == len(others)
            assert {one["reason"] for one in receipt["rejections"]} <= {"erased_user"}
            events += others
        # What is rebuilt now would be undone.
        with pytest.raises(StoreUnavailableError):
            await rebuild(
                store, await load_rollups(store), [NOW.date()],
                in_turn=app.state.writer.in_turn, first_kept=NOW.date() - timedelta(days=9),
            )  # fmt: skip
        may_go_on.set()
        receipt = await erasing
        assert receipt["events"] == 400 - len(without(events[:400], ERIN))
        await assert_truth(client, without(events, ERIN))
        await assert_rollups_match(store)
        assert await execute("SHOW TABLES LIKE '%remov%'") == []


@pytest.mark.parametrize("engine", ["server"])
async def test_instances_know_whom_another_has_erased(settings: Settings) -> None:
    events = viewing(random.Random(12), 400)
    some, rest = events[:200], events[200:]
    async with running(settings) as (app, client), running(settings) as (_, other):
        await send(client, some)
        erasing = asyncio.create_task(erase(client, ERIN))
        for start in range(0, 200, 10):
            await send(other, rest[start : start + 10])
        await erasing
        # What the other one had stored before is removed, what came later was refused.
        await assert_truth(other, without(events, ERIN))
        await assert_truth(client, without(events, ERIN))
        receipt = await send(other, events)
        assert (receipt["stored"], receipt["duplicates"]) == (0, len(without(events, ERIN)))
        assert_problem(
            await other.post(f"{PREFIX}/events", json=events[0] | {"user_id": ERIN}),
            422,
            "erased_user",
        )
        await assert_rollups_match(app.state.store)


@pytest.mark.parametrize("engine", ["embedded"])
async def test_what_cannot_be_counted_again_stays_but_for_the_users_own(settings: Settings) -> None:
    """Rollups may be kept longer than the events that they were made of."""
    events = viewing(random.Random(13), 600)
    async with running(settings) as (_, client):
        await send(client, events)
    async with running(settings.model_copy(update={"event_retention_days": 20})) as (app, client):
        await app.state.store.execute("OPTIMIZE TABLE viewing_events FINAL")
        [row] = await app.state.store.execute("SELECT count() AS n FROM viewing_events")
        assert 100 < row["n"] < 300
        before = (await client.get(f"{PREFIX}/trends?days=90")).json()["items"]
        for user, mode in ((ERIN, "erase"), (ANN, "anonymise")):
            await erase(client, user, mode)
            answer = await client.get(f"{PREFIX}/user/{user}/stats?days=90")
            assert (answer.json()["movies_started"], answer.json()["unique_movies_watched"]) == (
                0,
                0,
            )
        after = (await client.get(f"{PREFIX}/trends?days=90")).json()["items"]
        truth = Truth(without(events, ERIN), NOW).trends(90, "UTC")["items"]
        assert after[:69] == before[:69]
        assert after[70:] == truth[70:]
        [row] = await app.state.store.execute(
            f"SELECT count() AS n FROM user_stats WHERE user_id IN ('{ERIN}', '{ANN}')"
        )
        assert row["n"] == 0
        otto = (await client.get(f"{PREFIX}/user/{OTTO}/stats?days=90")).json()
        stats = Truth(events, NOW).user_stats(OTTO, 90, "UTC")
        assert otto["movies_started"] == stats["movies_started"]


async def blocks_of_many_days(store: ClickHouseClient) -> dict[tuple[Any, ...], int]:
    """How many users each block of the audience has that is about more than one day."""
    rows = await store.execute(
        "SELECT minutes, days, begin, uniqCombined64Merge(17)(audience.users) AS users"
        " FROM audience WHERE days > 1 GROUP BY ALL"
    )
    return {(row["minutes"], row["days"], row["begin"]): row["users"] for row in rows}


@pytest.mark.parametrize("engine", ["embedded"])
async def test_a_removal_that_is_finished_late_leaves_what_became_too_old_meanwhile(
    settings: Settings,
) -> None:
    events = viewing(random.Random(13), 600)
    async with running(settings) as (app, client):
        await send(client, events)
        store, tombstones = app.state.store, app.state.writer.tombstones
        before = await blocks_of_many_days(store)
        # Asked for when all events were there, and not carried out.
        await begin_removal(
            store, tombstones, UUID(ERIN), anonymise=False,
            oldest=NOW - timedelta(days=365), fence=None,
        )  # fmt: skip
    # As days later: the events are gone by the time that the next start finishes it.
    async with opened_store(settings.clickhouse_path) as store:
        await store.execute(
            "ALTER TABLE viewing_events DELETE WHERE event_time < now() - INTERVAL 20 DAY"
            " SETTINGS mutations_sync = 1"
        )
    async with running(settings.model_copy(update={"event_retention_days": 20})) as (app, _):
        after = await blocks_of_many_days(app.state.store)
        # All others are in them still.
        assert [one for one, users in before.items() if after.get(one, 0) < users - 1] == []
        assert await app.state.store.execute("SHOW TABLES LIKE '%remov%'") == []
