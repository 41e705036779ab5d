from __future__ import annotations

import pytest
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from server.edge.translation import from_http_exception, from_validation
from server.errors import BadRequest, TooLarge


def problem(**fields: object) -> RequestValidationError:
    return RequestValidationError([{"type": "missing", "loc": ("body", "n"), "msg": "Field required", **fields}])


def test_the_rule_and_the_field_are_named() -> None:
    error = from_validation(problem(loc=("body", "images", 0, "url")))
    assert (error.param, error.message) == ("images.0.url", "images.0.url: Field required.")


@pytest.mark.parametrize(
    ("kind", "location", "param"),
    [
        ("missing", ("body", "canary\ud800", "x"), None),
        ("missing", ("body", "options", "can ary"), "options"),
        ("extra_forbidden", ("body", "canary"), None),
        ("missing", ("query", "model"), "model"),
        ("missing", ("body",), None),
        ("missing", (), None),
    ],
)
def test_only_plain_names_of_ours_become_param(kind: str, location: tuple[str, ...], param: str | None) -> None:
    error = from_validation(problem(type=kind, loc=location))
    assert error.param == param
    assert "canary" not in error.message


@pytest.mark.parametrize(
    ("kind", "text", "sent"),
    [
        ("union_tag_invalid", "Input tag 'canary' found", {"type": "canary"}),
        ("value_error", "Value error, not an int: 'canary'", "canary"),
        ("value_error", "Value error, bad pair canary", {"a": ["canary"]}),
        ("something_new", "canary", "canary"),
    ],
)
def test_text_that_quotes_the_input_is_dropped(kind: str, text: str, sent: object) -> None:
    assert "canary" not in from_validation(problem(type=kind, msg=text, input=sent)).message


def test_a_validators_own_words_are_kept() -> None:
    error = from_validation(problem(type="value_error", msg="Value error, must be WIDTHxHEIGHT", input="5"))
    assert error.message == "n: must be WIDTHxHEIGHT."


def test_no_errors_at_all_is_still_a_bad_request() -> None:
    assert isinstance(from_validation(RequestValidationError([])), BadRequest)


def test_what_fastapi_hides_behind_a_400_comes_back() -> None:
    hidden = HTTPException(400, "There was an error parsing the body")
    hidden.__cause__ = TooLarge("x")
    assert from_http_exception(hidden) is hidden.__cause__


@pytest.mark.parametrize(
    ("status", "answered"),
    [(404, 404), (405, 405), (413, 413), (416, 416), (418, 400), (500, 500), (503, 500)],
)
def test_statuses_of_the_framework(status: int, answered: int) -> None:
    error = from_http_exception(HTTPException(status, "canary"))
    assert error.answer.status == answered
    assert "canary" not in error.message
