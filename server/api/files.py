"""Files' route, GET /files/{name}: a stored picture, to whoever holds its signed URL.

Knows signatures, caching and ranges; needs no key, since the URL itself carries the right.
"""

from __future__ import annotations

import re
import time
from typing import Any

from fastapi import APIRouter, Request, Response

from server.api import openapi
from server.api.services import Services
from server.edge.body import hold_of
from server.edge.etags import held_by_client
from server.edge.pieces import PIECE_BYTES, PiecedAnswer
from server.errors import Busy, LinkRefused, NotFound, RangeRefused
from server.storage.store import PictureRow

_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The picture.", "content": {mime: {} for mime in ("image/png", "image/jpeg", "image/webp")}},
    206: {"description": "The range of it that was asked for."},
    304: {"description": "The client has it already (If-None-Match)."},
    **openapi.errors(LinkRefused, NotFound, RangeRefused, Busy),
}
_ONE_RANGE = re.compile(r"bytes=(?:(\d{1,15})-(\d{0,15})|-(\d{1,15}))", re.ASCII)


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["files"])

    @routes.head("/files/{name}", include_in_schema=False)
    @routes.get("/files/{name}", summary="Fetch a picture", response_class=Response, responses=_RESPONSES)
    async def picture(request: Request, name: str, expires: str = "", signature: str = "") -> Response:
        """The picture's bytes. 403 when the URL has expired or was altered, 404 when there is no such picture."""
        if not (expires.isascii() and expires.isdigit() and len(expires) <= 12):
            raise LinkRefused("This URL has no valid signature; ask for the picture again.")
        services.signer.verify(name, int(expires), signature, time.time())
        stored = await services.store.look(name)
        if stored is None:
            raise NotFound("There is no such picture; it may have been deleted.")
        lifetime_s = max(0, int(expires) - int(time.time()))
        headers = {
            "ETag": stored.etag,
            "Cache-Control": f"private, max-age={lifetime_s}, immutable",
            "X-Content-Type-Options": "nosniff",
            "Content-Disposition": f'inline; filename="{name}"',
            "Accept-Ranges": "bytes",
            # The page of another origin may show the picture: its URL was the permission.
            "Access-Control-Allow-Origin": "*",
        }
        if held_by_client(request, stored.etag):
            return Response(status_code=304, headers=headers)
        return _ranged(services, request, name, stored, headers)

    return routes


def _ranged(services: Services, request: Request, name: str, stored: PictureRow, headers: dict[str, str]) -> Response:
    start, stop, status = 0, stored.size, 200
    asked = request.headers.get("range")
    if asked is not None:
        # One range is all that a resumed download needs; a thousand of them is an attack (CVE-2025-62727).
        match = _ONE_RANGE.fullmatch(asked)
        start, stop = (0, 0) if match is None else _bounds(match, stored.size)
        if start >= stop:
            raise RangeRefused("Only one range of bytes inside the picture can be asked for.")
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{stored.size}"
        status = 206
    # Whoever reads nothing keeps one piece in memory, and one in the socket's buffer.
    hold_of(request.scope).take(min(stop - start, services.store.piece_bytes + PIECE_BYTES))
    pieces = services.store.read(name, start, stop)
    return PiecedAnswer(pieces, stop - start, status_code=status, media_type=stored.mime, headers=headers)


def _bounds(match: re.Match[str], length: int) -> tuple[int, int]:
    """The first byte, and the one behind the last: of "first-last", "first-" or "-how many at the end"."""
    first, last, final = match.groups()
    if final is not None:
        return max(0, length - int(final)), length
    return int(first), min(int(last) + 1 if last else length, length)
