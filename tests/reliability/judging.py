"""What every answer must be, whatever was asked: our codes, the one shape of errors, no secret, in time.

Knows answers; knows nothing of how requests are made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from tests.reliability.raw_http import Answer

MAX_SECONDS = 10.0  # for any answer; jobs on blank paper take less than one
BY_DESIGN = (503, 507)  # our own 5xx, which carry a code
_CODE = re.compile(r"[a-z][a-z_]*")
_LEAK = re.compile(r"0x[0-9a-f]{6,}|Traceback|site-packages|\.py\b")


def judge(answer: Answer, *, secret: str | None = None, max_seconds: float = MAX_SECONDS) -> Iterator[tuple[str, str]]:
    """Each thing that is wrong with an answer: its kind and its detail."""
    if answer.broken:
        yield "framing", answer.broken
        return
    text = answer.body.decode("utf-8", "replace")
    seen = f"{answer.status} {text[:300]}"
    if answer.seconds > max_seconds:
        yield "slow", f"{answer.seconds:.1f} s for {answer.status}"
    if secret and answer.status >= 400 and (secret in text or secret in str(answer.headers)):
        yield "secret", seen.replace(secret, "KEY")
    if "x-request-id" not in answer.headers:
        yield "no request id", seen
    if answer.status < 400:
        return
    if answer.status == 405 and "allow" not in answer.headers:
        yield "allow", f"405 for {answer.method} does not say what is allowed"
    if answer.method == "HEAD" or _is_probe(answer):
        if answer.status >= 500 and answer.status not in BY_DESIGN:
            yield "server error", seen
        return
    code, message = _error(answer)
    if answer.status >= 500 and (answer.status not in BY_DESIGN or code is None):
        yield "server error", seen
    elif code is None:
        yield "shape", seen
    if message and _LEAK.search(message):
        yield "leak", seen


def _is_probe(answer: Answer) -> bool:
    """Probes are for orchestrators; a 503 of /readyz says why in words of its own."""
    return answer.status == 503 and b'"ready"' in answer.body


def _error(answer: Answer) -> tuple[str | None, str]:
    """The code and message of an error in the one shape; no code if it is not in it."""
    if answer.headers.get("content-type", "").partition(";")[0] != "application/json":
        return None, ""
    try:
        body = json.loads(answer.body)
        error = body["error"]
        if set(error) == {"message", "type", "param", "code"} and isinstance(error["message"], str):
            return (error["code"] if _CODE.fullmatch(error["code"]) else None), error["message"]
    except (ValueError, TypeError, KeyError):
        pass
    return None, ""
