"""What clients can do to the front's memory: each attack, and by how much the front grew at its peak.

    python -m tests.hostile.memory [ATTACK …]

prints the figures.
"""

from __future__ import annotations

import contextlib
import io
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
from PIL import Image

from tests.hostile.front import MIB, Front, start
from tests.running import ROOT

GENERATIONS = "/v1/images/generations"
EDITS = "/v1/images/edits"
BOUNDARY = b"a-boundary"


def part(name: str, data: bytes, *, filename: str | None = None) -> bytes:
    """One part of a form."""
    file = b"" if filename is None else f'; filename="{filename}"'.encode()
    head = b'--%s\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n' % (BOUNDARY, name.encode(), file)
    return head + data + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join((*parts, b"--%s--\r\n" % BOUNDARY))


FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY.decode()}"}


def json_values(front: Front) -> None:
    """60 MiB of JSON that is nothing but empty arrays."""
    body = b'{"prompt": "x", "extra": [' + b"[]," * (20 * MIB) + b"[]]}"
    _post(front, body, {"content-type": "application/json"})


def json_picture(front: Front) -> None:
    """60 MiB of JSON that is one picture in base64."""
    body = b'{"prompt": "x", "image": "' + b"A" * (60 * MIB) + b'"}'
    _post(front, body, {"content-type": "application/json"})


def uploads(front: Front) -> None:
    """Ten uploads of 60 MiB at once, each in one part."""
    body = form(part("prompt", b"x"), part("image", bytes(60 * MIB), filename="a.png"))
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda _: _post(front, body, FORM), range(10)))


def bodies(front: Front) -> None:
    """Thirty bodies of 60 MiB that stop short of their last byte."""
    head = (
        f"POST {EDITS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {60 * MIB}\r\n\r\n"
    ).encode()
    piece = b"A" * MIB
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_connection(("127.0.0.1", front.port))) for _ in range(30)]

        def fill(one: socket.socket) -> None:
            with contextlib.suppress(OSError):
                one.settimeout(20)
                one.sendall(head)
                for _ in range(59):
                    one.sendall(piece)

        with ThreadPoolExecutor(10) as pool:
            list(pool.map(fill, sockets))


def unread_files(front: Front) -> None:
    """150 readers of a stored picture of 12 MiB, who read nothing."""
    with front.client() as client:
        answer = client.post(GENERATIONS, json={"prompt": "x", "response_format": "url"}).raise_for_status()
    where = urlsplit(answer.json()["data"][0]["url"])
    front.forget_peak()
    _unread(front, [f"GET {where.path}?{where.query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()] * 150)


def unread_replays(front: Front) -> None:
    """20 repeats of a request whose answer, of 58 MiB, is kept, who read nothing."""
    body = json.dumps({"prompt": "x", "response_format": "b64_json"}).encode()
    headers = {"content-type": "application/json", "idempotency-key": "same"}
    with front.client() as client:
        client.post(GENERATIONS, content=body, headers=headers).raise_for_status()
    time.sleep(0.5)
    front.forget_peak()
    request = (
        f"POST {GENERATIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nIdempotency-Key: same\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    _unread(front, [request] * 20)


def references(front: Front) -> None:
    """One edit with eight pictures of 50 megapixels, which are small as files."""
    out = io.BytesIO()
    Image.new("RGB", (10_000, 5_000), "white").save(out, "PNG")
    picture = out.getvalue()
    parts = (part("image[]", picture, filename="a.png") for _ in range(8))
    _post(front, form(part("prompt", b"x"), *parts), FORM)


def _post(front: Front, body: bytes, headers: dict[str, str]) -> int:
    path = EDITS if "multipart" in headers["content-type"] else GENERATIONS
    with front.client() as client:
        try:
            return client.post(path, content=body, headers=headers).status_code
        except httpx.TransportError:
            return 0


def _unread(front: Front, requests: list[bytes]) -> None:
    with contextlib.ExitStack() as stack:
        for request in requests:
            one = stack.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect(("127.0.0.1", front.port))
            one.sendall(request)
        last = -1
        for _ in range(60):  # until it grows no more
            time.sleep(0.5)
            if front.memory() <= last + MIB // 4:
                break
            last = front.memory()


REFERENCES = f"""\
default: by-instruction
models:
  by-instruction: {{ path: {ROOT / "weights" / "darkroom-mini"}, family: flux2, multiple: 16 }}
"""

Attack = Callable[[Front], None]
ATTACKS: dict[str, tuple[Attack, int]] = {  # and the size of a picture
    "json_values": (json_values, 0),
    "json_picture": (json_picture, 0),
    "uploads": (uploads, 0),
    "bodies": (bodies, 0),
    "unread_files": (unread_files, 12 * MIB),
    "unread_replays": (unread_replays, 43 * MIB),
    "references": (references, 0),
}


@dataclass
class Harm:
    """What an attack did."""

    bytes: int  # by how much the front grew, at its peak
    silent_s: float  # the longest that /livez was not answered


def harm(name: str) -> Harm:
    """Attack a front of its own, with the settings that nobody changed."""
    attack, ballast = ATTACKS[name]
    with start(ballast=ballast, models_yaml=REFERENCES if name == "references" else "") as front:
        before = front.forget_peak()
        with _watched(front) as silent:
            attack(front)
        return Harm(front.peak() - before, max(silent))


@contextlib.contextmanager
def _watched(front: Front) -> Iterator[list[float]]:
    """How long each look at /livez took meanwhile."""
    took, stop = [0.0], threading.Event()

    def look() -> None:
        with front.client() as client:
            while not stop.wait(0.02):
                began = time.monotonic()
                with contextlib.suppress(httpx.TransportError):
                    client.get("/livez")
                took.append(time.monotonic() - began)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield took
    finally:
        stop.set()
        thread.join()


def main() -> None:
    """Print what each attack does."""
    for name in sys.argv[1:] or ATTACKS:
        found = harm(name)
        print(f"{name}: {found.bytes / MIB:.0f} MiB, /livez silent for {found.silent_s:.2f} s", flush=True)


if __name__ == "__main__":
    main()
