"""GET /files/…: who may read a stored picture, and how caches and resumed downloads are served."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.assertions import assert_api_error
from tests.paper import Paper, PaperServers
from tests.running import eventually


@dataclass
class Stored:
    paper: Paper
    client: httpx.Client  # without any key
    path: str  # with query

    @property
    def name(self) -> str:
        return urlsplit(self.path).path.rpartition("/")[2]

    def signed(self, name: str, expires: int) -> str:
        path: str = self.paper.app.state.services.signer.url_path(name, expires)
        return path


@pytest.fixture
def stored(paper_servers: PaperServers) -> Iterator[Stored]:
    paper = paper_servers.open(keys=True)
    url = paper.post({"prompt": "x"}).json()["data"][0]["url"]
    with paper.live.client() as client:
        yield Stored(paper, client, url.removeprefix(paper.url))


def test_the_url_alone_is_the_permission_and_caches_may_keep_it(stored: Stored) -> None:
    answer = stored.client.get(stored.path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert answer.content.startswith(b"\x89PNG")
    assert answer.headers["etag"].startswith('"')
    age = int(answer.headers["cache-control"].partition("max-age=")[2].partition(",")[0])
    assert 3500 < age <= 3600
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"] == f'inline; filename="{stored.name}"'


def test_an_hour_is_what_a_url_lives(stored: Stored) -> None:
    expires = int(parse_qs(urlsplit(stored.path).query)["expires"][0])
    assert abs(expires - time.time() - 3600) < 30


def test_a_known_etag_is_304_without_a_body(stored: Stored) -> None:
    etag = stored.client.get(stored.path).headers["etag"]
    for sent in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        answer = stored.client.get(stored.path, headers={"if-none-match": sent})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    assert stored.client.get(stored.path, headers={"if-none-match": '"other"'}).status_code == 200


def test_head_has_the_headers_and_no_body(stored: Stored) -> None:
    whole, head = stored.client.get(stored.path), stored.client.head(stored.path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-length", "content-type", "etag", "accept-ranges"):
        assert head.headers[name] == whole.headers[name]


def test_one_range_is_served(stored: Stored) -> None:
    whole = stored.client.get(stored.path).content
    for asked, part in (
        ("0-3", whole[:4]),
        ("10-", whole[10:]),
        ("4-999999", whole[4:]),
        ("-5", whole[-5:]),
        ("-999999", whole),
    ):
        answer = stored.client.get(stored.path, headers={"range": f"bytes={asked}"})
        assert (answer.status_code, answer.content) == (206, part)
        assert answer.headers["content-range"].endswith(f"/{len(whole)}")


@pytest.mark.parametrize("asked", ["bytes=999999-", "bytes=-0", "BYTES= 999999-1000000", "bytes=9" + "9" * 5000 + "-"])
def test_a_range_beyond_the_end_is_416_and_tells_the_size(stored: Stored, asked: str) -> None:
    size = len(stored.client.get(stored.path).content)
    answer = stored.client.get(stored.path, headers={"range": asked})
    assert_api_error(answer, 416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{size}"


@pytest.mark.parametrize(
    "asked",
    ["bytes=5-2", "bytes=-", "bytes=a-b", "bytes", "items=0-1", "", "bytes=0-0," + "1-1," * 1000, "bytes=0-1, 5-9"],
)
def test_what_is_not_one_range_is_ignored_fast(stored: Stored, asked: str) -> None:
    """It was 416: downloads failed that every other server gives whole (RFC 9110, 14.2)."""
    started = time.monotonic()
    answer = stored.client.get(stored.path, headers={"range": asked})
    assert (answer.status_code, answer.content) == (200, stored.client.get(stored.path).content)
    assert time.monotonic() - started < 5  # CVE-2025-62727 took minutes


def test_a_resumed_download_of_another_picture_begins_anew(stored: Stored) -> None:
    """If-Range was not read: 206, and two pictures were put together into one file."""
    whole = stored.client.get(stored.path)
    etag = whole.headers["etag"]
    resumed = stored.client.get(stored.path, headers={"range": "bytes=4-", "if-range": etag})
    assert (resumed.status_code, resumed.content) == (206, whole.content[4:])
    for other in ('"other"', f"W/{etag}", "Sat, 28 Nov 2026 10:00:00 GMT", "*", ""):
        answer = stored.client.get(stored.path, headers={"range": "bytes=4-", "if-range": other})
        assert (answer.status_code, answer.content) == (200, whole.content), other
        assert "content-range" not in answer.headers
        late = stored.client.get(stored.path, headers={"range": "bytes=999999-", "if-range": other})
        assert late.status_code == 200


def test_a_range_is_for_get_alone(stored: Stored) -> None:
    assert stored.client.head(stored.path, headers={"range": "bytes=4-"}).status_code == 200


def test_a_picture_that_goes_before_its_first_piece_is_404(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was found, swept, and then 500 with a wish for a repeat."""
    store = stored.paper.app.state.services.store
    look = store.look

    async def look_and_sweep(name: str) -> object:
        found = await look(name)
        await store.sweep(4e9)
        return found

    monkeypatch.setattr(store, "look", look_and_sweep)
    monkeypatch.setattr("server.storage.local.is_old", lambda *args: True)
    assert_api_error(stored.client.get(stored.path), 404, "not_found")


