"""The web page: files of app/web, served from memory as they are, and compressed."""

import gzip
import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

_WEB = Path(__file__).parents[1] / "web"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".md": "text/markdown; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
# Addresses of files have their content's hash in them: what is there never changes.
_FOREVER = "public, max-age=31536000, immutable"
_ASK_EACH_TIME = "no-cache"

router = APIRouter(include_in_schema=False)


class _File(NamedTuple):
    media_type: str
    body: bytes
    compressed: bytes
    etag: str


class _Site(NamedTuple):
    """The files by their paths, and what names this version of all of them."""

    version: str
    files: dict[str, _File]
    page: bytes


async def page(request: Request) -> Response:
    """One page for all of these addresses; it reads its own, and asks for what belongs there."""
    return _answer(request, _page(request.app.state.settings.longest_compared_days), _ASK_EACH_TIME)


async def static(request: Request, version: str, path: str) -> Response:
    site = _site()
    file = site.files.get(path)
    if file is None:
        raise HTTPException(404)
    # A page that is still open after an update asks for the files of its time.
    return _answer(request, file, _FOREVER if version == site.version else _ASK_EACH_TIME)


for address in ("/", "/films/{movie_id}", "/viewers/{user_id}", "/definitions"):
    router.add_api_route(address, page, methods=["GET", "HEAD"])
router.add_api_route("/static/{version}/{path:path}", static, methods=["GET", "HEAD"])


def _answer(request: Request, file: _File, caching: str) -> Response:
    headers = {
        "Cache-Control": caching,
        "ETag": file.etag,
        "Vary": "Accept-Encoding",
    }
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return Response(file.compressed, headers=headers, media_type=file.media_type)
    return Response(file.body, headers=headers, media_type=file.media_type)


@cache
def _site() -> _Site:
    """Read when it is first asked for, so that the start doesn't wait for it."""
    bodies = {
        path.relative_to(_WEB).as_posix(): path.read_bytes()
        for path in sorted(_WEB.rglob("*"))
        if path.suffix in _TYPES
    }
    every = b"".join(hashlib.sha256(body).digest() for body in bodies.values())
    version = hashlib.sha256(every).hexdigest()[:12]
    page = bodies.pop("index.html").replace(b"{version}", version.encode())
    files = {path: _file(path, body) for path, body in bodies.items()}
    return _Site(version, files, page)


@cache
def _page(longest_compared_days: int) -> _File:
    body = _site().page.replace(b"{compared}", str(longest_compared_days).encode())
    return _file("index.html", body)


def _file(path: str, body: bytes) -> _File:
    digest = hashlib.sha256(body).hexdigest()[:16]
    compressed = gzip.compress(body, 9, mtime=0)
    return _File(_TYPES[Path(path).suffix], body, compressed, f'W/"{digest}"')
