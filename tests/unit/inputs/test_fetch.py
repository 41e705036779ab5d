"""The guard and the dialler, against a scripted resolver and real loopback servers."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpcore
import pytest

from server.errors import BadImage, ConfigError, LinkRefused, TooLarge
from server.inputs.fetch import Fetcher

pytestmark = pytest.mark.anyio

PICTURE = b"\x89PNG picture"
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def nothing(url: str) -> bytes | None:
    return None


def fetcher(fetch: str = "public", *, timeout_s: float = 5, max_bytes: int = 1000, **options: Any) -> Fetcher:
    return Fetcher(fetch, **{"timeout_s": timeout_s, "max_bytes": max_bytes, "own": nothing, **options})


def answer(head: str = "HTTP/1.1 200 OK", *headers: str, body: bytes = PICTURE, length: bool = True) -> Script:
    lines = [head, *headers, *([f"Content-Length: {len(body)}"] if length else [])]

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    return script


class Peer:
    def __init__(self) -> None:
        self.port = 0
        self.requests: list[str] = []
        self.names: list[str | None] = []  # SNI


@asynccontextmanager
async def serving(script: Script, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    peer = Peer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            peer.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
            await script(reader, writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    if tls is not None:
        tls.sni_callback = lambda sock, name, context: peer.names.append(name)
    server = await asyncio.start_server(serve, host, 0, ssl=tls)
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield peer
    finally:
        server.close()


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """Scripted answers for host names: one list of addresses for each time of asking."""
    answers: dict[str, list[list[str]]] = {}

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        if host not in answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(0, 0, 0, "", (address, port)) for address in answers[host].pop(0)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return answers


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that were dialled; each refuses the connection."""
    seen: list[str] = []

    async def connect_tcp(self: Any, host: str, port: int, **_: Any) -> Any:
        seen.append(host)
        raise httpcore.ConnectError

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect_tcp)
    return seen


async def refused(url: str, by: Fetcher) -> BadImage:
    with pytest.raises(BadImage) as caught:
        await by.fetch(url, param="image")
    assert caught.value.param == "image"
    assert caught.value.__cause__ is None
    return caught.value


# --- what may be asked ---


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://localhost/",
        "http://[::1]/",
        "http://[::ffff:169.254.169.254]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://100.64.0.1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://①②⑦.⓪.⓪.①/",
        "http://a\\@127.0.0.1/",
        "http://[64:ff9b::7f00:1]/",
        "http://224.0.0.1/",
        "file:///etc/passwd",
        "http://no-such-name.example/",
        "http://down.example/",
        "http://xn--a.example/",
        "http://xn--/",
    ],
)
async def test_every_refusal_reads_the_same(url: str, resolver: dict[str, list[list[str]]], dialled: list[str]) -> None:
    resolver |= {"localhost": [["127.0.0.1", "::1"]], "down.example": [["93.184.216.34"]]}
    message = (await refused(url, fetcher())).message
    assert message == (await refused("nonsense:", fetcher())).message
    assert dialled == (["93.184.216.34"] if "down" in url else [])


async def test_one_private_address_among_public_ones_is_enough_to_refuse(
    resolver: dict[str, list[list[str]]], dialled: list[str]
) -> None:
    resolver["mixed.example"] = [["93.184.216.34", "10.0.0.1"]]
    await refused("http://mixed.example/", fetcher())
    assert dialled == []


async def test_rebinding_dns_is_asked_once_and_what_was_checked_is_dialled(
    resolver: dict[str, list[list[str]]], dialled: list[str]
) -> None:
    resolver["rebind.example"] = [["93.184.216.34", "2606:4700::1111"], ["127.0.0.1"]]
    await refused("http://rebind.example/", fetcher())
    assert dialled == ["93.184.216.34", "2606:4700::1111"]
    assert resolver["rebind.example"] == [["127.0.0.1"]]


async def test_off_says_what_to_send_instead(dialled: list[str]) -> None:
    message = (await refused("http://93.184.216.34/", fetcher("off"))).message
    assert "fetches no URLs" in message
    assert "data: URL or as base64" in message
    assert dialled == []


