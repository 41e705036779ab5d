"""HTTPS over a real socket: what is served, who is trusted, and a certificate that is renewed."""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from server.edge.certificate import Certificate
from server.edge.keys import Keyring
from server.settings import Settings
from tests.assertions import assert_api_error
from tests.certificates import DAY, Authority
from tests.paper import Paper, PaperServers
from tests.running import ROOT, eventually, start
from tests.unit.commands.command_line import run
from tests.unit.edge.live import Live, parse, read_all, serve, settings_for
from tests.unit.edge.rooms import make_app

DRAW = {"prompt": "a red apple", "size": "512x512"}


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.make()


@pytest.fixture(scope="module")
def files(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return authority.write(tmp_path_factory.mktemp("certificate"), "localhost", "127.0.0.1")


@pytest.fixture(scope="module")
def paper(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paper]:
    with PaperServers(tmp_path_factory.mktemp("paper")) as opened:
        yield opened.open(keys=True, tls_cert=files[0], tls_key=files[1])


@pytest.fixture
def trust(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.pem.decode())


@pytest.fixture
def ca_file(authority: Authority, tmp_path: Path) -> Path:
    (tmp_path / "authority.pem").write_bytes(authority.pem)
    return tmp_path / "authority.pem"


def tls(live: Live, trust: ssl.SSLContext) -> ssl.SSLSocket:
    return trust.wrap_socket(live.connect(), server_hostname="127.0.0.1")


# What is served


def test_a_picture_is_drawn_and_fetched_by_https_alone(paper: Paper, trust: ssl.SSLContext) -> None:
    with paper.client(verify=trust) as client:
        answer = client.post("/v1/images/generations", json=DRAW)
        url = answer.json()["data"][0]["url"]
        assert url.startswith(f"{paper.url}/files/")
        assert url.startswith("https://")
        assert Image.open(io.BytesIO(client.get(url).content)).size == (2, 2)


def test_a_stream_and_a_large_answer_come_whole(paper: Paper, trust: ssl.SSLContext) -> None:
    paper.worker.ballast = 6_000_000
    try:
        with paper.client(verify=trust, timeout=60) as client:
            body = {**DRAW, "response_format": "b64_json"}
            assert len(client.post("/v1/images/generations", json=body).json()["data"][0]["b64_json"]) > 8_000_000
            with client.stream("POST", "/v1/images/generations", json={**body, "stream": True}) as answer:
                events = answer.read()
            assert len(events) > 8_000_000
            assert b"event: image_generation.completed" in events
    finally:
        paper.worker.ballast = 0


def test_tls_before_1_2_and_plain_http_get_nothing(paper: Paper, trust: ssl.SSLContext) -> None:
    trust.maximum_version = ssl.TLSVersion.TLSv1_2
    with tls(paper.live, trust) as connection:
        assert connection.version() == "TLSv1.2"
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError), tls(paper.live, old):
        pass


