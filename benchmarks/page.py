"""How fast the page is: from an event to its pixel, to the first figures, and with many listeners.

    python -m benchmarks.page [--rounds N]

An event is on the way from its acknowledgement until the browser (Chromium) has drawn another
number of today's views. First figures: from opening the page in a browser that knows nothing
of it yet until views and viewers of 28 days, the trend and the popular films are there. Listeners
are WebSockets, all connected from one process. The store has BENCH_EVENTS events (default
1,000,000). There is no rival: what is measured has a target.
"""

import asyncio
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import httpx
from playwright.sync_api import Browser, expect, sync_playwright
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.dataset import kept_stores
from benchmarks.harness import Measured, standalone
from tests.support.answers import PREFIX
from tests.support.process import Service, running_service

EVENTS = int(os.environ.get("BENCH_EVENTS", "1_000_000"))
EVENTS_SEEN = 40
LISTENERS = 1_000
EVENTS_TOLD = 10

# Resolves with the time at which the frame that shows another number has been made.
_WATCH = """
() => {
  const views = () =>
    Number(document.querySelector('[data-figure="today.total_views"]').dataset.value);
  const before = views();
  window.drawn = new Promise((resolve) => {
    const seen = new MutationObserver(() => {
      if (views() === before) return;
      seen.disconnect();
      requestAnimationFrame(() => setTimeout(() => resolve(Date.now())));
    });
    seen.observe(document.querySelector('.now'), { subtree: true, childList: true });
  });
}
"""
_FIRST = """
() => new Promise((resolve) => {
  const there = () =>
    document.querySelector('[data-figure="total_views"]') &&
    document.querySelector('.list tbody tr') && document.querySelector('canvas[style]');
  const look = () => there() ? resolve(performance.now()) : requestAnimationFrame(look);
  look();
})
"""


def an_event() -> dict[str, str]:
    return {"user_id": str(uuid4()), "movie_id": str(uuid4()), "event_type": "start"}


def to_pixel(browser: Browser, url: str) -> list[float]:
    """Seconds from the acknowledgement of each of some events to what shows it."""
    page = browser.new_page()
    page.goto(url)
    expect(page.locator("#status")).to_have_text("Live")
    took = []
    with httpx.Client(base_url=url) as client:
        for _ in range(EVENTS_SEEN):
            time.sleep(random.uniform(0.2, 1.5))
            page.evaluate(_WATCH)
            client.post(f"{PREFIX}/events", json=an_event()).raise_for_status()
            stored = time.time()
            took.append(page.evaluate("window.drawn") / 1000 - stored)
    page.close()
    return took


def to_first_figures(browser: Browser, url: str) -> float:
    """Seconds."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{url}/?days=28&tz=UTC", wait_until="commit")
    took: float = page.evaluate(_FIRST) / 1000
    context.close()
    return took


async def to_listeners(service: Service) -> list[float]:
    """Seconds from the acknowledgement of events to each of the listeners."""
    address = f"ws://127.0.0.1:{service.port}{PREFIX}/live"
    connections: list[ClientConnection] = []
    for _ in range(LISTENERS // 50):
        some = (connect(address, ping_interval=None, compression=None) for _ in range(50))
        connections += await asyncio.gather(*some)
    views = max(await asyncio.gather(*(_views(one) for one in connections)))
    took = []
    async with httpx.AsyncClient(base_url=service.url) as client:
        for number in range(1, EVENTS_TOLD + 1):
            await asyncio.sleep(random.uniform(0.2, 1.5))
            (await client.post(f"{PREFIX}/events", json=an_event())).raise_for_status()
            stored = time.perf_counter()
            news = (_told(one, views + number, stored) for one in connections)
            took += await asyncio.gather(*news)
    await asyncio.gather(*(one.close() for one in connections))
    return took


async def _told(connection: ClientConnection, views: int, since: float) -> float:
    while await _views(connection) < views:
        pass
    return time.perf_counter() - since


async def _views(connection: ClientConnection) -> int:
    """The views of today in the next message."""
    views: int = json.loads(await connection.recv())["today"]["total_views"]
    return views


def _percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


def measure(rounds: int) -> list[Measured]:
    chromium = shutil.which("chromium")
    assert chromium is not None, "chromium is needed"
    with (
        kept_stores(EVENTS) as [kept],
        tempfile.TemporaryDirectory() as scratch,
        running_service(
            Path(shutil.copytree(kept, Path(scratch) / "store", symlinks=True))
        ) as service,
    ):
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            first = [to_first_figures(browser, service.url) for _ in range(max(rounds, 3))]
            pixels = to_pixel(browser, service.url)
            browser.close()
        told = asyncio.run(to_listeners(service))
    return [
        _row(
            f"First figures of 28 days, {EVENTS / 1e6:g} M events",
            f"{statistics.median(first):.2f} s (the first time {first[0]:.2f} s)",
            "≤ 1 s",
            statistics.median(first) <= 1,
        ),
        _row(
            "From an event's acknowledgement to its pixel",
            f"p50 {_percentile(pixels, 50):.2f} s, p95 {_percentile(pixels, 95):.2f} s",
            "p95 ≤ 2 s",
            _percentile(pixels, 95) <= 2,
        ),
        _row(
            f"The same to each of {LISTENERS:,} listeners",
            f"p50 {_percentile(told, 50):.2f} s, p95 {_percentile(told, 95):.2f} s",
            "p95 ≤ 2 s",
            _percentile(told, 95) <= 2,
        ),
    ]


def _row(work: str, ours: str, target: str, met: bool) -> Measured:
    return Measured(work, ours, "", "", None, None, target, met)


if __name__ == "__main__":
    standalone(__doc__, measure)
