"""Open routes, Host tricks and rebinding: what a stranger may reach with a request of raw bytes."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from server.edge.keys import Keyring
from tests.assertions import assert_api_error
from tests.unit.edge.live import Live, parse, read_all, serve, settings_for
from tests.unit.edge.rooms import make_app

RING = {"alice": "dk_alice"}


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    settings = settings_for(tmp_path_factory.mktemp("keyed"))
    with serve(make_app(settings, Keyring.in_memory(RING)), settings) as live:
        yield live


@pytest.fixture(scope="module")
def keyless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    settings = settings_for(tmp_path_factory.mktemp("open"))
    with serve(make_app(settings, Keyring.in_memory()), settings) as live:
        yield live


def ask(live: Live, target: str, *lines: str, host: str = "localhost", method: str = "GET") -> httpx.Response:
    head = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close", *lines, "", ""]
    with live.connect() as connection:
        connection.sendall("\r\n".join(head).encode("latin-1"))
        return parse(read_all(connection))


CLOSED = [
    "/livez/../v1/models/x",
    "//livez/../v1/models/x",
    "//livez//..//v1//models//x",
    "/livez%2f..%2fv1",
    "/livez%2f",
    "/%2flivez",
    "//livez%2f/",
    "/livez/.",
    "/./livez",
    "/livez/%2e/",
    "/livez\\",
    "/livez%5c/",
    "//v1//models//x/",
    "/livez%00",
    "/%2e%2e/livez",
    "/livez%3f",
    "/readyz//x",
    "//metrics/",
    "//docs/",
    "//openapi.json",
    "/models",
    "/models/x",
    "//files",
    "/v1/files/x",
    "/filesx//files/x",
    "/v1//files/x",
    "//page",
]


@pytest.mark.parametrize(
    "target", ["//livez", "/livez/", "//livez//", "///readyz///", "//", "http://localhost//livez/"]
)
def test_carelessness_with_slashes_opens_what_is_open(keyed: Live, target: str) -> None:
    assert ask(keyed, target).status_code == 200


@pytest.mark.parametrize("target", ["//files/x", "///files/x?signature=a//b/"])
def test_a_pictures_name_is_literal(keyed: Live, target: str) -> None:
    """Below an open folder nothing is read as anything else: the file of two letters is not that of one."""
    assert ask(keyed, target).text == "file of 1"
    for other in ("//files//x", "//files/../livez", "//files/x%2f..%2fy/", "/files/./x"):
        assert_api_error(ask(keyed, other), 404, "not_found")
    assert ask(keyed, "/files/x/").text == "file of 2"


@pytest.mark.parametrize("target", [*CLOSED, "http://localhost/v1/models/x", "http://localhost/livez/../pictures"])
def test_tricks_with_the_path_need_a_key(keyed: Live, target: str) -> None:
    assert_api_error(ask(keyed, target), 401, "invalid_api_key")


@pytest.mark.parametrize(
    "target", ["/files/..%2f..%2fkeys.json", "/files/%2e%2e/x", "/page/..%5cx", "/files/../pictures"]
)
def test_climbing_out_of_an_open_folder_finds_nothing(keyed: Live, target: str) -> None:
    assert_api_error(ask(keyed, target), 404, "not_found")


@pytest.mark.parametrize("host", ["a/x?", "localhost/livez?", "evil.example", "", "a b"])
def test_a_host_header_opens_nothing(keyed: Live, keyless: Live, host: str) -> None:
    """CVE-2026-48710: a URL rebuilt from ``Host: localhost/livez?`` has the path /livez."""
    assert_api_error(ask(keyed, "/v1/models/x", host=host), 401, "invalid_api_key")
    assert_api_error(ask(keyless, "/v1/models/x", host=host), 400, "host_refused")


def test_a_web_page_cannot_drive_the_open_server(keyless: Live) -> None:
    with keyless.client() as client:
        fields = {"prompt": "x"}
        refused = client.post("/pictures", json=fields, headers={"origin": "http://evil.example"})
        assert_api_error(refused, 400, "origin_refused")
        preflight = client.options("/pictures", headers={"origin": "http://evil.example"})
        assert preflight.status_code == 204  # which allows no origin, so that the browser sends nothing more
        assert not [name for name in preflight.headers if name.startswith("access-control-")]
        assert client.post("/pictures", json=fields, headers={"origin": keyless.url}).status_code == 200
        assert client.post("/pictures", json=fields).status_code == 200


def test_with_keys_an_origin_is_no_matter(keyed: Live) -> None:
    headers = {"origin": "http://tool.example", "authorization": "Bearer dk_alice"}
    with keyed.client() as client:
        assert client.post("/pictures", json={"prompt": "x"}, headers=headers).status_code == 200