@pytest.mark.parametrize("sent", [b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", b"P", b"\0"])
def test_plain_http_is_told_to_speak_https(paper: Paper, sent: bytes) -> None:
    with paper.live.connect() as connection:
        connection.sendall(sent)
        error = assert_api_error(parse(read_all(connection)), 400, "invalid_value")
    assert "https://" in error["message"]


def test_a_client_that_does_not_trust_the_authority_gets_nothing(paper: Paper) -> None:
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{paper.url}/livez", trust_env=False)
    with paper.client(verify=False) as client:
        assert client.get("/livez").status_code == 200


def test_a_client_that_leaves_cancels_its_job(paper: Paper, trust: ssl.SSLContext) -> None:
    paper.worker.forget()
    paper.worker.gate.clear()
    try:
        with tls(paper.live, trust) as connection:
            body = b'{"prompt": "a red apple"}'
            connection.sendall(
                b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (str(paper.key).encode(), len(body), body)
            )
            eventually(lambda: paper.worker.drawings)
        eventually(lambda: paper.worker.cancelled)
    finally:
        paper.worker.gate.set()


@pytest.mark.parametrize("loop", ["auto", "asyncio"])
def test_what_comes_with_the_end_of_the_handshake_is_not_lost(
    files: tuple[Path, Path], tmp_path: Path, trust: ssl.SSLContext, loop: str
) -> None:
    """The request in the very packet that ends the handshake: asyncio gives it to a protocol that knows of no
    connection yet."""
    settings = settings_for(tmp_path, tls_cert=files[0], tls_key=files[1])
    app = make_app(settings, Keyring.in_memory())
    with serve(app, settings, certificate=Certificate(*files), loop=loop) as live:  # type: ignore[arg-type]
        for _ in range(20):
            with live.connect() as connection:
                incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                side = trust.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
                connection.sendall(outgoing.read())
                while True:
                    incoming.write(connection.recv(65536))
                    with contextlib.suppress(ssl.SSLWantReadError):
                        side.do_handshake()
                        break
                side.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                connection.sendall(outgoing.read())  # the client's Finished and its request at once
                seen = b""
                with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                    while b"}" not in seen:
                        incoming.write(connection.recv(65536))
                        with contextlib.suppress(ssl.SSLWantReadError):
                            seen += side.read(65536)
                assert parse(seen).status_code == 200


# Another certificate


def test_new_connections_are_shown_the_new_certificate(
    authority: Authority, tmp_path: Path, trust: ssl.SSLContext
) -> None:
    files = authority.write(tmp_path, "127.0.0.1", "old.example")
    certificate = Certificate(*files, look_every_s=0.05)
    settings = settings_for(tmp_path, tls_cert=files[0], tls_key=files[1])

    def names(connection: ssl.SSLSocket) -> set[str]:
        shown: Any = connection.getpeercert()
        return {name for _, name in shown["subjectAltName"]}

    app = make_app(settings, Keyring.in_memory())
    with serve(app, settings, certificate=certificate) as live, tls(live, trust) as before:
        assert "old.example" in names(before)
        watch = asyncio.new_event_loop()
        authority.write(tmp_path, "127.0.0.1", "new.example")
        with contextlib.suppress(TimeoutError):
            watch.run_until_complete(asyncio.wait_for(certificate.watch(), 1))
        watch.close()
        with tls(live, trust) as after:
            assert "new.example" in names(after)
        before.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert parse(read_all(before)).status_code == 200


# As a user runs it


def test_the_server_says_https_and_reads_its_files_again(
    authority: Authority, tmp_path: Path, trust: ssl.SSLContext, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one test with the whole process: start, commands with a private authority, another certificate, stop."""
    folder = tmp_path / "tls"
    folder.mkdir()
    cert, key = authority.write(folder, "127.0.0.1", "old.example")
    key.chmod(0o640)
    models = tmp_path / "models.yaml"  # no worker is needed for any of this
    models.write_text("default: a\nmodels:\n  a: { path: nowhere }\n")
    with start(tmp_path / "data", wait=False, tls_cert=cert, tls_key=key, models=models, device="cpu") as server:
        assert server.url.startswith("https://127.0.0.1:")
        assert httpx.get(f"{server.url}/livez", verify=trust, trust_env=False).status_code == 200
        eventually(lambda: "can be read by its group" in server.log)

        silent = socket.create_connection(("127.0.0.1", server.port))
        expires = [
            ssl.cert_time_to_seconds(_shown(server.port, trust)["notAfter"])  # type: ignore[arg-type]
        ]
        authority.write(folder, "127.0.0.1", lasts=60 * DAY)
        eventually(lambda: "new certificate taken" in server.log)
        expires.append(ssl.cert_time_to_seconds(_shown(server.port, trust)["notAfter"]))  # type: ignore[arg-type]
        assert expires[1] - expires[0] > 20 * 86400

        monkeypatch.setenv("DARKROOM_URL", server.url)
        assert run("models") == 1
        monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
        assert run("models") == 0
        with httpx.Client(base_url=server.url, verify=trust, trust_env=False) as idle:
            idle.get("/livez")  # it never says that it closes, as asyncio would have it
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 15
        silent.close()


def _shown(port: int, trust: ssl.SSLContext) -> dict[str, object]:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        trust.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        return dict(connection.getpeercert() or {})


# Commands


@pytest.fixture
def _plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DARKROOM_URL", "DARKROOM_API_KEY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DARKROOM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_plain")
def test_a_command_trusts_the_authority_that_is_named(
    paper: Paper, ca_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DARKROOM_API_KEY", str(paper.key))
    at = ("--server", paper.url)
    for command in (("generate", "x", *at), ("models", *at), ("models", *at, "load", "darkroom-mini")):
        assert run(*command) == 1
        said = " ".join(capsys.readouterr().err.split())
        assert "not trusted here" in said
        assert "SSL_CERT_FILE" in said
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    assert run("generate", "x", "--server", paper.url) == 0
    assert run("models", "--server", paper.url) == 0
    wrong = paper.url.replace("https", "http")
    assert run("generate", "x", "--server", wrong) == 1
    monkeypatch.setenv("SSL_CERT_FILE", "nowhere.pem")
    assert run("generate", "x", "--server", paper.url) == 2
    assert "SSL_CERT_FILE = nowhere.pem" in capsys.readouterr().err


@pytest.mark.usefixtures("_plain")
def test_a_command_on_the_servers_machine_trusts_its_certificate_alone(
    paper: Paper, authority: Authority, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its name is, and whoever has signed it: `darkroom generate` with the server's own settings."""
    monkeypatch.setenv("DARKROOM_API_KEY", str(paper.key))
    monkeypatch.setenv("DARKROOM_PORT", str(paper.live.port))
    for file, name in zip(files, ("CERT", "KEY"), strict=True):
        monkeypatch.setenv(f"DARKROOM_TLS_{name}", str(file))
    assert run("generate", "x") == 0
    other = authority.write(tmp_path, "localhost", "127.0.0.1")
    monkeypatch.setenv("DARKROOM_TLS_CERT", str(other[0]))
    assert run("generate", "x") == 1


@pytest.mark.usefixtures("_plain")
def test_http_is_asked_where_https_is_not_spoken(
    paper_servers: PaperServers, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = paper_servers.open()
    assert run("generate", "x", "--server", plain.url.replace("http", "https")) == 1
    assert "is it http://?" in " ".join(capsys.readouterr().err.split())


@pytest.mark.usefixtures("_plain")
def test_check_says_until_when_and_what_is_wrong(
    authority: Authority,
    files: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    models = tmp_path / "models.yaml"
    models.write_text("default: a\nmodels:\n  a: { path: nowhere }\n")
    monkeypatch.setenv("DARKROOM_TLS_CERT", str(files[0]))
    assert run("check", "--models", str(models)) == 2
    assert "DARKROOM_TLS_CERT (--tls-cert) is set and DARKROOM_TLS_KEY (--tls-key) is not" in capsys.readouterr().err
    monkeypatch.setenv("DARKROOM_TLS_KEY", str(files[1]))
    run("check", "--models", str(models))
    assert f"{files[0]}: a certificate until 20" in capsys.readouterr().out
    expired = authority.write(tmp_path, "x.example", lasts=-DAY)
    for file, name in zip(expired, ("CERT", "KEY"), strict=True):
        monkeypatch.setenv(f"DARKROOM_TLS_{name}", str(file))
    run("check", "--models", str(models))
    assert "has expired: clients refuse it" in capsys.readouterr().err
    monkeypatch.setenv("DARKROOM_TLS_KEY", str(files[1]))
    assert run("check", "--models", str(models)) == 1
    assert "is not the key of the certificate" in capsys.readouterr().err


def test_a_bad_pair_stops_the_start(tmp_path: Path) -> None:
    from server.serve import serve as serve_for_good

    with pytest.raises(Exception, match=r"DARKROOM_TLS_CERT \(--tls-cert\) = .*no.pem: cannot be read"):
        serve_for_good(
            Settings(
                data_dir=tmp_path,
                models=ROOT / "models.yaml",
                port=0,
                tls_cert=tmp_path / "no.pem",
                tls_key=tmp_path / "no.pem",
            )
        )
