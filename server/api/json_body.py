"""JSON bodies: a request's body as an object, or a refusal that says what was sent instead.

Knows how a body begins and what its Content-Type claims; knows no fields. A byte order mark is dropped. The type is
not believed where the body is JSON all the same: curl -d says that everything is a form.
"""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request

from server.api.wire import read_json
from server.errors import BadRequest

_UTF8_MARK: Final = b"\xef\xbb\xbf"
_UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
_FORM: Final = "multipart/form-data"
_URLENCODED: Final = "application/x-www-form-urlencoded"


def read_object(body: bytes, content_type: str) -> dict[str, Any]:
    """The JSON object in ``body``. Raises BadRequest, without a word of what was sent."""
    try:
        return read_json(body.removeprefix(_UTF8_MARK))
    except BadRequest as error:
        told = _what_it_is(body, content_type)
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
    """What a body is that is not JSON, if that can be told; and what helps."""
    if not body:
        return "The body is empty; it must be a JSON object."
    if body.startswith(b"\x1f\x8b"):
        return "The body is compressed with gzip. Say so in the header Content-Encoding: gzip."
    if body.startswith(_UTF16_MARKS) or b"\0" in body[:4]:
        return "The body is not UTF-8, it looks like UTF-16 or UTF-32. Send JSON in UTF-8."
    if content_type == _FORM or (body.startswith(b"--") and b"content-disposition" in body[:1000].lower()):
        return f"The body is a {_FORM} form. This route reads JSON: send an object, Content-Type: application/json."
    if content_type == _URLENCODED and b"=" in body[:1000] and not body.lstrip().startswith((b"{", b"[", b'"')):
        return f"The body is an {_URLENCODED} form. Send a JSON object with Content-Type: application/json."
    return None
