from __future__ import annotations

import asyncio
import gzip
import os
import time
import zlib
from collections.abc import Callable, Iterator

import pytest
from starlette.types import Message, Receive, Scope, Send

from server.edge.encodings import MAX_MEMBERS, ContentEncodings
from server.edge.keys import Keyring
from server.errors import BadRequest, TooLarge, UnsupportedEncoding
from tests.assertions import assert_api_error
from tests.unit.edge.asgi import exchange, http_scope
from tests.unit.edge.live import Live, serve, settings_for
from tests.unit.edge.rooms import make_app

MIB = 1024 * 1024
CAP = 4 * MIB
BODY = b'{"prompt": "a cat"}'


def bare(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZip": gzip.compress,
    "identity, gzip": gzip.compress,
    "deflate": zlib.compress,
    "deflate, identity": bare,
    "identity": bytes,
    "": bytes,
}


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await send({"type": "read", "body": body, "headers": scope["headers"]})


def read(coding: str, *pieces: bytes, cap: int = CAP) -> bytes:
    headers = [(b"content-encoding", coding.encode()), (b"content-length", b"1")]
    incoming: list[Message] = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    incoming[-1]["more_body"] = False
    app = ContentEncodings(echo, max_bytes=cap)
    sent = asyncio.run(exchange(app, http_scope("POST", headers=headers), incoming))
    body: bytes = sent[0]["body"]
    return body


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    settings = settings_for(tmp_path_factory.mktemp("data"), max_body_bytes=CAP)
    with serve(make_app(settings, Keyring.in_memory()), settings) as live:
        yield live


@pytest.mark.parametrize("coding", PACKED)
def test_a_packed_body_is_read(live: Live, coding: str) -> None:
    """gzip was answered "The body is not valid JSON"."""
    with live.client() as client:
        headers = {"content-encoding": coding, "content-type": "application/json"}
        for _ in range(2):
            answer = client.post("/pictures", content=PACKED[coding](BODY), headers=headers)
            assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, bare])
@pytest.mark.parametrize("size", [0, 1, 256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, 2 * MIB])
def test_every_size_comes_out_whole(pack: Callable[[bytes], bytes], size: int) -> None:
    coding = "gzip" if pack is gzip.compress else "deflate"
    for data in (os.urandom(size), (b"abcdefgh" * (size // 64 + 1) + os.urandom(size // 2))[:size]):
        packed = pack(data)
        assert read(coding, packed) == data
        assert read(coding, *(packed[i : i + 1000] for i in range(0, len(packed), 1000))) == data
    assert read(coding, *(packed[i : i + 1] for i in range(min(len(packed), 50))), packed[50:], b"") == data


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "gzip, br", "canary\xe9"])
def test_another_encoding_is_refused_with_those_that_are_read(live: Live, coding: str) -> None:
    with live.client() as client:
        answer = client.post("/pictures", content=BODY, headers=[(b"content-encoding", coding.encode("latin-1"))])
    error = assert_api_error(answer, 415, "unsupported_encoding")
    assert "gzip or deflate" in error["message"]
    assert "canary" not in answer.text
    assert answer.headers["accept-encoding"] == "gzip, deflate"


def test_the_header_twice_is_two_encodings() -> None:
    twice = [(b"content-encoding", b"gzip")] * 2
    with pytest.raises(UnsupportedEncoding):
        asyncio.run(exchange(ContentEncodings(echo, max_bytes=CAP), http_scope("POST", headers=twice)))


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", BODY),
        ("deflate", b"\xff\xff\xff"),
        ("gzip", gzip.compress(BODY)[:-1]),
        ("gzip", gzip.compress(BODY)[:9]),
        ("deflate", zlib.compress(BODY)[:-5]),
        ("gzip", gzip.compress(BODY) + b"more"),
        ("gzip", gzip.compress(BODY) + gzip.compress(BODY)[:-1]),
        ("deflate", zlib.compress(BODY) + b"x"),
    ],
    ids=range(8),
)
def test_what_cannot_be_unpacked_is_refused(live: Live, coding: str, body: bytes) -> None:
    with pytest.raises(BadRequest):
        read(coding, body)
    with live.client() as client:
        for path in ("/pictures", "/read"):
            answer = client.post(path, content=body, headers={"content-encoding": coding})
            assert_api_error(answer, 400, "invalid_value")


@pytest.mark.parametrize("step", [1, 7, 64 * 1024])
def test_a_gzip_body_of_several_members_is_one(step: int) -> None:
    """It was 400; parallel and block-wise packers write nothing else (RFC 1952, 2.2)."""
    packed = gzip.compress(BODY) + gzip.compress(b"") + gzip.compress(bytes(1000)) + gzip.compress(b"end")
    pieces = [packed[start : start + step] for start in range(0, len(packed), step)]
    assert read("gzip", *pieces) == BODY + bytes(1000) + b"end"


def test_members_have_the_bounds_of_one_body() -> None:
    with pytest.raises(TooLarge, match=f"{MAX_MEMBERS} gzip members"):
        read("gzip", gzip.compress(b"") * 100_000)
    with pytest.raises(TooLarge, match="100 times"):
        read("gzip", gzip.compress(bytes(MIB)) * 3)
    with pytest.raises(TooLarge, match="larger than"):
        read("gzip", gzip.compress(os.urandom(6000)) * 2, cap=10_000)


def test_a_bomb_does_not_go_off(live: Live) -> None:
    """A kilobyte can become a mebibyte, and a mebibyte a gibibyte."""
    packer = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS)
    bomb = b"".join(packer.compress(bytes(MIB)) for _ in range(256)) + packer.flush()
    assert len(bomb) < 300_000
    with pytest.raises(TooLarge, match="100 times"):
        read("gzip", bomb, cap=1024 * MIB)
    with pytest.raises(TooLarge, match="larger than"):
        read("gzip", gzip.compress(os.urandom(10_001)), cap=10_000)
    assert read("gzip", gzip.compress(bytes(MIB))) == bytes(MIB)  # small enough to be no matter
    began = time.process_time()
    with live.client() as client:
        answer = client.post("/read", content=bomb, headers={"content-encoding": "gzip"})
    assert_api_error(answer, 413, "too_large")
    assert time.process_time() - began < 1


def test_a_client_that_leaves_inside_a_packed_body_is_told_to_the_app() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((await receive())["type"])

    scope = http_scope("POST", headers=[(b"content-encoding", b"gzip")])
    asyncio.run(exchange(ContentEncodings(app, max_bytes=CAP), scope, [{"type": "http.disconnect"}]))
    assert seen == ["http.disconnect"]
