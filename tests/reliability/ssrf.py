"""Picture URLs that mean the inside of the network: ``python -m tests.reliability.ssrf``.

Each is asked for directly, by a redirect of a public site, and by a name whose address changes between two look-ups.
Canaries listen on loopback addresses and on this machine's own, and the server's dialler notes what it is asked to
dial: none may be reached, and all refusals must read the same. With --server only the direct way is tried, and the
canaries see that server only if it runs here.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import re
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import psutil

from tests.pictures import png, scene
from tests.reliability import ssrf_urls
from tests.reliability.record import Batch, Record
from tests.reliability.scripted_network import PUBLIC, VARIABLE
from tests.reliability.servers import Target, open_server

_LOOPBACK = ("127.0.0.1", "127.0.0.2", "127.1.2.3", "127.255.255.254", "::1")
_WAYS = ("direct", "redirect", "rebind")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_MAX_SECONDS = 15.0  # for one refusal; the fetch timeout is less


class Canaries:
    """Sockets that nobody may reach. ``hits`` are the addresses that somebody did."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.hits: list[str] = []
        self._sockets: list[socket.socket] = []
        self.port = self._listen(addresses[0], 0)
        self.addresses = [addresses[0]]
        for address in addresses[1:]:
            with contextlib.suppress(OSError):  # no IPv6 here
                self._listen(address, self.port)
                self.addresses.append(address)
        for address in addresses:
            with contextlib.suppress(OSError):  # not root, or taken: then the bare URLs find nobody
                self._listen(address, 80)

    def _listen(self, address: str, port: int) -> int:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.create_server((address, port), family=family)
        self._sockets.append(listener)
        threading.Thread(target=self._accept, args=(listener, address), daemon=True).start()
        return int(listener.getsockname()[1])

    def _accept(self, listener: socket.socket, address: str) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listener.accept()
                self.hits.append(f"{address} port {listener.getsockname()[1]}")
                peer.close()

    def close(self) -> None:
        for listener in self._sockets:
            listener.close()


class _PublicSite(BaseHTTPRequestHandler):
    """Redirects where it is asked to; everything else it has not."""

    def do_GET(self) -> None:
        to = parse_qs(urlsplit(self.path).query).get("to", [""])[0]
        if to == "picture":
            picture = png(scene(16, 16))
            self.send_response(200)
            self.send_header("Content-Length", str(len(picture)))
            self.end_headers()
            self.wfile.write(picture)
            return
        self.send_response(int(self.path[1:4]) if to else 404)
        if to:
            self.send_header("Location", to.replace("\r", "").replace("\n", "").encode("utf-8").decode("latin-1"))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None: ...


@contextlib.contextmanager
def _public_site() -> Iterator[int]:
    site = ThreadingHTTPServer(("127.0.0.1", 0), _PublicSite)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    yield site.server_address[1]
    site.shutdown()


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parse(argv)
    record = Record("ssrf", arguments.seed, fresh=True)  # a minute: it is never gone on with
    own = _own_addresses()
    canaries = Canaries([*_LOOPBACK, *own])
    targets = ssrf_urls.urls(canaries.port) + [f"http://{_host(address)}:{canaries.port}/" for address in own]
    targets = targets[: arguments.count]
    ways = _WAYS if arguments.server is None else _WAYS[:1]
    deadline = time.monotonic() + arguments.time_limit
    with _public_site() as port, tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "network.json"
        names = ssrf_urls.names(own or ["127.0.0.1"])
        for number in range(len(targets)):  # the guard is shown a public address first, whoever dials by name the other
            inside = ("127.0.0.1", "127.0.0.2", "::1", "169.254.169.254", "10.0.0.1")[number % 5]
            names[f"rebind-{number}.example"] = [[PUBLIC], [inside]]
        script.write_text(json.dumps({"names": names, "public": ["127.0.0.1", port]}), encoding="utf-8")
        environment = {VARIABLE: str(script)}
        with open_server(arguments.server, environment=environment, fetch_timeout_s=3) as server:
            if arguments.server is None:
                _require_that_public_pictures_are_fetched(server.target)
            for index, way in enumerate(ways):
                record.add(_try(server.target, way, index, targets, canaries, script, deadline))
    canaries.close()
    wanted = len(targets) * len(ways)
    done = sum(batch.done for batch in record.batches.values())
    return record.finish("URLs", wanted, complete=done == wanted)


