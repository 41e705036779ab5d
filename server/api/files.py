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
from server.edge.answers import error_response, request_id_of
from server.edge.body import hold_of
from server.edge.etags import held_by_client
from server.edge.pieces import PIECE_BYTES, PiecedAnswer
from server.errors import Busy, LinkRefused, NotFound, RangeRefused
from server.storage.picture import NO_PICTURE, PictureRow

_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The picture.", "content": {mime: {} for mime in ("image/png", "image/jpeg", "image/webp")}},
    206: {"description": "The range of it that was asked for."},
    304: {"description": "The client has it already (If-None-Match)."},
    **openapi.errors(LinkRefused, NotFound, RangeRefused, Busy),
}
_ONE_RANGE = re.compile(r"bytes=[ \t]*(?:(\d+)-(\d*)|-(\d+))[ \t]*", re.ASCII | re.IGNORECASE)
_MAX_DIGITS = 18  # of a position; no picture has as many bytes


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
            raise NotFound(NO_PICTURE)
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
    bounds = _asked(request, stored)
    if bounds is not None:
        start, stop = bounds
        if start >= stop:
            refusal = RangeRefused(f"The range is beyond the end of the picture, which has {stored.size} bytes.")
            told = {"Content-Range": f"bytes */{stored.size}"}
            return error_response(refusal, request_id_of(request.scope), told)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{stored.size}"
        status = 206
    # Whoever reads nothing keeps one piece in memory, and one in the socket's buffer.
    hold_of(request.scope).take(min(stop - start, services.store.piece_bytes + PIECE_BYTES))
    pieces = services.store.read(name, start, stop)
    return PiecedAnswer(pieces, stop - start, status_code=status, media_type=stored.mime, headers=headers)


def _asked(request: Request, stored: PictureRow) -> tuple[int, int] | None:
    """The first byte of the range that is asked for, and the one behind its last; None for the whole picture.

    A Range is ignored (RFC 9110, 14.2) where it is not one well-formed range of bytes, with any method but GET, and
    where If-Range names another picture: a piece of this one would be put together with pieces of that. One range is
    all that a resumed download needs; a thousand of them is an attack (CVE-2025-62727).
    """
    asked = request.headers.getlist("range")
    if len(asked) != 1 or request.method != "GET":
        return None
    match = _ONE_RANGE.fullmatch(asked[0])
    # A date never matches, as pictures are sent without one; nor does a weak tag.
    if match is None or any(tag.strip() != stored.etag for tag in request.headers.getlist("if-range")):
        return None
    first, last, final = (_position(digits) for digits in match.groups())
    if final is not None:
        return max(0, stored.size - final), stored.size
    if first is None or (last is not None and last < first):
        return None
    return first, stored.size if last is None else min(last + 1, stored.size)


def _position(digits: str | None) -> int | None:
    if not digits:
        return None
    significant = digits.lstrip("0")
    return int(significant or 0) if len(significant) <= _MAX_DIGITS else 10**_MAX_DIGITS
