"""The docs viewer at /docs: the OpenAPI document, drawn by a viewer that ships with the package.

Knows the page's files; knows nothing of keys, models or jobs.
The page says nothing about this server: what it draws is the OpenAPI document, which is guarded like any
other route, and the page asks for a key where that answers 401. A browser cannot send a key when it opens
/docs, so the same page is also at /page/docs/, which is open like every static file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse, Response

from server.errors import NotFound
from server.web import headers

PAGE: Final = Path(__file__).parent / "static" / "docs"

# Only these are served, by exact name: whatever else a path says, it finds nothing.
ASSETS: Final = {
    "openapi-explorer.min.js": "text/javascript; charset=utf-8",
    "docs.js": "text/javascript; charset=utf-8",
    "docs.css": "text/css; charset=utf-8",
    "favicon.svg": "image/svg+xml",
    "LICENSE-openapi-explorer": "text/plain; charset=utf-8",
    "NOTICE-openapi-explorer": "text/plain; charset=utf-8",
}


def router() -> APIRouter:
    """The page at /docs and /page/docs/, and its files below /page/docs/."""
    routes = APIRouter(include_in_schema=False)
    template = (PAGE / "index.html").read_text(encoding="utf-8")

    def page(request: Request, root: str) -> Response:
        document = request.app.openapi_url
        if not document:
            raise NotFound("this server does not publish its OpenAPI document")
        # Paths relative to the page: they hold behind any path prefix that a proxy adds.
        html = template.replace("{root}", root).replace("{document}", document)
        return HTMLResponse(html, headers={**headers.DOCS, "cache-control": "no-cache"})

    @routes.get("/docs")
    async def docs(request: Request) -> Response:
        # What the browser shows counts: it takes relative paths from there.
        return page(request, ".." if request.scope.get("raw_path", b"").endswith(b"/") else ".")

    @routes.get("/page/docs/")
    async def open_docs(request: Request) -> Response:
        return page(request, "../..")

    @routes.get("/page/docs/{name}")
    async def asset(name: str) -> Response:
        media_type = ASSETS.get(name)
        if media_type is None:
            raise NotFound("no such file")
        return FileResponse(
            PAGE / name, media_type=media_type, headers={**headers.DOCS, "cache-control": "public, max-age=3600"}
        )

    return routes
