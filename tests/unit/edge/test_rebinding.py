from __future__ import annotations

from pathlib import Path

import pytest

from server.edge.rebinding import RebindingGuard
from server.errors import BadRequest
from tests.unit.edge.asgi import http_scope
from tests.unit.edge.live import settings_for


def check(guard: RebindingGuard, method: str = "GET", **headers: str) -> None:
    guard.check(http_scope(method, headers=[(name.encode(), value.encode()) for name, value in headers.items()]))


@pytest.fixture
def guard(tmp_path: Path) -> RebindingGuard:
    return RebindingGuard(settings_for(tmp_path, public_url="https://pictures.example:8443/sub"))


OURS = [
    "localhost",
    "localhost:9000",
    "LOCALHOST",
    "127.0.0.1",
    "127.0.0.1:8000",
    "127.0.0.53",
    "[::1]",
    "[::1]:80",
]


@pytest.mark.parametrize("host", [*OURS, "pictures.example", "pictures.example:8443"])
def test_names_of_this_machine_are_ours(guard: RebindingGuard, host: str) -> None:
    check(guard, host=host)


FOREIGN = [
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.nip.io",
    "a/x?",
    "localhost/x",
    "localhost@evil",
    "",
]


@pytest.mark.parametrize("host", [*FOREIGN, "localhost:x", "10.0.0.1", "[::2]", "localhost evil", "0.0.0.0", "::1"])
def test_any_other_is_a_rebound_name(guard: RebindingGuard, host: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check(guard, host=host)
    assert caught.value.code == "host_refused"
    assert "darkroom keys create" in caught.value.message
    assert "evil" not in caught.value.message


def test_two_hosts_are_refused_and_none_is_no_browser(guard: RebindingGuard) -> None:
    with pytest.raises(BadRequest):
        guard.check(http_scope(headers=[(b"host", b"localhost"), (b"host", b"localhost")]))
    check(guard)


def test_the_configured_host_is_ours(tmp_path: Path) -> None:
    check(RebindingGuard(settings_for(tmp_path, host="::1")), host="[::1]:8000")
    check(RebindingGuard(settings_for(tmp_path, host="127.0.0.9")), host="127.0.0.9:8000")


SAME = [
    ("localhost:8000", "http://localhost:8000"),
    ("localhost", "http://localhost"),
    ("localhost:80", "http://localhost"),
    ("127.0.0.1:8000", "https://127.0.0.1:8000"),
    ("[::1]:8000", "http://[::1]:8000"),
    ("localhost:8000", "https://pictures.example:8443"),
]
OTHER = [
    "http://evil.example",
    "http://localhost:3000",
    "null",
    "",
    "app://.",
    "http://localhost:8000.evil.example",
]


@pytest.mark.parametrize(("host", "origin"), SAME)
def test_our_own_page_may_post(guard: RebindingGuard, host: str, origin: str) -> None:
    check(guard, "POST", host=host, origin=origin)


@pytest.mark.parametrize("origin", [*OTHER, "http://localhost:99999", "http://[::1", "http://localhost:8000@evil"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_another_page_may_not(guard: RebindingGuard, origin: str, method: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check(guard, method, host="localhost:8000", origin=origin)
    assert caught.value.code == "origin_refused"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_it_may_look_as_it_cannot_read(guard: RebindingGuard, method: str) -> None:
    """A preflight was 400, where the documents say 204; without a word of its origin a browser goes no further."""
    check(guard, method, host="localhost:8000", origin="http://evil.example")
    with pytest.raises(BadRequest):
        check(guard, method, host="evil.example", origin="http://evil.example")


def test_beyond_loopback_names_are_unknown_but_pages_are_still_pages(tmp_path: Path) -> None:
    guard = RebindingGuard(settings_for(tmp_path, host="0.0.0.0", allow_open=True))
    check(guard, "POST", host="gpu-box.lan:8000")
    with pytest.raises(BadRequest):
        check(guard, "POST", host="gpu-box.lan:8000", origin="http://evil.example")
