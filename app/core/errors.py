"""The errors that the service raises on purpose. What a client gets for each: app/api/errors.py."""


class AnalyticsError(Exception):
    """Base of them all. The text is one plain sentence that may be shown to a client."""


class ConfigurationError(AnalyticsError):
    """A setting cannot work. Raised before anything is served; the text says what to change."""


class StoreUnavailableError(AnalyticsError):
    """The store could not answer now, and may later: unreachable, full, overloaded, closing.

    Nothing that was asked for has been acknowledged; the same request may be sent again.
    """


class StoreError(AnalyticsError):
    """The store refused a statement and always will: a fault of the service, not the request."""


class BackupRefusedError(AnalyticsError):
    """There can't be a backup the way things are set; the text says what to do instead."""


class WriteBufferFullError(AnalyticsError):
    """Too many events wait to be written. None of the request's was taken."""


class BusyError(AnalyticsError):
    """More is asked for at the same time than the service does. Nothing was done of it."""


class UnderWayError(AnalyticsError):
    """What was asked for is done for one caller at a time, and somebody is at it."""


class EventRateError(AnalyticsError):
    """A sender sends more events a second than it may. None of the request's was taken.

    Args:
        seconds: until it may send again.
    """

    def __init__(self, detail: str, seconds: int) -> None:
        super().__init__(detail)
        self.seconds = seconds


class NotOnClusterError(AnalyticsError):
    """What was asked for can't be done with CLICKHOUSE_CLUSTER."""


class MalformedBodyError(AnalyticsError):
    """The body of a request is not JSON."""


class UnexpectedBodyError(AnalyticsError):
    """The body of a request is JSON, but not of the form that the endpoint takes."""


class UnsupportedBodyError(AnalyticsError):
    """The body of a request is encoded in a way that isn't taken."""


class BodyTooLargeError(AnalyticsError):
    """The body of a request has more bytes, or more events, than one request may carry."""


class EventRejectedError(AnalyticsError):
    """A single event that cannot be stored: its reason, and its field where one is to blame."""

    def __init__(self, reason: str, detail: str, field: str | None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.field = field


class UserErasedError(AnalyticsError):
    """Events are of a user who was erased meanwhile. They have to be looked at again."""


class UnanswerableError(AnalyticsError):
    """A question that has no answer as it was asked: which parameter to ask it with otherwise."""

    def __init__(self, detail: str, parameter: str) -> None:
        super().__init__(detail)
        self.parameter = parameter
