"""A hub on loopback: one repository, its API and its files, with the faults that networks have."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

REPOSITORY = "org/z-image"


@dataclass
class Hub:
    """The repository is a folder. What is set here is the hub's behaviour from then on."""

    folder: Path
    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)  # name of a file, and its Range
    cut: dict[str, int] = field(default_factory=dict)  # by name: bytes after which an answer breaks off, once
    instead: dict[str, bytes] = field(default_factory=dict)  # by name: what comes in place of the file
    statuses: dict[str, list[int]] = field(default_factory=dict)  # by name: answered with first
    extra: list[str] = field(default_factory=list)  # further names in the listing
    takes_ranges: bool = True
    tells_digests: bool = True
    hold: dict[str, threading.Event] = field(default_factory=dict)  # by name: the second half waits for it
    cdn: bool = False  # large files come from another address
    keys: dict[str, set[str | None]] = field(default_factory=dict)  # by what was asked for: the keys that came with it

    def names(self) -> list[str]:
        """The files of the repository."""
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())

    def wait_asked(self, name: str) -> None:
        """Until somebody asks for a file."""
        for _ in range(6000):
            if any(asked == name for asked, _ in self.asked):
                return
            time.sleep(0.01)
        raise AssertionError(f"nobody asked for {name}")

    def info(self) -> dict[str, Any]:
        """What the API says of the repository."""
        siblings = [self._sibling(name) for name in self.names()]
        siblings += [{"rfilename": name, "size": 1, "blobId": "0" * 40} for name in self.extra]
        return {"id": REPOSITORY, "modelId": REPOSITORY, "sha": "sha", "siblings": siblings, "tags": []}

    def _sibling(self, name: str) -> dict[str, Any]:
        data = (self.folder / name).read_bytes()
        if not self.tells_digests:
            return {"rfilename": name, "size": len(data)}
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        if not name.endswith(".safetensors"):
            return {"rfilename": name, "size": len(data), "blobId": blob}
        lfs = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return {"rfilename": name, "size": len(data), "blobId": "1" * 40, "lfs": lfs}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == f"/api/models/{REPOSITORY}":
            self._note("api")
            self._answer(200, json.dumps(self.hub.info()).encode(), {"content-type": "application/json"})
            return
        prefix, cdn = f"/{REPOSITORY}/resolve/sha/", "/cdn/"
        self._note("cdn" if path.startswith(cdn) else "file")
        if self.hub.cdn and path.startswith(prefix) and path.endswith(".safetensors"):
            elsewhere = self.hub.url.replace("127.0.0.1", "localhost")
            self._answer(302, b"", {"location": elsewhere + self.path.replace(f"/{REPOSITORY}/resolve/sha/", cdn)})
        elif path.startswith((prefix, cdn)):
            self._give(path.removeprefix(prefix).removeprefix(cdn))
        else:
            self._answer(404, b"")

    def _note(self, what: str) -> None:
        self.hub.keys.setdefault(what, set()).add(self.headers.get("authorization"))

    def _give(self, name: str) -> None:
        wanted = self.headers.get("range", "")
        self.hub.asked.append((name, wanted))
        if self.hub.statuses.get(name):
            self._answer(self.hub.statuses[name].pop(0), b"")
            return
        data = self.hub.instead.get(name) or (self.hub.folder / name).read_bytes()
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.hub.takes_ranges else 0
        if start and start >= len(data):
            self._answer(416, b"")
            return
        headers = {"content-range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        self._answer(206 if start else 200, data[start:], headers, name)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, name: str = "") -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        cut = self.hub.cut.pop(name, None)
        if cut is not None:
            self.wfile.write(body[:cut])
            self.close_connection = True
            return
        if name in self.hub.hold:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.hub.hold[name].wait(60)
            body = body[len(body) // 2 :]
        self.wfile.write(body)


@contextmanager
def open_hub(folder: Path) -> Iterator[Hub]:
    """A hub with the repository of a folder."""
    hub = Hub(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        for event in hub.hold.values():
            event.set()
        server.shutdown()
        server.server_close()
        thread.join()
