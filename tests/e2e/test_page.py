"""The page, in a real browser: what it shows is what the API says."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid5

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, WebSocketRoute, expect, sync_playwright

from tests.support.answers import PREFIX
from tests.support.process import ROOT, Service, running_service

ZONE = "America/St_Johns"
expect.set_options(timeout=20_000)  # a machine that is busy with other tests is slow

CHROMIUM = shutil.which("chromium")
WIDE = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 740}

SPACE = UUID("0e2b2d5c-52f2-4a5f-9a5e-2f0a1c9d8b77")
FILMS = [str(uuid5(SPACE, f"film {number}")) for number in range(12)]
VIEWERS = [str(uuid5(SPACE, f"viewer {number}")) for number in range(40)]
# What a title may be made of, so that it is seen to be text and nothing else.
TITLES = ['<img src=x onerror="document.title=1">', 'Amélie, "the" film', "  Heat (1995)"]


def viewing() -> list[dict[str, Any]]:
    """Of seven weeks, until minutes ago: some films more than others, some watched to the end."""
    now = datetime.now(UTC).replace(microsecond=0)
    events = []
    for number in range(400):
        began = now - timedelta(minutes=10 + number * number * 72_000 // 160_000)
        film, viewer = FILMS[number % 13 % 12], VIEWERS[number * 7 % 40]
        session = str(uuid5(SPACE, f"session {number}"))
        steps = ["start", "progress", "progress", "finish" if number % 3 else "progress"]
        for step, kind in enumerate(steps):
            events.append(
                {
                    "event_id": str(uuid5(SPACE, f"event {number} {step}")),
                    "user_id": viewer,
                    "movie_id": film,
                    "session_id": session,
                    "event_type": kind,
                    "position_seconds": 120 * step,
                    "timestamp": (began + timedelta(seconds=120 * step)).isoformat(),
                }
            )
    return events


def start_of(film: str) -> dict[str, Any]:
    return {"user_id": VIEWERS[0], "movie_id": film, "event_type": "start"}


class Api:
    """The service, as the page asks it."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def get(self, path: str, **query: Any) -> Any:
        answer = self._client.get(f"{PREFIX}{path}", params={"tz": ZONE, **query})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def store(self, *events: dict[str, Any]) -> None:
        receipt = self._client.post(f"{PREFIX}/events/batch", json=list(events)).json()
        assert receipt["stored"] == len(events), receipt

    def entitle(self, *films: dict[str, Any]) -> None:
        receipt = self._client.put(f"{PREFIX}/catalog/movies", json=list(films)).json()
        assert receipt["stored"] == len(films), receipt


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("page") / "store") as running:
        yield running


@pytest.fixture(scope="module")
def api(service: Service) -> Iterator[Api]:
    """Of a service that has had some visitors."""
    with httpx.Client(base_url=service.url, timeout=60) as client:
        api = Api(client)
        api.store(*viewing())
        api.entitle(
            *(
                {"movie_id": film, "title": title, "duration_seconds": 480}
                for film, title in zip(FILMS, TITLES, strict=False)
            )
        )
        yield api


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        if "CI" in os.environ:
            pytest.fail("chromium is not installed")
        pytest.skip("chromium is needed")
    with sync_playwright() as playwright:
        # Its sandbox refuses to be used by root.
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@contextmanager
def opened(
    browser: Browser, service: Service, path: str, *, flawless: bool = True, **options: Any
) -> Iterator[Page]:
    """A page that is open; in the end nothing went wrong in it, and nothing came from elsewhere."""
    wrong: list[str] = []
    context = browser.new_context(
        **{"viewport": WIDE, "timezone_id": ZONE, "locale": "en-GB", **options}
    )
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.on("console", lambda message: wrong.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    asked: list[str] = []
    page.add_init_script(
        "addEventListener('securitypolicyviolation', (e) => console.error(e.violatedDirective))"
    )
    page.goto(f"{service.url}{path}")
    yield page
    context.close()
    ours = f"127.0.0.1:{service.port}"
    assert {urlsplit(url).netloc for url in asked if not url.startswith("blob:")} == {ours}
    if flawless:
        assert wrong == []


def figure(page: Page, name: str) -> Any:
    return page.locator(f'[data-figure="{name}"]').first


def shows(page: Page, name: str, value: object, text: str | None = None) -> None:
    expect(figure(page, name)).to_have_attribute("data-value", str(value))
    if text is not None:
        expect(figure(page, name)).to_have_text(text)


def change(page: Page, name: str) -> Any:
    return figure(page, name).locator("xpath=following-sibling::*")


def texts(page: Page, rows: str) -> list[list[str]]:
    """The visible cells of each row."""
    found: list[list[str]] = page.locator(rows).evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.innerText.trim()))"
    )
    return found


