"""JSON bodies: read once, bounded, off the event loop; or a refusal that says what was sent instead.

Knows bytes, limits, how a body begins and what its Content-Type claims; knows no field. What a body becomes in memory
must be known before it is made: 60 MiB of empty arrays became 1.5 GiB of objects, made for 9 seconds in which nothing
else ran. A large body here is pictures in base64, so values are counted by their marks before anything is decoded, and
only little of the text may be beyond ASCII, which takes up to four bytes a character. A byte order mark is dropped. The
type is not believed where the body is JSON all the same: curl -d says that everything is a form.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

from starlette.requests import Request

from server.api.json_object import read_json
from server.api.off_loop import off_loop
from server.edge.body import chunks_of, hold_of
from server.errors import BadRequest

MAX_MARKS: Final = (
    512 * 1024
)  # of , [ { and " in a body, also inside its texts: a prompt has 100,000 characters at most
MAX_WIDE_BYTES: Final = 4 * 1024 * 1024  # of texts with characters beyond ASCII

_NOTHING: Final = (b"", b"null", b'""')
_MAX_NOTHING: Final = 64  # bytes of a body that may be one of these, with blanks around
_UTF8_MARK: Final = b"\xef\xbb\xbf"
_UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
_FORM: Final = "multipart/form-data"
_URLENCODED: Final = "application/x-www-form-urlencoded"
_WIDE_ESCAPE: Final = re.compile(rb"\\u(?!00[0-7])")  # some programs write + in base64 as an escape; that is ASCII

T = TypeVar("T")


async def read_body(request: Request, read: Callable[[dict[str, Any]], T], *, may_be_empty: bool = False) -> T:
    """What ``read`` makes of the JSON object in a body. Raises BadRequest, and Busy where there is no room for it.

    ``may_be_empty``: no body, ``null`` and ``""`` are the object without fields.
    """
    body = await whole_body(request)
    if may_be_empty and len(body) <= _MAX_NOTHING and bytes(body).removeprefix(_UTF8_MARK).strip() in _NOTHING:
        body[:] = b"{}"
    return await read_object(request, body, read)


async def whole_body(request: Request) -> bytearray:
    """The body as it came. Raises Busy."""
    body = bytearray()  # grown, not joined: that would hold everything twice
    async for chunk in chunks_of(request):
        body += chunk
    return body


async def read_object(request: Request, body: bytearray, read: Callable[[dict[str, Any]], T]) -> T:
    """What ``read`` makes of the JSON object in ``body``. Raises BadRequest, and Busy where there is no room for it."""
    if body.startswith(_UTF8_MARK):
        del body[: len(_UTF8_MARK)]
    kind = content_type_of(request)
    hold = hold_of(request.scope)
    hold.take(len(body))  # the texts in it, beside the bytes that they are read from
    try:
        return await off_loop(len(body), lambda: read(_object(body, kind)))
    finally:
        hold.give(len(body))


def _object(body: bytearray, content_type: str) -> dict[str, Any]:
    """The JSON object in ``body``. Raises BadRequest, without a word of what was sent."""
    if sum(map(body.count, (b",", b"[", b"{", b'"'))) > MAX_MARKS:
        raise BadRequest("The body has too many values, or too much punctuation in its texts.")
    if len(body) > MAX_WIDE_BYTES and not (body.isascii() and b"\\u" not in body):
        _refuse_wide(body)
    try:
        return read_json(body)
    except BadRequest as error:
        if error.param is not None:  # it is JSON
            raise
        told = _what_it_is(bytes(body[:1000]), content_type)
        raise (error if told is None else BadRequest(told)) from None


def content_type_of(request: Request) -> str:
    """The media type that the request claims, in lower case and without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def require_form(content_type: str) -> None:
    """Raises BadRequest where only a form can be read and something else is claimed; says what that is."""
    if content_type == _FORM:
        return
    told = ""
    if content_type.endswith("json"):
        told = " This one is JSON; the edits route takes pictures in JSON."
    elif content_type == _URLENCODED:
        told = f" This one is {_URLENCODED}, which carries no files."
    raise BadRequest(f"The body must be {_FORM}, with a file named image.{told}")


def _what_it_is(body: bytes, content_type: str) -> str | None:
    """What a body that begins so is, if it is not JSON and that can be told; and what helps."""
    if not body:
        return "The body is empty; it must be a JSON object."
    if body.startswith(b"\x1f\x8b"):
        return "The body is compressed with gzip. Say so in the header Content-Encoding: gzip."
    if body.startswith(_UTF16_MARKS) or b"\0" in body[:4]:
        return "The body is not UTF-8, it looks like UTF-16 or UTF-32. Send JSON in UTF-8."
    if content_type == _FORM or (body.startswith(b"--") and b"content-disposition" in body.lower()):
        return f"The body is a {_FORM} form. This route reads JSON: send an object, Content-Type: application/json."
    if content_type == _URLENCODED and b"=" in body and not body.lstrip().startswith((b"{", b"[", b'"')):
        return f"The body is an {_URLENCODED} form. Send a JSON object with Content-Type: application/json."
    return None


def _refuse_wide(body: bytearray) -> None:
    """Raise BadRequest if too much of the body is texts with characters beyond ASCII."""
    wide, start = 0, 0
    while start < len(body):
        end = _end_of_text(body, start)
        text = body[start:end]
        if not text.isascii() or _WIDE_ESCAPE.search(text):
            wide += len(text)
        if wide > MAX_WIDE_BYTES:
            raise BadRequest(
                f"The texts of the body that have characters beyond ASCII are more than {MAX_WIDE_BYTES} bytes."
                " A picture in base64 has none."
            )
        start = end + 1


def _end_of_text(body: bytearray, start: int) -> int:
    """Where the next quotation mark is that no backslash escapes; else the end."""
    at = start
    while (found := body.find(b'"', at)) >= 0:
        before = body[at:found]  # whatever is before that ends with a quotation mark
        if (len(before) - len(before.rstrip(b"\\"))) % 2 == 0:
            return found
        at = found + 1
    return len(body)
