from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.edge.keys import Keyring
from tests.assertions import assert_api_error
from tests.unit.edge.live import Live, read_all, read_answer, serve, settings_for
from tests.unit.edge.rooms import make_app

PING = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
OFFERS = [
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
]
BODIES = {
    "length": (b"Content-Length: 5\r\n\r\n", b"hello"),
    "chunks": (b"Transfer-Encoding: chunked\r\n\r\n", b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    settings = settings_for(tmp_path_factory.mktemp("data"), header_timeout_s=0.5, body_timeout_s=0.5)
    with serve(make_app(settings, Keyring.in_memory()), settings) as live:
        yield live


@pytest.mark.parametrize("offer", OFFERS, ids=["h2c", "websocket"])
def test_a_request_without_a_body_is_answered(live: Live, offer: bytes) -> None:
    with live.connect() as connection:
        for _ in range(2):
            connection.sendall(PING[:-2] + offer + b"\r\n")
            assert read_answer(connection).json() == {"ok": True}


@pytest.mark.parametrize("offer", OFFERS, ids=["h2c", "websocket"])
@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize(("framing", "body"), BODIES.values(), ids=BODIES)
def test_a_body_behind_an_offer_is_read(live: Live, offer: bytes, step: int, framing: bytes, body: bytes) -> None:
    raw = b"POST /read HTTP/1.1\r\nHost: localhost\r\n" + offer + framing + body
    with live.connect() as connection:
        for _ in range(2):
            for at in range(0, len(raw), step):
                connection.sendall(raw[at : at + step])
            assert read_answer(connection).json() == {"bytes": 5}
        connection.sendall(PING)
        assert read_answer(connection).json() == {"ok": True}


def test_what_is_pipelined_behind_offers_is_answered(live: Live) -> None:
    offering = PING[:-2] + OFFERS[0] + b"\r\n"
    post = b"POST /read HTTP/1.1\r\nHost: localhost\r\n" + OFFERS[0] + BODIES["chunks"][0] + BODIES["chunks"][1]
    last = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with live.connect() as connection:
        connection.sendall(offering * 20 + post * 20 + PING * 20 + last)
        raw = read_all(connection)
    assert raw.count(b'{"ok":true}') == 41
    assert raw.count(b'{"bytes":5}') == 20


def test_a_body_behind_an_offer_has_its_deadline_too(live: Live) -> None:
    raw = b"POST /read HTTP/1.1\r\nHost: localhost\r\n" + OFFERS[0] + b"Content-Length: 5\r\n\r\nhe"
    with live.connect() as connection:
        connection.sendall(raw)
        began = time.monotonic()
        assert_api_error(read_answer(connection), 408, "request_timeout")
        assert time.monotonic() - began < 5


JAVA = """
import java.net.URI; import java.net.http.*;
public class Post { public static void main(String[] a) throws Exception {
  var request = HttpRequest.newBuilder(URI.create(a[0] + "/read"))
      .POST(HttpRequest.BodyPublishers.ofString("hello")).build();
  var client = HttpClient.newHttpClient();
  for (int i = 0; i < 3; i++)
    System.out.print(client.send(request, HttpResponse.BodyHandlers.ofString()).body());
} }
"""


@pytest.mark.skipif(shutil.which("javac") is None, reason="needs a JDK: apt-get install default-jdk-headless")
def test_javas_own_client(live: Live, tmp_path: Path) -> None:
    (tmp_path / "Post.java").write_text(JAVA)
    command = ["java", str(tmp_path / "Post.java"), live.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == '{"bytes":5}' * 3
