"""Who watches at this moment, and how many watched at a time."""

from datetime import UTC, datetime

from app.schemas.live import Concurrency, Minutes, Now, WatchedFilm
from app.services.analytics_service import AnalyticsService

WATCHING_SECONDS = 120
"""A session is under way for so long after its last event, unless that is a finish."""


async def watched_now(service: AnalyticsService, second: int) -> Now:
    """The sessions that are under way at a moment, in seconds since 1970 UTC, and their films.

    Events that are ahead of the clock count at once: their sender's clock is, not the viewer.
    """
    rows = await service.ask("now", {"since": second - WATCHING_SECONDS})
    titles = await service.movies.titles(row["movie_id"] for row in rows)
    return Now(
        as_of=datetime.fromtimestamp(second, UTC),
        sessions=sum(row["sessions"] for row in rows),
        viewers=rows[0]["all_viewers"] if rows else 0,
        movies=[
            WatchedFilm(
                movie_id=row["movie_id"],
                title=titles[row["movie_id"]],
                sessions=row["sessions"],
                viewers=row["viewers"],
            )
            for row in rows
        ],
    )


async def concurrency(
    service: AnalyticsService, second: int, hours: int, bucket_minutes: int
) -> Concurrency:
    """Sessions at a time in the last hours: whole buckets, the last of which holds the moment."""
    length = bucket_minutes * 60
    end = second // length * length + length
    start = end - hours * 3600
    rows = await service.ask("concurrency", {"start": start, "end": end, "bucket_seconds": length})
    most = {row["bucket"]: row["most"] for row in rows}
    items = [
        Minutes(time=datetime.fromtimestamp(bucket, UTC), sessions=most.get(bucket, 0))
        for bucket in range(start, end, length)
    ]
    return Concurrency(
        hours=hours,
        bucket_minutes=bucket_minutes,
        period_start=datetime.fromtimestamp(start, UTC),
        period_end=datetime.fromtimestamp(end, UTC),
        items=items,
        total_items=len(items),
    )
