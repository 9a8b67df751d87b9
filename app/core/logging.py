"""Logging, configured once by the entry points."""

import logging
import time

# What these say again and again while Kafka or the store is away, or a client sends what is no
# HTTP, is said once a minute.
_REPETITIVE = ("aiokafka", "app.ingest.writer", "app.kafka_consumer", "uvicorn")
_MINUTE = 60.0


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


def configure_logging(level: str) -> None:
    """Log to stderr, one line a message, times in UTC."""
    handler = logging.StreamHandler()
    formatter = logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    handler.addFilter(_OncePerMinute())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Their own account of starting and stopping repeats ours.
    for library in ("uvicorn", "aiokafka"):
        logging.getLogger(library).setLevel(max(logging.getLogger().level, logging.WARNING))
    # It raises what it warns of, or connects again.
    logging.getLogger("clickhouse_driver").setLevel(logging.ERROR)
