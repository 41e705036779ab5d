"""What every store promises, asked of each kind; a real S3 peer among them where moto is installed."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from obstore.exceptions import PermissionDeniedError
from obstore.store import MemoryStore, S3Store

from server.errors import ConfigError, NotFound, ServerFault, StoreFull
from server.storage.objects import ObjectStore, open_s3
from server.storage.store import LocalStore, Store, new_name, open_store

pytestmark = pytest.mark.anyio

FUTURE = 4_000_000_000.0


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    if "TEST_S3_ENDPOINT" in os.environ:  # an S3 server that is running already
        yield os.environ["TEST_S3_ENDPOINT"]
        return
    if importlib.util.find_spec("moto") is None:
        pytest.skip("needs moto[server], of the dev extra, or TEST_S3_ENDPOINT")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), 0.1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(params=["local", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return open_store("local", tmp_path, None)
    if request.param == "memory":
        return ObjectStore(MemoryStore())
    endpoint: str = request.getfixturevalue("s3_endpoint")
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    bucket = f"bucket-{new_name('image/png')[:8]}"
    httpx.put(f"{endpoint}/{bucket}").raise_for_status()
    return open_store(f"s3://{bucket}/pictures/of/ours", tmp_path, endpoint)


def test_names_are_ours_and_cannot_be_guessed() -> None:
    for mime, extension in {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}.items():
        assert re.fullmatch(rf"[0-9a-f]{{32}}\.{extension}", new_name(mime))
        assert re.fullmatch(rf"[0-9a-f]{{32}}-1900000000\.{extension}", new_name(mime, 1_900_000_000))
    assert len({new_name("image/png") for _ in range(1000)}) == 1000
    with pytest.raises(KeyError):
        new_name("text/html")


@pytest.mark.parametrize("mime", ["image/png", "image/jpeg", "image/webp"])
async def test_what_is_put_is_got(store: Store, mime: str) -> None:
    name, data = new_name(mime), bytes(range(256)) * 30_000  # 7.7 MB: beyond obstore's multipart size
    await store.put(name, data, mime)
    picture = await store.get(name)
    assert picture is not None
    assert (picture.data, picture.mime, type(picture.data)) == (data, mime, bytes)
    assert abs(picture.modified - time.time()) < 60
    assert re.fullmatch(r'"[0-9a-f]+"', picture.etag)
    other = new_name(mime)
    await store.put(other, b"x", mime)
    again, different = await store.get(name), await store.get(other)
    assert again is not None
    assert different is not None
    assert again.etag == picture.etag != different.etag
    assert await store.has_room(1)


def test_a_picture_is_read_in_pieces(store: Store) -> None:
    async def go() -> None:
        name, data = new_name("image/png"), bytes(range(251)) * 12_000
        await store.put(name, data, "image/png")
        row, picture = await store.look(name), await store.get(name)
        assert row is not None
        assert picture is not None
        assert (row.size, row.mime, row.etag) == (len(data), picture.mime, picture.etag)
        assert abs(row.modified - picture.modified) < 1
        for start, stop in ((0, len(data)), (0, 1), (len(data) - 1, len(data)), (1000, 2_000_001), (5, 5)):
            pieces = [piece async for piece in store.read(name, start, stop)]
            assert b"".join(pieces) == data[start:stop]
            assert all(0 < len(piece) <= store.piece_bytes for piece in pieces)
        gone = store.read(name, 0, len(data))
        await anext(gone)
        assert await store.sweep(FUTURE) == 1
        with pytest.raises(NotFound):
            _ = [piece async for piece in gone]
        with pytest.raises(NotFound):
            _ = [piece async for piece in store.read(name, 0, len(data))]
        assert await store.look(name) is None
        assert await store.look("keys.json") is None

    asyncio.run(go())


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../secret.png",
        "..%2fsecret.png",
        "%2e%2e/secret.png",
        "/etc/passwd",
        "a/" + "0" * 32 + ".png",
        "0" * 32,
        "0" * 32 + ".png",  # ours by form, not there
        "0" * 32 + ".png\n",
        "0" * 32 + ".svg",
        "0" * 32 + "-.png",
        "0" * 32 + "-1.png",  # ours by form, not there
        "0" * 32 + "--1.png",
        "0" * 32 + "-1-1.png",
        "0" * 32 + "-1234567890123.png",
        "0" * 32 + "-١.png",
        "0" * 32 + ".PNG",
        "A" * 32 + ".png",
        "٠" * 32 + ".png",
        "0" * 31 + "/.png",
        "0" * 32 + ".png/..",
        "0" * 32 + "\0.png",
        "\ud800" * 32 + ".png",
        "x" * 10_000,
    ],
)
async def test_any_other_name_is_not_found(store: Store, name: str) -> None:
    assert await store.get(name) is None


@pytest.mark.parametrize("name", ["../x.png", "0" * 32 + ".jpg", "x", "0" * 32 + ".png/"])
async def test_only_our_names_are_put(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match="new_name"):
        await store.put(name, b"", "image/png")


async def test_sweep_deletes_what_is_old_and_nothing_else(store: Store) -> None:
    names = [new_name("image/png") for _ in range(1200)]  # more than one page
    await asyncio.gather(*(store.put(name, b"x", "image/png") for name in names[:1]))
    for start in range(1, len(names), 100):
        await asyncio.gather(*(store.put(name, b"x", "image/png") for name in names[start : start + 100]))
    assert await store.sweep(time.time() - 600) == 0
    assert await store.get(names[7]) is not None
    assert await store.sweep(FUTURE) == len(names)
    assert await store.get(names[7]) is None
    assert await store.sweep(FUTURE) == 0


async def test_a_picture_stays_until_its_own_expiry_whoever_sweeps(store: Store) -> None:
    """Of two servers that share a store, the one with the shorter url_lifetime_s deleted the other's pictures."""

    async def go() -> None:
        now = int(time.time())
        valid, expired, without = (
            new_name("image/png", now + 600),
            new_name("image/png", now - 1),
            new_name("image/png"),
        )
        for name in (valid, expired, without):
            await store.put(name, b"x", "image/png")
        assert await store.sweep(now - 3600) == 1  # a server whose own live an hour
        assert await store.get(expired) is None
        assert await store.get(without) is not None
        assert await store.sweep(FUTURE) == 1  # one whose own are all old
        assert await store.get(without) is None
        kept = await store.get(valid)
        assert kept is not None
        assert kept.data == b"x"

    await go()


