"""What the entry points have in common: settings, log, event loop, and last words."""

import sys
from collections.abc import Callable, Coroutine

import uvloop

from app.core.config import Settings, load_settings
from app.core.errors import AnalyticsError
from app.core.logging import configure_logging


def run(serve: Callable[[Settings], Coroutine[None, None, None]]) -> int:
    """Run until it ends. Returns the exit code; when the start fails, one line says why."""
    try:
        settings = load_settings()
        configure_logging(settings.log_level)
        uvloop.run(serve(settings))
    except AnalyticsError as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return 1
    return 0
