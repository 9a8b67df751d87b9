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