def _try(
    target: Target, way: str, index: int, urls: list[str], canaries: Canaries, script: Path, deadline: float
) -> Batch:
    result = Batch(way, index)
    started = time.perf_counter()
    refusals: dict[str, set[str]] = {"URLs": set(), "no URLs": set()}  # what has no scheme is read as base64
    with httpx.Client(base_url=target.url, headers=target.headers, trust_env=False, timeout=30) as client:
        for number, url in enumerate(urls):
            if time.monotonic() > deadline:
                break
            sent = _sent(way, number, url, canaries.port)
            before = len(canaries.hits), len(_dialled(script))
            asked = time.perf_counter()
            path, body = _request(sent, number)
            answer = client.post(path, json=body)
            took_s = time.perf_counter() - asked
            result.done += 1
            result.counts[f"{way}: {answer.status_code}"] += 1
            if answer.status_code != 400:
                result.add("answer", f"{way}: {answer.status_code} {answer.text[:200]}", repr(sent))
            else:
                error = answer.json()["error"]
                kind = "URLs" if _SCHEME.match(sent) else "no URLs"
                refusals[kind].add(error["message"].replace(error["param"] or "image", "image", 1))
            if took_s > _MAX_SECONDS:
                result.add("slow", f"{way}: {took_s:.1f} s", repr(sent))
            for hit in canaries.hits[before[0] :]:
                result.add("canary reached", f"{way}: {hit}", repr(sent))
            for dialled in _dialled(script)[before[1] :]:
                if not dialled.startswith(f"{PUBLIC} "):
                    result.add("inside dialled", f"{way}: {dialled}", repr(sent))
    for kind, messages in refusals.items():
        if len(messages) > 1:
            result.add("more than one message", f"{way}, {kind}: {sorted(messages)}", way)
    result.seconds = time.perf_counter() - started
    return result


def _sent(way: str, number: int, url: str, port: int) -> str:
    if way == "redirect":
        status = (301, 302, 303, 307, 308, 300)[number % 6]
        return f"http://public.example/{status}?to={quote(url, safe='')}"
    if way == "rebind":
        return f"http://rebind-{number}.example{f':{port}' if number % 2 else ''}/{number}"
    return url


def _request(url: str, number: int) -> tuple[str, Any]:
    """The path and body of a request. Every place where a URL may stand takes its turn."""
    fields = {"prompt": "an apple", "size": "256x256"}
    kind = number % 4
    if kind == 0:
        return "/v1/images/generations", {**fields, "image": url}
    if kind == 1:
        return "/v1/images/edits", {**fields, "images": [{"image_url": url}]}
    if kind == 2:
        return "/api/v2/image", {"input": {**fields, "image": url}}
    return "/api/images/generations", {**fields, "image": url, "stream": False}


def _require_that_public_pictures_are_fetched(target: Target) -> None:
    """Else nothing would be shown by refusals."""
    fields = {"prompt": "an apple", "size": "256x256", "image": "http://public.example/200?to=picture"}
    answer = httpx.post(
        f"{target.url}/v1/images/generations", json=fields, headers=target.headers, trust_env=False, timeout=30
    )
    if answer.status_code != 200:
        sys.exit(f"ssrf: the public picture was not fetched: {answer.status_code} {answer.text[:300]}")


def _dialled(script: Path) -> list[str]:
    noted = script.with_suffix(".dialled")
    return noted.read_text(encoding="utf-8").splitlines() if noted.exists() else []


def _own_addresses() -> list[str]:
    """This machine's own, beyond loopback; at most four."""
    found = [entry.address for entries in psutil.net_if_addrs().values() for entry in entries]
    own = []
    for text in found:
        with contextlib.suppress(ValueError):
            address = ipaddress.ip_address(text)
            if not address.is_loopback and not address.is_link_local:
                own.append(text)
    return own[:4]


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.ssrf", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="URLs of each way, at most")
    parser.add_argument("--seed", type=int, default=1, help="only recorded: the URLs are always the same")
    parser.add_argument(
        "--server", metavar="URL", help="a server that runs (its key: DARKROOM_API_KEY); default: starts its own"
    )
    parser.add_argument(
        "--time-limit", type=float, default=600, metavar="S", help="seconds until no URL is sent any more"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
