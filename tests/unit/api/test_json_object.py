"""A name that stands twice in a JSON body must say the same both times."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.api.json_object import read_json
from server.errors import BadRequest

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4))


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.text(), JSON, max_size=6))
def test_every_object_is_read_as_it_is(value: dict[str, Any]) -> None:
    assert read_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ('{"n": 1, "n": 2}', "n"),
        ('{"n": 1, "n": true}', "n"),
        ('{"size": "512x512", "prompt": "x", "size": "256x256", "size": ""}', "size"),
        ('{"image": {"url": "http://a.example", "url": "http://b.example"}}', "url"),
        ('{"loras": [{"name": "x"}, {"weight": 1, "weight": 0.5}]}', "weight"),
        ('{"input": {"modelOptions": {"seed": 1, "seed": 2}}}', "seed"),
        ('{"\\u0073eed": 1, "seed": 2}', "seed"),
    ],
)
def test_a_name_that_says_two_things_is_refused(body: str, name: str) -> None:
    """The last one won without a word."""
    with pytest.raises(BadRequest, match=f"^{name} is twice in the body, and differs") as caught:
        read_json(body.encode())
    assert caught.value.param == name


@pytest.mark.parametrize("first", ["null", '""', '" "', '"512x512"'])
def test_a_name_twice_is_fine_where_nothing_is_lost(first: str) -> None:
    for pair in ((first, '"512x512"'), ('"512x512"', first)):
        assert read_json('{{"size": {}, "size": {}}}'.format(*pair).encode()) == {"size": "512x512"}


def test_a_name_that_cannot_be_shown_is_not_echoed() -> None:
    with pytest.raises(BadRequest) as caught:
        read_json(b'{"<script>": 1, "<script>": 2}')
    assert caught.value.param is None
    assert "script" not in caught.value.message


def test_however_deep_it_is_an_object_or_a_refusal() -> None:
    for depth in (5, 20, 500):
        assert read_json(b'{"x":' * depth + b"1" + b"}" * depth)
    with pytest.raises(BadRequest, match="not valid JSON"):
        read_json(b'{"x":' * 100_000 + b"1" + b"}" * 100_000)
