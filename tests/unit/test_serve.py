"""A server process with a paper worker: how it ends, and what it says to those that still wait."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import resource
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.assertions import assert_api_error
from tests.running import ROOT, eventually
from tests.unit.edge.live import parse, read_all

PROGRAM = """
import server.app
from pathlib import Path
from tests.paper import PaperWorker

class Stuck(PaperWorker):
    def forget(self):
        super().forget()
        self.gate.clear()

server.app.LocalWorker = Stuck
from server.serve import serve
from server.settings import Settings
serve(Settings(port=0))
"""


@dataclass
class Front:
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    port: int = 0

    def client(self, **options: Any) -> httpx.Client:
        url = f"http://127.0.0.1:{self.port}"
        return httpx.Client(base_url=url, trust_env=False, verify=False, timeout=30, **options)


@contextlib.contextmanager
def front(
    data_dir: Path, *, limit: int = 0, hangup_ignored: bool = False, terminal: int | None = None, **settings: Any
) -> Iterator[Front]:
    """A running server; ``terminal`` is the descriptor of one that it is to belong to, else it belongs to none."""

    def prepare() -> None:
        os.setsid()
        if terminal is not None:
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        if limit:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        # Whatever it is where the tests run: nohup ignores it.
        signal.signal(signal.SIGHUP, signal.SIG_IGN if hangup_ignored else signal.SIG_DFL)

    clean = {name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")}
    chosen = {f"DARKROOM_{name.upper()}": str(value) for name, value in {"data_dir": data_dir, **settings}.items()}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**clean, **chosen, "PYTHONPATH": str(ROOT)},
        preexec_fn=prepare,
    )
    running = Front(process)

    def read() -> None:
        for line in process.stderr or ():
            running.lines.append(line)
            if "listens on" in line:
                running.port = int(line.partition("127.0.0.1:")[2].split()[0])

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        eventually(lambda: running.port or process.poll() is not None)
        assert running.port, running.lines
        with running.client() as client:
            eventually(lambda: _alive(client))
        yield running
    finally:
        process.kill()
        process.wait()
        reader.join(60)
        if process.stderr is not None:
            process.stderr.close()


def _alive(client: httpx.Client) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return client.get("/livez").status_code == 200
    return False


def _send(running: Front, path: str, body: dict[str, Any], version: str = "1.1") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", running.port), timeout=30)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/{version}\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


DRAWING = {"prompt": "x"}


def test_who_still_waits_after_the_time_to_drain_is_told(tmp_path: Path) -> None:
    """Those were answered 500 text/plain, and streams were cut without a word."""
    with front(tmp_path, drain_timeout_s=1, hub_headers_s=0.2) as running, contextlib.ExitStack() as stack:
        waiting = [
            stack.enter_context(_send(running, path, {**DRAWING, "seed": seed}))
            for seed, path in enumerate(["/v1/images/generations", "/api/v2/image/generations", "/images/generations/"])
        ]
        stream = stack.enter_context(_send(running, "/v1/images/generations", {**DRAWING, "stream": True, "seed": 8}))
        late = stack.enter_context(_send(running, "/api/v2/image", {"input": {"prompt": "x"}}))
        old = stack.enter_context(_send(running, "/v1/images/generations", {**DRAWING, "stream": True}, "1.0"))
        head = stream.recv(65536)
        assert b"200 OK" in head
        assert b" " in late.recv(65536)
        running.process.send_signal(signal.SIGTERM)
        for connection in waiting:
            answer = parse(read_all(connection))
            assert_api_error(answer, 503, "draining")
            assert answer.headers["connection"] == "close"
        events = head + read_all(stream)
        assert b"event: error" in events
        assert b'"code":"draining"' in events
        assert events.endswith(b"0\r\n\r\n")
        assert b'"draining"' in read_all(late)
        events = read_all(old)
        assert b"transfer-encoding" not in events
        assert events.endswith(b"\n\n")
        assert b'"code":"draining"' in events
        assert running.process.wait(60) == 0, running.lines
    assert not any("Exception in ASGI" in line for line in running.lines)
    (record,) = (json.loads(line) for line in running.lines if "cut off at" in line)
    assert (record["level"], record["requests"]) == ("info", 6)
    assert not any('"level": "error"' in line for line in running.lines), "a stop as it was ordered is no error"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_drains_and_the_exit_is_clean(tmp_path: Path, number: signal.Signals) -> None:
    with front(tmp_path, drain_timeout_s=1) as running:
        with _send(running, "/v1/images/generations", DRAWING) as connection:
            time.sleep(0.5)
            running.process.send_signal(number)
            assert_api_error(parse(read_all(connection)), 503, "draining")
        assert running.process.wait(60) == 0, running.lines


def test_garbage_is_one_record_and_a_body_that_does_not_come_holds_up_no_stop(tmp_path: Path) -> None:
    """Each connection of garbage was a line in the log."""
    head = b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
    with front(tmp_path, drain_timeout_s=1, body_timeout_s=600) as running, contextlib.ExitStack() as stack:
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", running.port), timeout=30) as garbage:
                garbage.sendall(b"\x16\x03\x01 no HTTP\r\n\r\n")
                assert_api_error(parse(read_all(garbage)), 400, "invalid_value")
        connection = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=30))
        connection.sendall(head)
        client = stack.enter_context(running.client())
        eventually(lambda: "darkroom_connections 2.0" in client.get("/metrics").text)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(60) == 0, running.lines
        assert_api_error(parse(read_all(connection)), 503, "draining")
    assert sum("Invalid HTTP" in line for line in running.lines) == 1


def test_a_closed_terminal_drains_and_the_exit_is_clean(tmp_path: Path) -> None:
    """The SIGHUP that it sends killed the front and every drawing with it."""
    ours, theirs = pty.openpty()
    with front(tmp_path, terminal=theirs, drain_timeout_s=1) as running:
        os.close(theirs)
        with _send(running, "/v1/images/generations", DRAWING) as connection:
            time.sleep(0.5)
            os.close(ours)
            assert_api_error(parse(read_all(connection)), 503, "draining")
        assert running.process.wait(60) == 0, running.lines


def test_a_hangup_without_a_terminal_reads_models_yaml_again(tmp_path: Path) -> None:
    """It stopped the server: whoever told it to read its files again had none."""
    file = tmp_path / "models.yaml"
    text = (ROOT / "models.yaml").read_text()
    file.write_text(text)
    times = file.stat().st_mtime_ns, file.stat().st_size
    with front(tmp_path / "data", models=file) as running, running.client() as client:
        with _send(running, "/v1/images/generations", DRAWING):
            file.write_text(text.replace("owned_by: openai", "owned_by: studio"))
            assert file.stat().st_size == times[1], "the same to whoever looks at sizes and times"
            os.utime(file, ns=(times[0], times[0]))
            running.process.send_signal(signal.SIGHUP)
            eventually(lambda: "studio" in client.get("/v1/models").text)
        assert running.process.poll() is None


def test_a_hangup_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    """nohup ignores it for the server."""
    with front(tmp_path, hangup_ignored=True) as running, running.client() as client:
        running.process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert client.get("/livez").status_code == 200


def test_silent_sockets_shut_nobody_out(tmp_path: Path) -> None:
    """1,100 of them at 1,024 descriptors shut everybody out, and nothing was logged."""
    with front(tmp_path, limit=1024) as running, contextlib.ExitStack() as stack:
        busy = [stack.enter_context(_send(running, "/v1/images/generations", {**DRAWING, "seed": 1}))]
        kept = stack.enter_context(running.client())
        for number in range(1100):
            one = socket.socket()
            stack.enter_context(one)
            one.settimeout(30)
            one.connect(("127.0.0.1", running.port))
            if number % 3 == 1:
                one.sendall(b"GET /livez HTTP/1.1\r\nX-A: ")
            if number % 100 == 0:
                assert kept.get("/livez").status_code == 200
        asked = time.monotonic()
        with running.client() as client:
            assert client.get("/livez").status_code == 200
            metrics = client.get("/metrics").text
            assert "darkroom_connections_closed_total{" in metrics
            assert "darkroom_connections 768.0" in metrics
        assert time.monotonic() - asked < 5
        busy[0].settimeout(0.2)
        with pytest.raises(TimeoutError):  # a request that is being drawn is not closed
            busy[0].recv(1)
        told = [line for line in running.lines if "connections closed at their limit" in line]
        assert len(told) == 1
        assert json.loads(told[0])["max_connections"] == 768


def test_health_is_answered_although_every_connection_is_in_use(tmp_path: Path) -> None:
    head = b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
    with front(tmp_path, max_connections=16) as running, contextlib.ExitStack() as stack:
        for _ in range(16):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=30))
            one.sendall(head)
        time.sleep(0.5)
        with running.client() as client:
            assert client.get("/livez").status_code == 200
            assert_api_error(client.get("/v1/models"), 503, "unavailable")


def test_the_soft_limit_is_raised(tmp_path: Path) -> None:
    soft = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (300, 4096)); {_RAISED}"
    done = subprocess.run([sys.executable, "-c", soft], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["4096", "3840"]


_RAISED = (
    "from server.edge.connections import descriptors, max_connections, raise_descriptors;"
    "from server.settings import Settings; settings = Settings(); raise_descriptors(settings);"
    "print(descriptors(), max_connections(settings))"
)


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="needs a machine without CUDA")
def test_a_device_that_cannot_be_used_stops_the_server_with_the_reason(tmp_path: Path) -> None:
    """The worker failed, and was started again for ever, under a server that served nothing."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")}
    done = subprocess.run(
        [sys.executable, "-m", "server", "serve", "--port", "0", "--device", "cuda", "--data-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**clean, "PYTHONPATH": str(ROOT)},
        timeout=150,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("darkroom: DARKROOM_DEVICE (--device) = cuda: torch ")
