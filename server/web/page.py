"""The web page at /: its files, held in memory, each under its exact name.

Knows the page's files; knows nothing of keys, models or jobs. The page says nothing about this server, so it is open;
what it shows it asks of the API, with the key that its user enters.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request, Response

from server.edge.etags import held_by_client
from server.errors import NotFound
from server.web import headers

PAGE: Final = Path(__file__).parent / "static" / "app"
ICON: Final = Path(__file__).parent / "static" / "docs" / "favicon.svg"
START: Final = "index.html"

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}

# Asked again at every visit, answered 304 as long as nothing changed: no page is ever half old, half new.
_HEADERS: Final = {**headers.PAGE, "cache-control": "no-cache"}


@dataclass(frozen=True)
class Asset:
    """One file of the page, as it is sent."""

    content: bytes
    media_type: str
    etag: str


def _read(path: Path) -> Asset:
    content = path.read_bytes()
    return Asset(content, _TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def read_assets() -> dict[str, Asset]:
    """Every file of the page by its path below PAGE; whatever else a request says, it finds nothing."""
    files = (path for path in sorted(PAGE.rglob("*")) if path.suffix in _TYPES)
    return {path.relative_to(PAGE).as_posix(): _read(path) for path in files}


def router() -> APIRouter:
    """The page at /, its files below /page/app/, and the icon."""
    routes = APIRouter(include_in_schema=False)
    assets, icon = read_assets(), _read(ICON)

    @routes.api_route("/", methods=["GET", "HEAD"])  # what monitors and proxies ask
    async def page(request: Request) -> Response:
        return _answer(request, assets[START])

    @routes.get("/page/app/{name:path}")
    async def asset(request: Request, name: str) -> Response:
        if name not in assets or name == START:  # its addresses are relative to /
            raise NotFound("There is no such file.")
        return _answer(request, assets[name])

    @routes.get("/favicon.ico")
    async def favicon(request: Request) -> Response:  # what browsers ask for beside whatever else they show
        return _answer(request, icon)

    return routes


def _answer(request: Request, asset: Asset) -> Response:
    sent = {**_HEADERS, "etag": asset.etag}
    if held_by_client(request, asset.etag):
        return Response(status_code=304, headers=sent)
    return Response(asset.content, media_type=asset.media_type, headers=sent)
