"""Whether the rollups say what the events say. Read apart and compared in plain Python."""

from collections import defaultdict
from datetime import datetime
from typing import Any

from app.core.clickhouse_client import ClickHouseClient

BLOCKS = [(minutes, days) for minutes in (15, 60) for days in (1, 4, 16, 64)]
BLOCKS += [(240, 1), (1440, 1)]
COUNTS = ("starts", "finishes", "events")


async def assert_rollups_match(store: ClickHouseClient) -> None:
    """Every key of every rollup: counts to the digit, uniques to the digit (they are few here)."""
    events = await store.execute(
        "SELECT user_id, movie_id, toString(event_type) AS kind, toString(event_time) AS time"
        " FROM viewing_events"
    )
    day = "toString(event_date)"
    await _assert_same(store, events, "popular_content", [day, "movie_id"], {"viewers": "user_id"})
    await _assert_same(store, events, "user_stats", [day, "user_id"], {"movies": "movie_id"})
    await _assert_same(
        store,
        events,
        "traffic",
        ["toString(quarter)"],
        {},
    )
    await _assert_same_audience(store, events)


async def _assert_same(
    store: ClickHouseClient,
    events: list[dict[str, Any]],
    table: str,
    keys: list[str],
    uniques: dict[str, str],
) -> None:
    groups = defaultdict(list)
    for event in events:
        groups[tuple(_key(event, key) for key in keys)].append(event)
    expected = {
        key: (
            sum(e["kind"] == "start" for e in group),
            sum(e["kind"] == "finish" for e in group),
            len(group),
            *(len({e[of] for e in group}) for of in uniques.values()),
        )
        for key, group in groups.items()
    }
    columns = [f"sum({c}) AS {c}_sum" for c in COUNTS]
    columns += [f"uniqMerge({state}) AS {state}_n" for state in uniques]
    rows = await store.execute(
        f"SELECT [{', '.join(f'toString({key})' for key in keys)}] AS key, {', '.join(columns)}"
        f" FROM {table} GROUP BY {', '.join(keys)}"
    )
    assert {tuple(row.pop("key")): tuple(row.values()) for row in rows} == expected, table


async def _assert_same_audience(store: ClickHouseClient, events: list[dict[str, Any]]) -> None:
    users, movies = defaultdict(set), defaultdict(set)
    places = await _places(store)
    for event in events:
        time = int(datetime.fromisoformat(event["time"] + "+00:00").timestamp())
        for minutes, days in BLOCKS:
            span, length = days * 86_400, minutes * 60
            block = (minutes, days, time // span * span + time % 86_400 // length * length)
            users[block].add(event["user_id"])
            movies[block].add(event["movie_id"])
    rows = await store.execute(
        "SELECT minutes, days, toUnixTimestamp(begin) AS begin,"
        " uniqCombined64Merge(17)(audience.users) AS users,"
        " uniqCombined64Merge(17)(audience.movies) AS movies,"
        " arraySort(bitmapToArray(groupBitmapMergeState(audience.user_places))) AS user_places,"
        " arraySort(bitmapToArray(groupBitmapMergeState(audience.movie_places))) AS movie_places"
        " FROM audience GROUP BY minutes, days, begin"
    )
    found = {tuple(row.values())[:3]: tuple(row.values())[3:] for row in rows}
    expected = {}
    for block in users:
        ids = (users[block], movies[block])
        taken = (sorted({places[one] for one in of}) for of in ids)
        expected[block] = (*map(len, ids), *taken)
    assert found == expected


async def _places(store: ClickHouseClient) -> dict[int, int]:
    """Where the hash of each id in the store puts it; two of a thousand may share a place."""
    rows = await store.execute(
        "SELECT DISTINCT arrayJoin([user_id, movie_id]) AS id, cityHash64(id) % 1048576 AS place"
        " FROM viewing_events"
    )
    return {row["id"]: row["place"] for row in rows}


def _key(event: dict[str, Any], key: str) -> str:
    if key == "toString(event_date)":
        return str(event["time"])[:10]
    if key == "toString(quarter)":
        time = datetime.fromisoformat(event["time"])
        return str(time.replace(minute=time.minute // 15 * 15, second=0))
    return str(event[key])
