"""What Prometheus is told. An app has its own measures: two in one process share no count."""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

# When each counter was made is told by process_start_time_seconds.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

# From an answer that is kept to one that is given up.
_REQUEST_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_INSERT_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_BATCH_EVENTS = (1, 10, 100, 1_000, 10_000, 50_000, 100_000)

DoorCounts = Mapping[str, Mapping[str, Any]]
"""Of each door by its name, the fields of schemas.ingestion.DoorCounts."""


class Measures:
    """The metrics of one app.

    Args:
        version: of the service.
        engine: where the events are: `embedded` or `server`.
    """

    def __init__(self, version: str, engine: str) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "analytics_http_requests",
            "Requests that were answered, by route, method and status.",
            ("route", "method", "status"),
            registry=self._registry,
        )
        self._request_seconds = Histogram(
            "analytics_http_request_duration_seconds",
            "Time from a request's head to the end of its answer.",
            ("route", "method"),
            buckets=_REQUEST_SECONDS,
            registry=self._registry,
        )
        # Looking children up by their labels takes longer than counting.
        self._known: dict[
            tuple[str, str, int], tuple[Callable[[], None], Callable[[float], None]]
        ] = {}
        self._doors = _Doors()
        self._registry.register(self._doors)
        self._batch_events = Histogram(
            "analytics_batch_events",
            "Events in a batch that was written, repeats among them.",
            buckets=_BATCH_EVENTS,
            registry=self._registry,
        )
        self._insert_seconds = Histogram(
            "analytics_insert_duration_seconds",
            "Time that a batch took: its turn to write, the look for repeats, the insert.",
            buckets=_INSERT_SECONDS,
            registry=self._registry,
        )
        self._insert_failures = Counter(
            "analytics_insert_failures",
            "Batches that could not be stored; none of their events was acknowledged.",
            registry=self._registry,
        )
        self.buffer_events = Gauge(
            "analytics_buffer_events",
            "Events that wait to be written or are being written.",
            registry=self._registry,
        )
        self.buffer_limit_events = Gauge(
            "analytics_buffer_limit_events",
            "WRITE_BUFFER_EVENTS: past so many, events by HTTP are refused with 503.",
            registry=self._registry,
        )
        self.store_up = Gauge(
            "analytics_store_up",
            "Whether ClickHouse answers.",
            registry=self._registry,
        )
        self._kafka_up = Gauge(
            "analytics_kafka_up",
            "Whether the Kafka brokers answer; no sample where no consumer is wanted.",
            registry=self._registry,
            labelnames=("group",),
        )
        self._kafka_lag = Gauge(
            "analytics_kafka_lag_messages",
            "Messages that nobody of the group has taken in yet; no sample while it isn't known.",
            ("topic", "partition"),
            registry=self._registry,
        )
        Info(
            "analytics_build",
            "What runs.",
            registry=self._registry,
        ).info({"version": version, "python": platform.python_version(), "engine": engine})
        ProcessCollector(registry=self._registry)

    def request(self, route: str, method: str, status: int, seconds: float | None) -> None:
        """Count a request that was answered.

        Args:
            seconds: until the end of its answer; None where that says nothing.
        """
        key = (route, method, status)
        known = self._known.get(key)
        if known is None:
            known = (
                self._requests.labels(route, method, str(status)).inc,
                self._request_seconds.labels(route, method).observe,
            )
            self._known[key] = known
        count, observe = known
        count()
        if seconds is not None:
            observe(seconds)

    def flushed(self, events: int, seconds: float, failed: bool) -> None:
        """Count a batch that was written, or could not be."""
        if failed:
            self._insert_failures.inc()
        else:
            self._batch_events.observe(events)
        self._insert_seconds.observe(seconds)

    def watch_doors(self, counts: Callable[[], DoorCounts]) -> None:
        """Have the events of the doors asked for at each scrape: counting them twice costs more."""
        self._doors.counts = counts

    def kafka(self, group: str, up: bool, lag: Iterable[tuple[str, int, int]]) -> None:
        """Set what is known of Kafka.

        Args:
            lag: topic, partition, and how many messages wait there.
        """
        self._kafka_up.labels(group).set(up)
        self._kafka_lag.clear()
        for topic, partition, messages in lag:
            self._kafka_lag.labels(topic, partition).set(messages)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics, and their media type: the form that is asked for by the header `Accept`."""
        encode, media_type = choose_encoder(accept)
        return encode(self._registry), media_type

    def families(self) -> list[Metric]:
        """All metrics, as prometheus-client has them."""
        return list(self._registry.collect())


class _Doors(Collector):
    def __init__(self) -> None:
        self.counts: Callable[[], DoorCounts] = dict

    def collect(self) -> Iterator[Metric]:
        events = CounterMetricFamily(
            "analytics_events",
            "Events that came in, by door (http, kafka) and outcome (stored, duplicate, rejected).",
            labels=("door", "outcome"),
        )
        rejected = CounterMetricFamily(
            "analytics_events_rejected",
            "Events that were rejected, by door and reason.",
            labels=("door", "reason"),
        )
        for door, counts in self.counts().items():
            events.add_metric((door, "stored"), counts["stored"])
            events.add_metric((door, "duplicate"), counts["duplicates"])
            events.add_metric((door, "rejected"), counts["rejected"])
            for reason, count in counts["rejections"].items():
                rejected.add_metric((door, str(reason)), count)
        yield events
        yield rejected