@pytest.mark.parametrize("fetch", ["public", "off", "elsewhere.example"])
async def test_our_own_picture_is_read_from_the_store_and_never_fetched(fetch: str, dialled: list[str]) -> None:
    async def own(url: str) -> bytes | None:
        return PICTURE if url.startswith("http://localhost:8000/files/") else None

    ours = fetcher(fetch, own=own)
    assert await ours.fetch("http://localhost:8000/files/x.png?a=b", param="image") == PICTURE
    await refused("http://localhost:8000/other", ours)
    assert dialled == []


async def test_an_expired_link_of_ours_says_so() -> None:
    async def own(url: str) -> bytes | None:
        raise LinkRefused("The picture's link has expired.")

    with pytest.raises(LinkRefused):
        await fetcher(own=own).fetch("http://x.example/", param="image")


async def test_a_url_of_megabytes_is_not_taken_apart(dialled: list[str]) -> None:
    asked: list[str] = []  # taken apart, its query held the event loop up, half a second a megabyte

    async def own(url: str) -> bytes | None:
        asked.append(url)
        return None

    ours = fetcher(own=own)
    long = await refused("http://93.184.216.34/?" + "a=1&" * 500_000, ours)
    assert long.message == (await refused("http://127.0.0.1/", ours)).message
    assert (asked, dialled) == (["http://127.0.0.1/"], [])


async def test_listed_hosts_are_the_only_ones(resolver: dict[str, list[list[str]]], dialled: list[str]) -> None:
    listed = fetcher(" Minio.internal, 10.0.0.7 ,[fd00::1], fd00::2")
    resolver |= {"minio.internal": [["10.9.9.9"]], "other.example": [["93.184.216.34"]]}
    for url in ("http://minio.internal/", "http://10.0.0.7:9000/", "http://[fd00::1]/", "http://[fd00::2]/"):
        await refused(url, listed)
    assert dialled == ["10.9.9.9", "10.0.0.7", "fd00::1", "fd00::2"]
    for url in (
        "http://other.example/",
        "http://10.9.9.9/",
        "http://sub.minio.internal/",
        "http://93.184.216.34/",
    ):
        await refused(url, listed)
    assert len(dialled) == 4
    assert resolver["other.example"], "a host that is not listed was looked up"


@pytest.mark.parametrize("fetch", ["", "http://a.example", "a.example:0", "a b", "0x7f.1", "*.example", "a@b", "[::1"])
def test_bad_host_list_stops_at_the_door(fetch: str) -> None:
    with pytest.raises(ConfigError, match="DARKROOM_FETCH"):
        fetcher(fetch)


# --- what is answered ---


async def got(script: Script, *, host: str = "127.0.0.1", path: str = "/a%20b?c", **options: Any) -> tuple[bytes, Peer]:
    async with serving(script, host) as peer:
        shown = f"[{host}]" if ":" in host else host
        fetching = fetcher(host, **options)
        return await fetching.fetch(f"http://{shown}:{peer.port}{path}", param="image"), peer


async def test_listed_private_host_is_fetched_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://192.0.2.1:3128")
    body, peer = await got(answer())
    assert body == PICTURE
    assert peer.requests[0].startswith("GET /a%20b?c HTTP/1.1\r\n")
    assert f"Host: 127.0.0.1:{peer.port}\r\n" in peer.requests[0]
    assert "Accept-Encoding: identity\r\n" in peer.requests[0]
    assert "cookie" not in peer.requests[0].lower()


async def test_ipv6_and_chunks_and_no_length() -> None:
    body, peer = await got(answer(), host="::1")
    assert (body, f"Host: [::1]:{peer.port}\r\n" in peer.requests[0]) == (PICTURE, True)
    chunked = answer("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n", length=False)
    assert (await got(chunked))[0] == b"abc"
    assert (await got(answer(length=False)))[0] == PICTURE


