"""Every error that can reach a client has a status."""

from collections.abc import Iterator

from app.api.errors import STATUS
from app.core.errors import AnalyticsError, ConfigurationError


def subclasses(of: type[AnalyticsError]) -> Iterator[type[AnalyticsError]]:
    for one in of.__subclasses__():
        yield one
        yield from subclasses(one)


def test_every_error_but_that_of_the_start_has_a_status() -> None:
    """Each class for itself: the status of an error is looked up by its very class."""
    ours = {one for one in subclasses(AnalyticsError) if one.__module__.startswith("app.")}
    assert ConfigurationError in ours
    assert set(STATUS) == ours - {ConfigurationError}


def test_every_status_is_an_error() -> None:
    assert [status for status in STATUS.values() if not 400 <= status < 600] == []