def test_an_altered_url_is_403(stored: Stored) -> None:
    parts = urlsplit(stored.path)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    later = {**query, "expires": str(int(query["expires"]) + 1)}
    flipped = {**query, "signature": ("A" if query["signature"][0] != "A" else "B") + query["signature"][1:]}
    for changed in (later, flipped, {"expires": query["expires"]}, {"signature": query["signature"]}, {}):
        assert_api_error(stored.client.get(parts.path, params=changed), 403, "link_refused")
    other = "0" * 32 + ".png"
    assert_api_error(stored.client.get(f"/files/{other}?{parts.query}"), 403, "link_refused")


@pytest.mark.parametrize("expires", ["-1", "1e9", "٣٤", "9" * 400, "", " 1"])
def test_an_odd_expiry_is_403(stored: Stored, expires: str) -> None:
    answer = stored.client.get(f"/files/{stored.name}", params={"expires": expires, "signature": "x"})
    assert_api_error(answer, 403, "link_refused")


def test_an_expired_url_is_403_and_a_day_of_clock_does_not_matter(stored: Stored) -> None:
    now = int(time.time())
    for past in (now - 1, now - 86400):
        assert_api_error(stored.client.get(stored.signed(stored.name, past)), 403, "link_refused")
    assert stored.client.get(stored.signed(stored.name, now + 86400)).status_code == 200


def test_an_unknown_picture_is_404(stored: Stored) -> None:
    assert_api_error(stored.client.get(stored.signed("0" * 32 + ".png", int(time.time()) + 60)), 404, "not_found")


@pytest.mark.parametrize("name", ["..%2f..%2fkeys.json", "..%5ckeys.json", "%2e%2e/keys.json", "keys.json"])
def test_no_name_leaves_the_store(stored: Stored, name: str) -> None:
    for query in ("", "?" + urlsplit(stored.path).query):
        answer = stored.client.get(f"/files/{name}{query}")
        assert answer.status_code in (401, 403, 404)
        assert b"tester" not in answer.content