@pytest.mark.parametrize(
    "script",
    [
        answer("HTTP/1.1 302 Found", "Location: http://169.254.169.254/latest/meta-data/"),
        answer("HTTP/1.1 301 Moved", "Location: /elsewhere"),
        answer("HTTP/1.1 404 Not Found"),
        answer("HTTP/1.1 500 Oops"),
        answer("HTTP/1.1 206 Partial Content"),
        answer("HTTP/1.1 204 No Content", body=b""),
        answer("HTTP/1.1 200 OK", "Content-Encoding: gzip"),
        answer("HTTP/1.1 200 OK", "Content-Length: 500", length=False),
        answer("SSH-2.0-OpenSSH_9.9"),
        answer("HTTP/1.1 200 OK", "X: " + "y" * 300_000),
    ],
    ids=["302", "301", "404", "500", "206", "204", "gzip", "cut short", "not HTTP", "huge header"],
)
async def test_anything_but_a_plain_200_is_the_same_refusal(script: Script) -> None:
    with pytest.raises(BadImage) as caught:
        await got(script)
    assert caught.value.message == (await refused("nonsense:", fetcher("127.0.0.1"))).message


async def test_redirect_is_not_followed() -> None:
    async with serving(answer()) as inner:
        moved = answer("HTTP/1.1 302 Found", f"Location: http://127.0.0.1:{inner.port}/")
        async with serving(moved) as outer:
            with pytest.raises(BadImage):
                await fetcher("127.0.0.1").fetch(f"http://127.0.0.1:{outer.port}/", param="image")
        assert (len(outer.requests), inner.requests) == (1, [])


async def test_oversize_is_413_by_its_header_and_by_its_bytes() -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.is_closing():
            writer.write(bytes(1000))
            await writer.drain()

    for script in (
        answer(body=bytes(1001)),
        answer("HTTP/1.1 200 OK", "Content-Length: " + "9" * 15, length=False),
        endless,
    ):
        with pytest.raises(TooLarge) as caught:
            await got(script)
        assert caught.value.param == "image"
    assert len((await got(answer(body=bytes(1000))))[0]) == 1000


async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def forever_continue(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while not writer.is_closing():
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("script", [dripping, silent, forever_continue])
async def test_one_deadline_over_everything(script: Script) -> None:
    started = time.perf_counter()
    with pytest.raises(BadImage):
        await got(script, timeout_s=0.3)
    assert time.perf_counter() - started < 5


async def test_a_dead_first_address_does_not_hide_a_live_second(resolver: dict[str, list[list[str]]]) -> None:
    async with serving(answer()) as peer:
        resolver["two.example"] = [["::1", "127.0.0.1"]]  # nobody listens at ::1
        assert await fetcher("two.example").fetch(f"http://two.example:{peer.port}/", param="image") == PICTURE


# --- TLS ---


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl: apt-get install openssl")
    pem = tmp_path_factory.mktemp("tls") / "both.pem"
    command = [
        openssl,
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    names = ["-subj", "/CN=pictures.example", "-addext", "subjectAltName=DNS:pictures.example"]
    subprocess.run([*command, *names, "-keyout", pem, "-out", f"{pem}.crt"], check=True, capture_output=True)
    pem.write_bytes(pem.read_bytes() + Path(f"{pem}.crt").read_bytes())
    return pem


async def test_name_and_certificate_stay_the_urls_though_an_address_is_dialled(
    certificate: Path, resolver: dict[str, list[list[str]]]
) -> None:
    async def go(name: str, trusted: bool) -> tuple[bytes, Peer]:
        resolver[name] = [["127.0.0.1"]]
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.load_cert_chain(certificate)
        client = ssl.create_default_context(cafile=str(certificate) if trusted else None)
        async with serving(answer(), tls=server) as peer:
            fetching = fetcher(name, tls=client)
            return await fetching.fetch(f"https://{name}:{peer.port}/", param="image"), peer

    body, peer = await go("pictures.example", trusted=True)
    assert (body, peer.names) == (PICTURE, ["pictures.example"])
    assert f"Host: pictures.example:{peer.port}\r\n" in peer.requests[0]
    for name, trusted in (("impostor.example", True), ("pictures.example", False)):
        with pytest.raises(BadImage):
            await go(name, trusted)


async def test_the_usual_authorities_are_loaded_with_the_first_https_url(
    certificate: Path, resolver: dict[str, list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))  # how a private authority is added
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate)

    resolver["pictures.example"] = [["127.0.0.1"]]
    async with serving(answer(), tls=server) as peer:
        ours = fetcher("pictures.example")
        assert await ours.fetch(f"https://pictures.example:{peer.port}/", param="image") == PICTURE
