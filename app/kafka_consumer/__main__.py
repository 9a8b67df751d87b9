"""The Kafka consumer as a process of its own: `python -m app.kafka_consumer`.

For a deployment with a ClickHouse server. It takes in Kafka's messages as the service does with
ENABLE_KAFKA, and answers no requests.
"""

import asyncio
import logging
import signal
import sys
from datetime import UTC, datetime

from app.core.config import Settings
from app.core.entry import run, run_loop
from app.ingest.writer import opened_writer
from app.kafka_consumer.consumer import KafkaConsumer

logger = logging.getLogger(__name__)


def _now() -> datetime:
    return datetime.now(UTC)


async def consume(settings: Settings) -> None:
    """Take in messages until SIGTERM or SIGINT; then finish the batch, and let go of everything.

    Raises:
        AnalyticsError: the start failed; the text says what to change.
    """
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with opened_writer(settings, _now) as (store, writer):
        consumer = KafkaConsumer(settings, store, writer, _now)
        consumer.start()
        try:
            await stopped.wait()
        finally:
            await consumer.close()
            logger.info("stopped: %s", consumer.tally.counts())


if __name__ == "__main__":
    sys.exit(run(lambda settings: run_loop(consume(settings))))
