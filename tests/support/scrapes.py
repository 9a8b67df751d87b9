"""What a service tells Prometheus, read by Prometheus' own parser for Python."""

from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Scrape:
    """One answer of /metrics."""

    text: str

    def values(self, name: str) -> dict[Labels, float]:
        """The samples of this name, by their labels."""
        return {
            frozenset(sample.labels.items()): sample.value
            for family in text_string_to_metric_families(self.text)
            for sample in family.samples
            if sample.name == name
        }

    def value(self, name: str, **labels: str) -> float:
        """The one sample of this name and these labels. KeyError if there is none."""
        return self.values(name)[frozenset(labels.items())]

    def requests(self) -> dict[tuple[str, str, str], float]:
        """How many were answered, by method, route and status."""
        return {
            (of["method"], of["route"], of["status"]): count
            for labels, count in self.values("analytics_http_requests_total").items()
            for of in [dict(labels)]
        }


async def scrape(client: httpx.AsyncClient) -> Scrape:
    answer = await client.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return Scrape(answer.text)
