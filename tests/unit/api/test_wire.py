"""Whatever arrives as a body is a request or a BadRequest, and nothing of it is echoed."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from server.api.aliases import ALIASES, PARTS
from server.api.json_object import read_json
from server.api.reader import read
from server.api.wire import ImageFields
from server.errors import BadRequest

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4))
OTHERS = [*PARTS, *(name for names in ALIASES.values() for name in names)]
NAMES = [*ImageFields.model_fields, "images", "user", "", *OTHERS]
FIELDS = st.dictionaries(st.sampled_from(NAMES), JSON, max_size=8)


def attempt(fields: dict[str, Any]) -> ImageFields | BadRequest:
    try:
        return read(fields).fields
    except BadRequest as refusal:
        return refusal


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes(body: bytes) -> None:
    with contextlib.suppress(BadRequest):
        read(read_json(body))


@settings(max_examples=600, deadline=None)
@given(FIELDS)
def test_any_values_in_the_fields(fields: dict[str, Any]) -> None:
    request = attempt({"prompt": "x", **fields})
    if isinstance(request, BadRequest):
        refusal = request
        assert refusal.param is not None
        assert refusal.param.partition("[")[0] in NAMES  # controls[0].name
        assert refusal.message.endswith(".")
        assert len(refusal.message) < 200
        return
    assert 1 <= request.n <= 10
    assert type(request.n) is int
    assert request.seed is None or 0 <= request.seed < 2**63
    assert request.strength is None or 0 < request.strength <= 1
    assert "\x00" not in request.prompt


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(
        sorted(set(ImageFields.model_fields) - {"prompt", "model", "image", "negative_prompt"} | {"images"})
    )
)
def test_what_was_sent_is_not_echoed(field: str) -> None:
    for value in ("canary", ["canary"], {"canary": "canary"}, [{"canary": "canary"}]):
        answer = attempt({"prompt": "x", field: value})
        assert not isinstance(answer, BadRequest) or "canary" not in answer.message
