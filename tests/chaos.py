"""A replay of MovieLens ratings through a real Apache Kafka into a service that is killed.

    python -m tests.chaos ratings.csv --kills 50 --broker-restarts 3
    python -m tests.chaos ratings.csv --kills 50 --instances 3 --server-kills 5

With 5 % repeats and 1 % garbage mixed in, and some of the events by HTTP as well. Several instances
share a ClickHouse server (tests/support/native_server.py), which is killed too. Afterwards every
answer about films, days and hours, and those about all users, in three time zones, is held against
plain Python, and `rejected_events` against the garbage. It needs Java 17 and Maven, takes some
minutes, and prints what was killed how often and how fast it went. `make chaos` runs it.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import msgspec

import test_events as sample
from app.core.config import Settings
from tests.conftest import PASSWORD, opened
from tests.support.answers import assert_answers
from tests.support.brokers import Message, RealKafka, real_kafka
from tests.support.consistency import assert_rollups_match
from tests.support.ingestion import caught_up, ingestion, rejected_rows, report_when
from tests.support.kills import Batch, post
from tests.support.native_server import NativeServer, native_server
from tests.support.oracle import Truth
from tests.support.process import Service, running_service

DAYS = 90
ZONES = ("UTC", "Asia/Kathmandu", "Pacific/Apia")
HTTP_EVENTS = 200  # sent by HTTP as well, after each kill
AHEAD = 5  # pieces that wait, so that each kill comes in the middle of reading


def as_json(event: sample.Event) -> dict[str, Any]:
    sent: dict[str, Any] = msgspec.to_builtins(event)
    return sent


def as_message(event: dict[str, Any]) -> Message:
    topic, action = sample.KAFKA[sample.Kind(event["event_type"])]
    value = {key: value for key, value in event.items() if key != "event_type"}
    value["action"] = action
    return Message(topic, msgspec.json.encode(value), event["user_id"].encode())


class Feed(threading.Thread):
    """Sends the pieces, each when it is let go."""

    def __init__(self, kafka: RealKafka, pieces: list[list[Message]]) -> None:
        super().__init__(daemon=True)
        self._kafka = kafka
        self._pieces = pieces
        self._gate = threading.Semaphore(0)
        self.failed: BaseException | None = None

    def run(self) -> None:
        try:
            for piece in self._pieces:
                self._gate.acquire()
                self._kafka.send(piece)
        except BaseException as error:
            self.failed = error

    def let_go(self, pieces: int = 1) -> None:
        self._gate.release(pieces)


def mixed(dice: random.Random, events: list[dict[str, Any]]) -> tuple[list[Message], list[Message]]:
    """The events in order, with repeats at random later places and garbage; and the garbage."""
    garbage = [
        Message(dice.choice([topic for topic, _ in sample.KAFKA.values()]), dice.randbytes(64))
        for _ in range(len(events) // 100)
    ]
    placed = [(float(place), as_message(event)) for place, event in enumerate(events)]
    placed += [
        (dice.uniform(place, len(events)), as_message(events[place]))
        for place in dice.sample(range(len(events)), len(events) // 20)
    ]
    placed += [(dice.uniform(0, len(events)), one) for one in garbage]
    placed.sort(key=lambda one: one[0])
    return [message for _, message in placed], garbage


async def wait_for_reading(client: httpx.AsyncClient) -> None:
    await report_when(client, lambda report: bool(report["kafka"]["received"]))


def post_until_taken(dice: random.Random, services: list[Service], batch: Batch) -> None:
    """By whichever instance has its server."""
    deadline = time.monotonic() + 60
    while True:
        try:
            post(dice.choice(services).url, batch)
        except (httpx.TransportError, AssertionError):
            if len(services) == 1 or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def spread(times: int, over: int) -> set[int]:
    """At which of so many kills something else happens so many times."""
    return {over * (n + 1) // (times + 1) for n in range(times)}


async def disturb(
    services: list[Service],
    kafka: RealKafka,
    server: NativeServer | None,
    feed: Feed,
    dice: random.Random,
    events: list[dict[str, Any]],
    flags: argparse.Namespace,
) -> int:
    """Kill instances, brokers and server in between. Returns the most lag that was seen."""
    restart_at = sorted(spread(flags.broker_restarts, flags.kills))
    server_kills = spread(flags.server_kills, flags.kills - 1) if server else set()
    most_lag = 0
    feed.let_go(AHEAD)
    for number in range(1, flags.kills + 1):
        feed.let_go()
        service = dice.choice(services)
        async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:
            if number in restart_at:
                end = kafka.stop if restart_at.index(number) % 2 else kafka.kill
                await asyncio.to_thread(end)
                await asyncio.sleep(dice.uniform(0, 5))
                await asyncio.to_thread(kafka.start)
            if server is not None and number in server_kills:
                await asyncio.to_thread(server.kill)
                await asyncio.sleep(dice.uniform(0, 2))
                await asyncio.to_thread(server.start)
            sample_of_all = dice.sample(events, HTTP_EVENTS)
            await asyncio.to_thread(post_until_taken, dice, services, sample_of_all)
            if len(services) == 1:  # another may have all the partitions
                await wait_for_reading(client)
            await asyncio.sleep(dice.uniform(0, 0.8))  # the instant of the kill
            report = await ingestion(client)
            most_lag = max(most_lag, report["kafka"]["lag"] or 0)
        service.kill()
        await asyncio.to_thread(service.start)
        print(f"kill {number}: lag {report['kafka']['lag']}", file=sys.stderr)
    return most_lag


def peak_memory(service: Service) -> int:
    """The most that was resident since it was last started, in KiB."""
    status = Path(f"/proc/{service.pid}/status").read_text()
    [peak] = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return int(peak)


async def check(
    services: list[Service],
    server: NativeServer | None,
    events: Iterable[dict[str, Any]],
    garbage: list[Message],
) -> int:
    """Hold everything against plain Python. Returns how many answers there were."""
    service = services[-1]
    now = datetime.now(UTC)
    truth = Truth(events, now)
    by_user: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        by_user[event["user_id"]].append(event)
    answers = 0
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
        for tz in ZONES:
            for days in (1, 30, DAYS):
                await assert_answers(client, truth, [], days, tz)
                answers += 4
            for user, theirs in by_user.items():
                path = f"/api/v1/analytics/user/{user}/stats?days={DAYS}&tz={tz}"
                answer = (await client.get(path)).json()
                assert answer == Truth(theirs, now).user_stats(user, DAYS, tz), path
                answers += 1
    for service in services:
        service.kill()
    place = server.settings if server else {"clickhouse_path": service.store}
    async with opened(Settings(_env_file=None, **place)) as store:
        [row] = await store.execute("SELECT count() AS n, uniqExact(id) AS ids FROM viewing_events")
        assert row["n"] == row["ids"] == len(truth.events), row
        await assert_rollups_match(store)
        merged = server is not None
        kept = sorted(payload for *_, payload in await rejected_rows(store, merged=merged))
        assert kept == sorted(one.value or b"" for one in garbage)
    return answers


async def run(flags: argparse.Namespace, folder: Path) -> None:
    dice = random.Random(flags.seed)
    now = int(time.time())
    plan = sample.replay_plan(
        sample.read_ratings(flags.ratings), squeeze=DAYS, seed=flags.seed, now=now
    )
    replayed = sample.happened(sample.in_order(plan.sessions), now, sample.Totals())
    events = [as_json(event) for event in islice(replayed, flags.events)]
    messages, garbage = mixed(dice, events)
    # A fifth waits until the last kill: how fast is it taken in?
    pieces = AHEAD + flags.kills + flags.kills // 5 if flags.kills else 1
    size = -(-len(messages) // pieces)
    with real_kafka(folder / "kafka") as kafka, ExitStack() as stack:
        server = None
        environment = kafka.environment
        if flags.instances > 1 or flags.server_kills:
            server = stack.enter_context(native_server(folder / "server", PASSWORD))
            environment |= server.environment
        services = [
            stack.enter_context(running_service(folder / f"service-{n}", **environment))
            for n in range(flags.instances)
        ]
        service = services[0]
        feed = Feed(kafka, [messages[n : n + size] for n in range(0, len(messages), size)])
        feed.start()
        if flags.kills:
            most_lag = await disturb(services, kafka, server, feed, dice, events, flags)
        else:  # all of it waits when the service begins to read
            for one in services:
                one.kill()
            feed.let_go()
            await asyncio.to_thread(feed.join)
            most_lag = len(messages)
            for one in services:
                one.start()
        feed.let_go(pieces)
        async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:
            if not flags.kills:
                await wait_for_reading(client)
            began = time.monotonic()
            waiting = (await ingestion(client))["kafka"]["lag"]
            await asyncio.to_thread(feed.join)
            assert feed.failed is None, feed.failed
            await caught_up(client, len(messages), seconds=600, every=0.5)
            seconds = time.monotonic() - began
        peak = max(peak_memory(one) for one in services)
        answers = await check(services, server, events, garbage)
    print(f"events {len(events):,}, messages {len(messages):,}, garbage {len(garbage):,}")
    print(
        f"instances {flags.instances}, kills of one of them {flags.kills}, "
        f"restarts of the broker {flags.broker_restarts}, kills of the server {flags.server_kills}"
    )
    print(f"most lag seen {most_lag:,}; at the end {waiting:,} waited, taken in in {seconds:.1f} s")
    print(f"that is {waiting / seconds:,.0f} messages a second; peak memory {peak // 1024} MiB")
    print(f"{answers:,} answers compared with plain Python: all equal; rejected_events: exact")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("ratings", type=Path, help="a MovieLens ratings.csv")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--broker-restarts", type=int, default=3)
    parser.add_argument("--instances", type=int, default=1, help="that share a ClickHouse server")
    parser.add_argument("--server-kills", type=int, default=0)
    parser.add_argument("--events", type=int, help="only so many of the events")
    parser.add_argument("--seed", type=int, default=1)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(flags, Path(folder)))


if __name__ == "__main__":
    main()
