"""What a rebuild must not leave behind."""

from app.core.clickhouse_client import ClickHouseClient


async def left_behind(store: ClickHouseClient) -> list[str]:
    rows = await store.execute(
        "SELECT name FROM system.tables WHERE database = currentDatabase()"
        " AND match(name, '^(rebuilding|swapping)_')"
    )
    return [row["name"] for row in rows]