def test_an_expired_picture_is_swept(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(url_lifetime_s=1, sweep_interval_s=0.05)
    paper.post({"prompt": "x"})
    folder = paper.app.state.services.settings.data_dir / "pictures"
    assert list(folder.iterdir())
    eventually(lambda: not list(folder.iterdir()), within_s=20)


def test_a_stored_picture_says_until_when_its_url_lives(paper_servers: PaperServers) -> None:
    """A server with a shorter lifetime on the same folder deleted it while its URL was still valid."""
    long, short = (paper_servers.open(data_dir=tmp, url_lifetime_s=seconds) for tmp, seconds in shared(paper_servers))
    url = httpx.URL(long.post({"prompt": "x"}).json()["data"][0]["url"])
    (stored,) = (path.name for path in (long.app.state.services.settings.data_dir / "pictures").iterdir())
    assert stored.partition("-")[2].partition(".")[0] == url.params["expires"]
    time.sleep(1.1)
    assert asyncio.run(short.app.state.services.store.sweep(time.time() - 1)) == 0
    with short.client() as client:
        assert client.get(url.raw_path.decode()).status_code == 200


def shared(paper_servers: PaperServers) -> list[tuple[Path, int]]:
    folder = paper_servers._folder / "shared"
    return [(folder, 3600), (folder, 1)]


def test_a_pictures_folder_that_cannot_be_written_is_507_and_base64_still_works(
    paper_servers: PaperServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data folder that became read-only while the server ran was a 500 that asked for a repeat."""
    paper = paper_servers.open()

    def read_only(path: object, data: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("server.storage.atomic.write", read_only)
    refused = paper.post({"prompt": "x"})
    assert_api_error(refused, 507, "store_full")
    assert refused.headers["x-should-retry"] == "false"
    assert paper.post({"prompt": "x", "response_format": "b64_json"}).status_code == 200
    monkeypatch.undo()
    shutil.rmtree(paper.app.state.services.settings.data_dir)
    answer = paper.post({"prompt": "x"})
    assert answer.status_code == 200
    with paper.client() as client:
        assert client.get(answer.json()["data"][0]["url"]).status_code == 200


def test_readyz_says_that_no_worker_starts(paper_servers: PaperServers) -> None:
    paper = paper_servers.open()
    with paper.client() as client:
        assert client.get("/readyz").json()["worker"] == {"state": "up"}
        paper.worker.device_problem = "The driver is too old."  # and it draws on the CPU
        assert client.get("/readyz").json()["worker"] == {"state": "up", "reason": "The driver is too old."}
        paper.worker.device_problem = ""
        paper.worker.up = paper.worker.settled = False
        assert client.get("/readyz").json()["worker"] == {"state": "starting"}
        paper.worker.start_failure = "The worker ended."
        answer = client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["worker"] == {"state": "failing", "reason": "The worker ended."}


def test_a_large_picture_is_read_from_the_store_in_pieces(paper_servers: PaperServers) -> None:
    """Every reader had the whole picture in memory: 150 who read nothing had 1.8 GiB, without a key."""
    paper = paper_servers.open()
    paper.worker.ballast = 3_000_000
    url = paper.post({"prompt": "x"}).json()["data"][0]["url"].removeprefix(paper.url)
    with paper.live.client() as client:
        whole = client.get(url)
        assert (whole.status_code, int(whole.headers["content-length"])) == (200, len(whole.content))
        assert len(whole.content) > 3_000_000
        part = client.get(url, headers={"range": "bytes=100000-2999999"})
        assert (part.status_code, part.content) == (206, whole.content[100_000:3_000_000])
        with client.stream("GET", url) as half:  # one that leaves
            next(half.iter_bytes(1000))
        assert client.head(url).headers["content-length"] == whole.headers["content-length"]
    eventually(lambda: paper.app.state.services.budget.held == 0)


def test_a_picture_that_goes_while_it_is_read_ends_its_answer_early(paper_servers: PaperServers) -> None:
    paper = paper_servers.open()
    paper.worker.ballast = 30_000_000
    url = paper.post({"prompt": "x"}).json()["data"][0]["url"].removeprefix(paper.url)
    (file,) = (paper.app.state.services.settings.data_dir / "pictures").iterdir()
    with paper.live.client() as client:
        with client.stream("GET", url) as answer:
            pieces = answer.iter_bytes(1000)
            next(pieces)
            file.unlink()
            with pytest.raises(httpx.RemoteProtocolError):
                list(pieces)
        assert client.get(url).status_code == 404
