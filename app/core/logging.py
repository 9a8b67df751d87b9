"""Logging, configured once by the entry points.

No line says whose viewing it is about: ids are left out of every text, and so is what an error
quotes. What a line is about is named by the id of its request.
"""

import logging
import re
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from app.core.context import current_request
from app.core.errors import AnalyticsError

# What these say again and again while Kafka or the store is away, or a client sends what is no
# HTTP, is said once a minute.
_REPETITIVE = ("aiokafka", "app.ingest.writer", "app.kafka_consumer", "uvicorn")
_MINUTE = 60.0

_encode = msgspec.json.Encoder().encode

# Also what is left of one that was cut off.
_UUID = re.compile(r"\b(?:[0-9a-f]{8}-[0-9a-f-]+|[0-9a-f]{32}\b)", re.IGNORECASE)
# Of what an error quotes, names of tables, columns and files are safe to repeat; values are not.
_QUOTED = re.compile(r"'(?![\w./:-]*')(?:[^'\\]|\\.)*'|\"(?![\w./:-]*\")(?:[^\"\\]|\\.)*\"")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class _OncePerMinute(logging.Filter):
    """Lets a warning or error of the same line of code pass once a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING or not record.name.startswith(_REPETITIVE):
            return True
        line = (record.pathname, record.lineno)
        if record.created - self._passed.get(line, 0.0) < _MINUTE:
            return False
        self._passed[line] = record.created
        return True


def text_of(error: BaseException) -> str:
    """What an error says, without the values that it quotes.

    Of an error that is neither ours nor the system's only the class: it may say anything.
    """
    if not isinstance(error, (AnalyticsError, OSError)):
        return type(error).__name__
    return _QUOTED.sub("'…'", _without_ids(str(error))) or type(error).__name__


def _without_ids(text: str) -> str:
    return _UUID.sub("…", text)


def _message(record: logging.LogRecord) -> str:
    args = record.args
    if isinstance(args, tuple):
        args = tuple(text_of(one) if isinstance(one, BaseException) else one for one in args)
    text = str(record.msg)
    try:
        return _without_ids(text % args if args else text)
    except (TypeError, ValueError):  # a mistake in a library: logging itself would print the values
        return _without_ids(text)


def _stack(error: BaseException) -> list[str]:
    """As Python prints a traceback, but for what the errors say."""
    lines: list[str] = []
    seen: set[int] = set()
    link = "The above exception was the direct cause of the following exception:"
    chain: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        chain.append(one)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    for one in reversed(chain):
        lines += [link] if lines else []
        lines.append("Traceback (most recent call last):")
        for frame in traceback.format_tb(one.__traceback__):
            lines += frame.rstrip("\n").split("\n")
        text = text_of(one)
        name = type(one).__name__
        lines.append(name if text == name else f"{name}: {text}")
    return lines


def _error(record: logging.LogRecord) -> BaseException | None:
    return record.exc_info[1] if isinstance(record.exc_info, tuple) else None


class _FieldsRecord(logging.LogRecord):
    """Of a line that is made of values which are known to be safe, whatever a client sends."""

    def __init__(self, name: str, message: str, fields: Mapping[str, str | int | float]) -> None:
        super().__init__(name, logging.INFO, "", 0, message, None, None)
        self.fields = fields


def log_fields(
    logger: logging.Logger, message: str, fields: Mapping[str, str | int | float]
) -> None:
    """Log values by their names, as information; for what is logged for each request.

    To look for the line of code, for ids and for quotes takes longer than all the rest.
    """
    logger.handle(_FieldsRecord(logger.name, message, fields))


class _ConsoleFormatter(logging.Formatter):
    """For people: time in UTC, level, logger, the request where there is one, and the message."""

    def __init__(self) -> None:
        super().__init__()
        self._second = (0, "")

    def format(self, record: logging.LogRecord) -> str:
        request = current_request.get()
        named = ""
        if request is not None:
            trace = "" if request.trace_id is None else f" trace {request.trace_id}"
            named = f" [{request.request_id}{trace}]"
        head = f"{self._time(record)} {record.levelname} {record.name}{named}"
        if isinstance(record, _FieldsRecord):
            fields = [f"{name}={value}" for name, value in record.fields.items()]
            return f"{head}: {record.msg} {' '.join(fields)}"
        # A line is a line, whatever is in it.
        message = _CONTROL.sub(" ", _message(record))
        error = _error(record)
        return "\n".join([f"{head}: {message}", *(() if error is None else _stack(error))])

    def _time(self, record: logging.LogRecord) -> str:
        second = int(record.created)
        known, text = self._second
        if known != second:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second, text
        return f"{text}.{int(record.msecs):03d}Z"


class _JsonFormatter(logging.Formatter):
    """For programs: an object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "logger": record.name,
        }
        request = current_request.get()
        if request is not None:
            line["request_id"] = request.request_id
            if request.trace_id is not None:
                line["trace_id"] = request.trace_id
        if isinstance(record, _FieldsRecord):
            line["message"] = record.msg
            line.update(record.fields)
            return _encode(line).decode()
        line["message"] = _message(record)
        error = _error(record)
        if error is not None:
            line["error"] = type(error).__name__
            line["stack"] = "\n".join(_stack(error))
        return _encode(line).decode()


def configure_logging(level: str, form: Literal["console", "json"]) -> None:
    """Log to stderr, times in UTC; a message is one line, and in `json` its stack is in it."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter() if form == "json" else _ConsoleFormatter())
    handler.addFilter(_OncePerMinute())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Nobody reads these, and they are looked up for each line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # Their own account of starting and stopping repeats ours.
    for library in ("uvicorn", "aiokafka"):
        logging.getLogger(library).setLevel(max(logging.getLogger().level, logging.WARNING))
    # It raises what it warns of, or connects again.
    logging.getLogger("clickhouse_driver").setLevel(logging.ERROR)