def as_table(page: Page, panel: str) -> list[list[str]]:
    """The table behind a chart."""
    region = page.get_by_role("region", name=panel, exact=True)
    region.get_by_text("As a table").click()
    expect(region.locator("tbody tr").first).to_be_visible()
    return texts(page, f'[aria-label="{panel}"] tbody tr')


def settled(page: Page) -> None:
    expect(page.locator('[aria-busy="true"]')).to_have_count(0)
    expect(page.locator("#status")).to_have_text("Live")


def plain(number: float) -> str:
    return f"{number:,}"


def signed(number: float) -> str:
    rounded = round(abs(number) + 1e-9, 1)
    return ("+" if number > 0 else "\u2212") + f"{rounded:.1f}".removesuffix(".0")


def percent(rate: float) -> str:
    return f"{rate:,.2f}\u202f%"


def test_the_overview_shows_what_the_api_says(browser: Browser, service: Service, api: Api) -> None:
    with opened(browser, service, f"/?days=28&tz={ZONE}") as page:
        settled(page)
        now = api.get("/now")
        shows(page, "sessions", now["sessions"])
        counted = api.get("/overview", days=28, compare="previous")
        before = counted["previous"]
        for name in ("total_views", "unique_viewers"):
            shows(page, name, counted[name], plain(counted[name]))
            grown = 100 * (counted[name] - before[name]) / before[name]
            text = f"{signed(grown)}\u202f%" if grown else "no change"
            expect(change(page, name)).to_have_text(text)
        rate = counted["completion_rate"]
        shows(page, "completion_rate", rate, percent(rate))
        points = signed(rate - before["completion_rate"])
        expect(change(page, "completion_rate")).to_have_text(f"{points} points")
        seconds = api.get("/watch-time", days=28)["total_watch_time_seconds"]
        hours, minutes = divmod(seconds // 60, 60)
        assert hours < 100
        shows(page, "total_watch_time_seconds", seconds, f"{hours}\u202fh {minutes}\u202fmin")

        popular = api.get("/content/popular", days=28, limit=10)["items"]
        rows = texts(page, ".list tbody tr")
        assert [[row[0], row[1], row[3], row[4]] for row in rows] == [
            [
                (item["title"] or f"Film {item['movie_id'][:8]}").strip(),
                plain(item["total_views"]),
                plain(item["unique_viewers"]),
                percent(item["completion_rate"]),
            ]
            for item in popular
        ]
        assert {title.strip() for title in TITLES} <= {row[0] for row in rows}

        heat = api.get("/heatmap", days=28)["items"]
        cells = page.locator(".heat td[data-value]").evaluate_all(
            "cells => cells.map(cell => [Number(cell.dataset.value), cell.textContent])"
        )
        assert cells == [[item["events_count"], plain(item["events_count"])] for item in heat]

        # Behind the chart there is a table: one of the figures, on every day of the window.
        page.get_by_role("navigation", name="Figure").get_by_text("Viewers").click()
        settled(page)
        days = api.get("/trends", days=28, compare="previous")
        shown = as_table(page, "Day by day")
        assert [[row[1], row[3]] for row in shown] == [
            [plain(day["unique_users"]), plain(before["unique_users"])]
            for day, before in zip(days["items"], days["previous"]["items"], strict=True)
        ]


def test_a_new_event_appears_without_a_reload(browser: Browser, service: Service, api: Api) -> None:
    with opened(browser, service, "/") as page:
        settled(page)
        # Whoever opens it first sees days in their own zone, and may pass the address on.
        expect(page).to_have_url(f"{service.url}/?days=7&tz={ZONE}")
        before = api.get("/now")["sessions"]
        today = api.get("/trends", days=1)["items"][0]["starts"]
        shows(page, "sessions", before)
        shows(page, "today.total_views", today)
        api.store(start_of(FILMS[11]))
        shows(page, "sessions", before + 1)
        shows(page, "today.total_views", today + 1)
        expect(page.locator(f'.now-films [data-movie="{FILMS[11]}"]')).to_be_visible()
        assert page.title().startswith(f"{before + 1} watching")
        # The figures of the period follow.
        shows(page, "total_views", api.get("/overview", days=7)["total_views"])


def test_pages_of_a_film_and_of_a_viewer(browser: Browser, service: Service, api: Api) -> None:
    film, viewer = FILMS[0], VIEWERS[0]
    with opened(browser, service, f"/?days=28&tz={ZONE}") as page:
        page.locator(f'.list [data-movie="{film}"]').click()
        expect(page).to_have_url(f"{service.url}/films/{film}?days=28&tz={ZONE}")
        settled(page)
        expect(page.get_by_role("heading", level=1)).to_have_text(TITLES[0])
        stats = api.get(f"/content/{film}/stats", days=28)
        for name in (
            "total_views",
            "unique_viewers",
            "total_watch_time_seconds",
            "mean_watch_time_seconds",
            "completion_rate",
            "mean_share_watched",
        ):
            shows(page, name, json.dumps(stats[name]).removesuffix(".0"))
        retention = api.get(f"/content/{film}/retention", days=28, step=60)["items"]
        rows = as_table(page, "How far people watch")
        assert [row[1:] for row in rows] == [
            [plain(item["viewers"]), percent(item["share"]), plain(item["rewatchers"])]
            for item in retention
        ]

        finder = page.get_by_role("searchbox")
        finder.fill(viewer)
        page.locator(".found a", has_text="Viewer").click()
        expect(page).to_have_url(f"{service.url}/viewers/{viewer}?days=28&tz={ZONE}")
        settled(page)
        stats = api.get(f"/user/{viewer}/stats", days=28)
        for name in ("movies_started", "movies_finished", "total_watch_time_seconds"):
            shows(page, name, stats[name])
        watched = api.get(f"/user/{viewer}/movies", days=28)["items"]
        links = page.locator(".list tbody [data-movie]")
        assert links.evaluate_all("all => all.map(one => one.dataset.movie)") == [
            item["movie_id"] for item in watched
        ]

        finder.fill("amélie")
        page.locator(".found a").first.click()
        expect(page.get_by_role("heading", level=1)).to_have_text(TITLES[1])
        page.go_back()
        expect(page.get_by_role("heading", level=1)).to_have_text(f"Viewer {viewer[:8]}")


def test_a_link_shows_the_same_to_somebody_elsewhere(
    browser: Browser, service: Service, api: Api
) -> None:
    with opened(browser, service, "/", timezone_id="Asia/Tokyo") as page:
        page.get_by_label("Time zone").select_option(ZONE)
        page.get_by_role("navigation", name="Period").get_by_text("90 days").click()
        page.get_by_role("navigation", name="Figure").get_by_text("Finishes").click()
        link = page.url
    with opened(browser, service, link.removeprefix(service.url)) as page:
        settled(page)
        for name, chosen in (("Period", "90 days"), ("Figure", "Finishes")):
            current = page.get_by_role("navigation", name=name).locator("[aria-current]")
            expect(current).to_have_text(chosen)
        expect(page.get_by_label("Time zone")).to_have_value(ZONE)
        counted = api.get("/overview", days=90)
        shows(page, "total_views", counted["total_views"])
        expect(page).to_have_url(link)


def test_the_definitions_are_those_of_the_readme(browser: Browser, service: Service) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## Figures\n(.*?)^## ", readme, re.DOTALL | re.MULTILINE)
    assert section
    copy = (ROOT / "app/web/definitions.md").read_text(encoding="utf-8")
    assert copy.strip() == section[1].strip(), "bring the page up to the README: make definitions"
    with opened(browser, service, f"/definitions?days=7&tz={ZONE}") as page:
        settled(page)
        shown = page.locator(".words").inner_text()
    marks = re.compile(r"\*\*|`|^- |^### |\]\([^)]*\)|\[", re.MULTILINE)
    assert re.sub(r"\s+", " ", shown).strip() == re.sub(r"\s+", " ", marks.sub("", copy)).strip()


def test_lists_are_saved_as_csv(browser: Browser, service: Service, api: Api) -> None:
    with opened(browser, service, f"/?days=28&tz={ZONE}") as page:
        settled(page)
        with page.expect_download() as saving:
            page.get_by_role("button", name="Popular films as CSV").click()
        rows = Path(saving.value.path()).read_text(encoding="utf-8").splitlines()
        assert len(rows) == 1 + len(api.get("/content/popular", days=28, limit=100)["items"])
        assert rows[0].startswith("movie_id,title,total_views")


def test_it_says_so_when_the_service_is_away_and_comes_back(
    browser: Browser, tmp_path: Path
) -> None:
    with (
        running_service(tmp_path / "store") as running,
        # What the browser itself says of connections that fail is no flaw of the page.
        opened(browser, running, "/", flawless=False) as page,
    ):
        settled(page)
        expect(page.locator(".now")).to_contain_text("All quiet")
        expect(page.locator("main")).to_contain_text("Nothing was watched in these days")
        running.kill()
        expect(page.locator("#status")).to_contain_text("Connection lost")
        page.get_by_role("navigation", name="Period").get_by_text("28 days").click()
        expect(page.get_by_role("alert").first).to_contain_text("The service does not answer")
        running.start()
        expect(page.locator("#status")).to_have_text("Live")
        settled(page)
        expect(page.get_by_role("alert")).to_have_count(0)


def test_periods_are_compared_as_far_as_events_are_kept(browser: Browser, tmp_path: Path) -> None:
    with (
        running_service(tmp_path / "store", EVENT_RETENTION_DAYS="20") as running,
        httpx.Client(base_url=running.url, timeout=60) as client,
    ):
        asked = f"{PREFIX}/overview?compare=previous&days="
        assert client.get(f"{asked}10").status_code == 200
        assert client.get(f"{asked}11").status_code == 422
        now = datetime.now(UTC)
        for day, views in ((0, 2), (11, 3)):
            for number in range(views):
                event = start_of(FILMS[number])
                event["timestamp"] = (now - timedelta(days=day, minutes=number)).isoformat()
                Api(client).store(event)
        for days in (7, 28):
            with opened(browser, running, f"/?days={days}") as page:
                settled(page)
                shows(page, "total_views", 5 if days == 28 else 2)


def test_it_says_when_the_store_is_away(browser: Browser, service: Service, api: Api) -> None:
    """The service says so over the socket; what it says is put into the page's mouth here."""

    def relay(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def tell(message: str | bytes) -> None:
            socket.send(message)
            socket.send('{"type":"unavailable"}')

        server.on_message(tell)

    with opened(browser, service, f"/definitions?tz={ZONE}") as page:
        page.route_web_socket(re.compile("/live"), relay)
        page.reload()
        page.get_by_role("link", name="Overview").click()
        expect(page.locator("#status")).to_contain_text("The store doesn't answer. Figures of")
        expect(page.locator(".now")).to_have_attribute("data-state", "stale")


def test_it_asks_for_a_key_where_one_is_needed(browser: Browser, tmp_path: Path) -> None:
    hashed = hashlib.sha256(b"right").hexdigest()
    with (
        running_service(tmp_path / "store", READ_API_KEYS=hashed) as running,
        # The browser itself says of each answer 401.
        opened(browser, running, "/definitions", flawless=False) as page,
    ):
        page.get_by_role("link", name="Overview").click()
        for key in ("wrong", "right"):
            page.get_by_role("textbox", name="Key").fill(key)
            page.get_by_role("button", name="Show the figures").click()
            if key == "wrong":
                expect(page.get_by_text("That key was not accepted.")).to_be_visible()
        settled(page)  # what is live comes with the key as well
        expect(page.locator("main")).to_contain_text("Nothing was watched in these days")
        assert "right" not in page.url + page.content()
        page.reload()
        settled(page)  # it is asked for once in a tab


def test_nobody_is_shut_out(browser: Browser, service: Service, api: Api) -> None:
    for path, scheme in (
        ("/", "light"),
        ("/", "dark"),
        (f"/films/{FILMS[0]}", "dark"),
        (f"/viewers/{VIEWERS[0]}", "light"),
        ("/definitions", "dark"),
    ):
        with opened(
            browser, service, path, flawless=False, bypass_csp=True, color_scheme=scheme
        ) as page:
            settled(page)
            found = Axe().run(page).response["violations"]
            serious = [one for one in found if one["impact"] in ("serious", "critical")]
            assert serious == [], json.dumps(serious, indent=1)[:3000]


def test_a_phone_has_no_sideways_scroll(browser: Browser, service: Service, api: Api) -> None:
    for path in ("/?days=365", f"/films/{FILMS[0]}", f"/viewers/{VIEWERS[0]}", "/definitions"):
        with opened(browser, service, path, viewport=PHONE, has_touch=True) as page:
            settled(page)
            assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


def test_it_can_be_used_with_the_keyboard(browser: Browser, service: Service, api: Api) -> None:
    with opened(browser, service, "/", reduced_motion="reduce") as page:
        settled(page)
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the figures")).to_be_focused()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        focused = page.evaluate("document.activeElement.closest('main') !== null")
        assert focused
        page.get_by_role("navigation", name="Period").get_by_text("28 days").focus()
        page.keyboard.press("Enter")
        expect(page).to_have_url(re.compile("days=28"))
        expect(page.get_by_role("navigation", name="Period").get_by_text("28 days")).to_be_focused()
        finder = page.get_by_role("searchbox")
        finder.fill("heat")
        expect(page.locator(".found a")).to_be_visible()
        finder.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text(TITLES[2].strip())
        assert page.evaluate("document.getAnimations().length") == 0


def test_files_are_small_kept_and_never_stale(service: Service) -> None:
    with httpx.Client(base_url=service.url) as client:
        page = client.get("/")
        assert client.get("/", headers={"if-none-match": page.headers["etag"]}).status_code == 304
        paths = {*re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)}
        weight = 0
        for path in paths:
            with client.stream("GET", path) as answer:
                weight += len(b"".join(answer.iter_raw()))
            assert answer.status_code == 200
            assert "immutable" in answer.headers["cache-control"]
            assert answer.headers["content-encoding"] == "gzip"
            assert answer.headers["content-security-policy"].startswith("default-src 'self';")
        assert weight < 150_000
        # Every module is named in the page: none waits for another to be read.
        modules = {file.name for file in (ROOT / "app/web/js").glob("*.js")}
        assert modules == {path.rpartition("/")[2] for path in paths if "/js/" in path}
        assert (client.head("/").status_code, client.head("/").content) == (200, b"")
        plain = client.get(min(paths), headers={"accept-encoding": "identity"})
        assert "content-encoding" not in plain.headers
        other = re.sub(r"/static/\w+/", "/static/000000000000/", min(paths))
        assert client.get(other).headers["cache-control"] == "no-cache"
        assert client.get("/static/x/index.html").status_code == 404
        assert client.get("/static/x/../../main.py").status_code == 404


def test_chart_js_is_as_its_makers_published_it() -> None:
    [line] = (ROOT / "app/web/vendor/SHA256SUMS").read_text(encoding="utf-8").splitlines()
    digest, name = line.split()
    body = (ROOT / "app/web/vendor" / name).read_bytes()
    assert hashlib.sha256(body).hexdigest() == digest
    assert name in (ROOT / "app/web/index.html").read_text(encoding="utf-8")
