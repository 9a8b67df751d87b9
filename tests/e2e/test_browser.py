"""A real browser on the documentation, and on the page of another site."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, sync_playwright

from app.core.keys import digest_of, new_key
from tests.support.answers import PREFIX
from tests.support.process import Service, running_service

_CHROMIUM = shutil.which("chromium")
_EVENT = {
    "user_id": "0b9c2c9e-54a1-5b8e-8f60-52f3b0b1c9d4",
    "movie_id": "5a4f8cde-3f0b-5a0e-9a4c-8d1f0f1f6b7e",
    "event_type": "start",
}


@pytest.fixture
def page() -> Iterator[Page]:
    if _CHROMIUM is None:
        if "CI" in os.environ:
            pytest.fail("chromium is not installed")
        pytest.skip("Debian's chromium is needed for this test")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page()
        browser.close()


@contextmanager
def other_site() -> Iterator[str]:
    """An empty page on an origin of its own."""

    class Empty(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>Television</title>")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def starts(service: Service) -> int:
    days = httpx.get(f"{service.url}{PREFIX}/trends").json()["items"]
    return sum(day["starts"] for day in days)


_SEND = """async ([url, event, key]) => {
    const headers = {"Content-Type": "application/json", "X-API-Key": key};
    try {
        const answer = await fetch(url, {method: "POST", headers, body: JSON.stringify(event)});
        return [answer.status, answer.headers.get("X-Request-ID") !== null];
    } catch (error) { return [0, false]; }
}"""
_BEACON = "([url, event]) => navigator.sendBeacon(url, JSON.stringify(event))"


def test_the_documentation_works_under_its_policy(page: Page, tmp_path: Path) -> None:
    complaints: list[str] = []
    page.on("console", lambda one: complaints.append(one.text) if one.type == "error" else None)
    with running_service(tmp_path / "store") as service:
        page.goto(f"{service.url}/docs")
        page.wait_for_selector(".opblock")
        assert complaints == []
        page.goto(f"{service.url}/redoc")
        page.wait_for_selector("text=Cinema analytics")
        # Redoc wants to show its own sign from elsewhere, and may not.
        assert [one for one in complaints if "redoc" not in one.lower()] == []


def test_a_page_of_another_site_sends_what_it_may(page: Page, tmp_path: Path) -> None:
    key = new_key()
    hashed = digest_of(key).hex()
    with other_site() as named, other_site() as unnamed:
        with running_service(
            tmp_path / "store", CORS_ORIGINS=named, INGEST_API_KEYS=hashed
        ) as service:
            events = f"{service.url}{PREFIX}/events"
            page.goto(named)
            assert page.evaluate(_SEND, [events, _EVENT, key]) == [201, True]
            assert page.evaluate(_SEND, [events, _EVENT, new_key()]) == [401, True]
            page.goto(unnamed)
            assert page.evaluate(_SEND, [events, _EVENT, key]) == [0, False]
            assert starts(service) == 1
        with running_service(tmp_path / "open") as service:
            page.goto(unnamed)
            assert page.evaluate(_BEACON, [f"{service.url}{PREFIX}/events", _EVENT])
            deadline = time.monotonic() + 20
            while not starts(service):
                assert time.monotonic() < deadline
