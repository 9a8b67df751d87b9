"""Takes the pictures of the page: `make screenshots`.

Of a service of its own, with made-up viewing of four weeks and of this moment, always the same but
for its dates.
"""

import math
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import httpx
from playwright.sync_api import FloatRect, Page, expect, sync_playwright

from tests.support.answers import PREFIX
from tests.support.process import ROOT, running_service

SPACE = UUID("c5a1f7c0-6e0f-4d0b-9d64-2a4f0f5b7a11")
FILMS = (
    "Metropolis", "The General", "Nosferatu", "City Lights", "Modern Times", "Sunrise",
    "Safety Last!", "The Kid", "Sherlock Jr.", "The Gold Rush", "Faust",
    "The Cabinet of Dr. Caligari", "Häxan",
    "The Lost World", "Battleship Potemkin", "A Trip to the Moon", "The Phantom of the Opera",
    "Man with a Movie Camera", "Pandora’s Box", "The Passion of Joan of Arc", "Intolerance",
    "Greed",
)  # fmt: skip
DAYS = 56
BATCH = 5_000


def named(kind: str, number: int) -> str:
    return str(uuid5(SPACE, f"{kind} {number}"))


WIDE = {"viewport": {"width": 1000, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}}
PARTS = {
    "page-light": (".top", '[aria-label="Popular films"].panel'),
    "page-dark": (".controls", '[aria-label="When people watch"].panel'),
}
PICTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "page-light": ("/", {**WIDE, "color_scheme": "light"}),
    "page-dark": ("/", {**WIDE, "color_scheme": "dark"}),
    "page-phone": ("/", {**PHONE, "color_scheme": "light"}),
    "page-of-a-film": (f"/films/{named('film', 0)}", {**WIDE, "color_scheme": "light"}),
}

MARGIN = 24


def length(film: int) -> int:
    return 4_200 + 3_600 * (film * 7 % len(FILMS)) // len(FILMS)


def viewing(now: datetime) -> Iterator[dict[str, Any]]:
    dice = random.Random(11)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    number = 0
    for back in range(DAYS, -1, -1):
        day = midnight - timedelta(days=back)
        busy = 150 + 70 * (day.weekday() >= 4) + 40 * math.sin(back / 6) - back
        for _ in range(int(busy + dice.uniform(-20, 20))):
            hour = dice.gauss(18.4, 3 if day.weekday() < 5 else 4.6) % 24
            number += 1
            yield from sitting(dice, number, day + timedelta(hours=hour), now)
    for _ in range(30):
        number += 1
        began = now - timedelta(seconds=dice.randint(60, 4_000))
        yield from sitting(dice, number, began, now, stays=True)


def sitting(
    dice: random.Random, number: int, began: datetime, now: datetime, *, stays: bool = False
) -> Iterator[dict[str, Any]]:
    film = min(int(dice.expovariate(0.22)), len(FILMS) - 1)
    end = length(film)
    watched = end if stays or dice.random() < 0.62 else int(end * dice.random() ** 1.4)
    about = {
        "user_id": named("viewer", int(dice.triangular(0, 3_000, 200))),
        "movie_id": named("film", film),
        "session_id": named("session", number),
    }
    again = dice.random() < 0.3
    position = second = 0
    step = 0
    while True:
        moment = began + timedelta(seconds=second)
        done = position >= watched and not stays
        if moment > now or (done and watched < end):
            return
        kind = "start" if step == 0 else "finish" if done else "progress"
        yield {
            **about,
            "event_id": named("event", number * 1_000 + step),
            "event_type": kind,
            "position_seconds": position,
            "timestamp": moment.isoformat(),
        }
        if done:
            return
        step += 1
        second += 60 if stays else 240
        position = min(position + (60 if stays else 240), end if stays else watched)
        if again and position > end // 2:  # the same scene once more
            again = False
            position -= 480


def part(page: Page, name: str) -> FloatRect:
    """What of the page a picture shows: a file should not be large."""
    first, last = PARTS.get(name, (".top", "main > section:last-child"))
    top, bottom = page.locator(first).bounding_box(), page.locator(last).bounding_box()
    size = page.viewport_size
    assert top is not None
    assert bottom is not None
    assert size is not None
    begin = max(0, top["y"] - MARGIN)
    end = bottom["y"] + bottom["height"] + MARGIN
    return {"x": 0, "y": begin, "width": size["width"], "height": end - begin}


def take(url: str, folder: Path, chromium: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-lcd-text"]
        )
        for name, (path, options) in PICTURES.items():
            page = browser.new_page(**options, reduced_motion="reduce", timezone_id="Europe/Berlin")
            page.goto(f"{url}{path}?days=28")
            expect(page.locator('[aria-busy="true"]')).to_have_count(0, timeout=30_000)
            expect(page.locator("#status")).to_have_text("Live")
            page.screenshot(path=folder / f"{name}.png", full_page=True, clip=part(page, name))
        browser.close()


def main() -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("chromium is needed; on Debian: apt install chromium")
    with (
        tempfile.TemporaryDirectory() as scratch,
        running_service(Path(scratch) / "store") as service,
        httpx.Client(base_url=f"{service.url}{PREFIX}", timeout=60) as client,
    ):
        films = [
            {"movie_id": named("film", number), "title": title, "duration_seconds": length(number)}
            for number, title in enumerate(FILMS)
        ]
        client.put("/catalog/movies", json=films).raise_for_status()
        events = viewing(datetime.now(UTC).replace(microsecond=0))
        while batch := list(islice(events, BATCH)):
            client.post("/events/batch", json=batch).raise_for_status()
        take(service.url, ROOT / "docs", chromium)


if __name__ == "__main__":
    main()
