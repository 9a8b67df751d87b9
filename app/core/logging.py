"""Logging, configured once by the entry points."""

import logging
import time


def configure_logging(level: str) -> None:
    """Log to stderr, one line a message, times in UTC."""
    handler = logging.StreamHandler()
    formatter = logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # The server's own account of starting and stopping repeats ours.
    logging.getLogger("uvicorn").setLevel(max(logging.getLogger().level, logging.WARNING))
