"""How far a service is with what it reads from Kafka, and what it kept of it."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx

from app.core.clickhouse_client import ClickHouseClient
from tests.support.answers import PREFIX

Json = dict[str, Any]


async def ingestion(client: httpx.AsyncClient) -> Json:
    """The answer of /ingestion; what it must always hold is asserted."""
    answer = await client.get(f"{PREFIX}/ingestion")
    assert answer.status_code == 200, answer.text
    report: Json = answer.json()
    for door in (report["http"], report["kafka"]):
        settled = door["stored"] + door["duplicates"] + door["rejected"]
        assert door["received"] == settled + door["in_flight"]
        assert door["rejected"] == sum(door["rejections"].values())
        assert min(value for value in door.values() if isinstance(value, int)) >= 0
    return report


async def report_when(
    client: httpx.AsyncClient,
    condition: Callable[[Json], bool],
    seconds: float = 60,
    every: float = 0.02,
) -> Json:
    """The first report of which the condition holds, asked for every so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        report = await ingestion(client)
        if condition(report):
            return report
        assert time.monotonic() < deadline, report
        await asyncio.sleep(every)


async def caught_up(
    client: httpx.AsyncClient, sent: int, seconds: float = 60, every: float = 0.02
) -> Json:
    """The report once so many messages are in the topics and all of them are taken in."""

    def all_is_in(report: Json) -> bool:
        kafka = report["kafka"]
        there = sum(one["end_offset"] for one in kafka["partitions"])
        return bool(there >= sent and kafka["lag"] == 0 and kafka["in_flight"] == 0)

    return await report_when(client, all_is_in, seconds, every)


async def rejected_rows(
    store: ClickHouseClient, *, merged: bool = False
) -> list[tuple[str, int, int, str, bytes]]:
    """All rows of rejected_events, without the repeats being merged unless that is asked for."""
    rows = await store.execute(
        "SELECT topic, `partition`, `offset`, reason, hex(payload) AS payload"
        f" FROM rejected_events {'FINAL' if merged else ''} ORDER BY topic, `partition`, `offset`"
    )
    return [
        (
            row["topic"],
            row["partition"],
            row["offset"],
            row["reason"],
            bytes.fromhex(row["payload"]),
        )
        for row in rows
    ]
