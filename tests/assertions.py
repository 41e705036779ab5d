"""Assertions that every suite shares."""

from __future__ import annotations

from typing import Any

import httpx

from server.errors import ANSWERS


def assert_api_error(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """``response`` is the one shape of failure, with this status and code. Returns the error object."""
    text = response.text
    assert response.status_code == status, (response.status_code, text[:500])
    assert response.headers["content-type"].partition(";")[0] == "application/json"
    body = response.json()
    assert set(body) == {"error"}, body
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}, error
    assert error["code"] == code, error
    assert isinstance(error["message"], str), error
    assert error["message"], error
    assert error["param"] is None or isinstance(error["param"], str), error
    assert error["type"] in {answer.type for answer in ANSWERS.values()}, error
    assert response.headers["x-request-id"], response.headers
    assert response.headers["x-should-retry"] in ("true", "false"), response.headers
    if status == 429 and response.headers["x-should-retry"] == "true":
        assert int(response.headers["retry-after"]) >= 1
    assert "0x" not in text
    assert "Traceback" not in text
    return error
