"""Translation: other people's exceptions said as ours, pydantic's and Starlette's → DarkroomError.

Knows their vocabulary; knows nothing of responses. What a client sent never comes back in a message:
stock FastAPI echoes the input, which leaks prompts into logs and turns NaN or a lone surrogate into a 500.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from server.errors import (
    BadRequest,
    DarkroomError,
    MethodNotAllowed,
    NotFound,
    RangeRefused,
    ServerFault,
    TooLarge,
)

# The kinds of pydantic error whose text speaks of the rule alone. Every other kind (union_tag_invalid,
# url_parsing, get_attribute_error …) may quote the input, so its text is replaced.
_TEXT_IS_SAFE = frozenset(
    {
        "missing", "extra_forbidden", "literal_error", "enum", "finite_number", "multiple_of",
        "int_type", "int_parsing", "int_parsing_size", "int_from_float", "float_type",
        "float_parsing", "bool_type", "bool_parsing", "greater_than", "greater_than_equal",
        "less_than", "less_than_equal", "string_type", "string_sub_type", "string_unicode",
        "string_too_short", "string_too_long", "string_pattern_mismatch", "bytes_type",
        "list_type", "tuple_type", "dict_type", "set_type", "too_short", "too_long", "model_type",
        "model_attributes_type", "value_error", "assertion_error", "none_required",
    }
)  # fmt: skip
_TEXT_IS_A_VALIDATORS = frozenset({"value_error", "assertion_error"})
_PLACES = frozenset({"body", "query", "path", "header", "cookie"})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}", re.ASCII)


def from_validation(error: RequestValidationError) -> BadRequest:
    """The first broken rule, named by its field."""
    problems: Sequence[Mapping[str, Any]] = error.errors()
    if not problems:
        return BadRequest("The request is not valid.")
    problem = problems[0]
    kind = str(problem.get("type", ""))
    if kind == "json_invalid":
        return BadRequest("The body is not valid JSON.")
    param = _param(problem.get("loc", ()), kind)
    rule = str(problem.get("msg", "")) if kind in _TEXT_IS_SAFE else "Value is not valid"
    if kind in _TEXT_IS_A_VALIDATORS and _quotes(rule, problem.get("input")):
        rule = "Value is not valid"
    rule = rule.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return BadRequest(f"{param or 'The request body'}: {rule.rstrip('.')}.", param=param)


def _quotes(text: str, sent: object) -> bool:
    """Does ``text`` repeat what was sent? ValueErrors of int() and float() do, and validators leak them."""
    if isinstance(sent, Mapping):
        return any(_quotes(text, value) for value in sent.values())
    if isinstance(sent, list | tuple):
        return any(_quotes(text, value) for value in sent)
    return isinstance(sent, str) and bool(sent) and (sent in text or repr(sent) in text)


def _param(location: Sequence[object], kind: str) -> str | None:
    """``("body", "image", 0)`` → ``image.0``, up to the first part that is not a plain name."""
    parts = list(location)
    if kind == "extra_forbidden":
        parts = parts[:-1]  # that part is a name of the client's own making
    if parts and parts[0] in _PLACES:
        parts = parts[1:]
    named: list[str] = []
    for part in parts:
        if not isinstance(part, int) and not (isinstance(part, str) and _NAME.fullmatch(part)):
            break
        named.append(str(part))
    return ".".join(named) or None


def from_http_exception(error: HTTPException) -> DarkroomError:
    """What the framework itself refuses. Its detail is dropped: it may describe the input."""
    cause = error.__cause__
    if isinstance(cause, DarkroomError):  # FastAPI hides what goes wrong while a body is read behind a 400
        return cause
    status = error.status_code
    if status == 404:
        return NotFound("There is nothing at this path.")
    if status == 405:
        return MethodNotAllowed("This path does not take this method; the Allow header lists those it takes.")
    if status == 413:
        return TooLarge("The body is too large.")
    if status == 416:
        return RangeRefused("That range cannot be served.")
    if status >= 500:
        return ServerFault("The server failed on this request; its log says why.")
    return BadRequest("The body could not be read as the content type that it declares.")