async def test_two_sweeps_at_once_do_not_fail(store: Store) -> None:
    async def go() -> None:
        for _ in range(50):
            await store.put(new_name("image/png"), b"x", "image/png")
        await asyncio.gather(*(store.sweep(FUTURE) for _ in range(3)))
        assert await store.sweep(FUTURE) == 0

    await go()


# --- the object store's own ---


async def test_prefix_keeps_strangers_in_the_bucket_safe(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    theirs = "0" * 32 + ".png"
    async with httpx.AsyncClient(base_url=s3_endpoint) as client:
        (await client.put("/shared")).raise_for_status()
        (await client.put(f"/shared/{theirs}", content=b"theirs")).raise_for_status()
    ours = open_s3("s3://shared/ours", s3_endpoint)
    assert await ours.get(theirs) is None
    name = new_name("image/webp")
    await ours.put(name, b"ours", "image/webp")
    bucket = S3Store("shared", endpoint=s3_endpoint, client_options={"allow_http": True})
    answer = await bucket.get_async(f"ours/{name}")
    assert (answer.meta["size"], answer.attributes["Content-Type"]) == (4, "image/webp")
    assert await ours.sweep(FUTURE) == 1
    whole = open_s3("s3://shared", s3_endpoint)
    survivor = await whole.get(theirs)
    assert survivor is not None
    assert survivor.data == b"theirs"


class Broken:
    """A backend of which every call fails."""

    def __init__(self, text: str) -> None:
        self.error: Exception = OSError(text)

    async def put_async(self, *_: Any, **__: Any) -> None:
        raise self.error

    async def get_async(self, *_: Any, **__: Any) -> None:
        raise self.error

    async def list(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        raise self.error
        yield


async def test_failures_of_the_backend_are_ours_and_tell_nothing() -> None:
    async def go() -> None:
        name = new_name("image/png")
        broken = ObjectStore(Broken("http://10.1.2.3/secret"))  # type: ignore[arg-type]
        for call in (broken.put(name, b"", "image/png"), broken.get(name), broken.sweep(0)):
            with pytest.raises(ServerFault) as caught:
                await call
            assert "secret" not in caught.value.message
        for text in ("507 Insufficient Storage", "<Code>XMinioStorageFull</Code>"):
            with pytest.raises(StoreFull):
                await ObjectStore(Broken(text)).put(name, b"", "image/png")  # type: ignore[arg-type]
        # A bucket that may be read and no longer written is as good as full.
        backend = Broken("")
        backend.error = PermissionDeniedError("http://10.1.2.3/secret")
        with pytest.raises(StoreFull) as full:
            await ObjectStore(backend).put(name, b"", "image/png")  # type: ignore[arg-type]
        assert "secret" not in full.value.message

    await go()


async def test_unreachable_s3_gives_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    started = time.perf_counter()
    with pytest.raises(ServerFault):
        await open_s3("s3://bucket", "http://127.0.0.1:1").put(new_name("image/png"), b"", "image/png")
    assert time.perf_counter() - started < 10


def test_bad_settings_stop_at_the_door(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="DARKROOM_STORE"):
        open_store("ftp://x", tmp_path, None)
    with pytest.raises(ConfigError, match="DARKROOM_STORE"):
        open_store("s3:///prefix", tmp_path, None)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError):
        LocalStore(tmp_path / "file" / "pictures")


def test_a_local_store_does_not_load_obstore() -> None:
    program = (
        "import sys, pathlib, tempfile; from server.storage.store import open_store;"
        "open_store('local', pathlib.Path(tempfile.mkdtemp()), None); sys.exit('obstore' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
