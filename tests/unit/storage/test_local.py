"""The folder: killed writers, full disks, links and pipes, and an event loop that never waits."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.errors import ServerFault, StoreFull
from server.storage.store import LocalStore, new_name

pytestmark = pytest.mark.anyio

FUTURE = 4_000_000_000.0
NAME = "0" * 32 + ".png"

WRITER = """
import asyncio, hashlib, os, pathlib, sys
from server.storage.store import LocalStore, new_name

async def write():
    store = LocalStore(pathlib.Path(sys.argv[1]))
    while True:
        data = os.urandom(400_000)
        data += hashlib.sha256(data).digest()
        name = new_name("image/png")
        await store.put(name, data, "image/png")
        os.write(1, name.encode() + b"\\n")

asyncio.run(write())
"""


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


@pytest.fixture
def reported(tmp_path: Path) -> list[str]:
    """The pictures that writers said they had put before they were killed, each in mid-write."""
    rng = random.Random(3)
    names: list[str] = []
    for _ in range(25):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        names.append(process.stdout.readline().decode().strip())
        time.sleep(rng.random() * 0.02)
        process.kill()
        names += process.stdout.read().decode().split()
        process.stdout.close()
        process.wait()
    return names


async def test_kill_9_in_mid_write_leaves_no_torn_picture(tmp_path: Path, reported: list[str]) -> None:
    leftovers = [path for path in files(tmp_path) if path.name.startswith(".") and path.suffix == ".part"]
    pictures = [path for path in files(tmp_path) if not path.name.startswith(".")]
    assert {path.name for path in pictures} >= set(reported), "a picture that was answered for is gone"
    for path in pictures:
        data = path.read_bytes()
        assert hashlib.sha256(data[:-32]).digest() == data[-32:], "a torn picture"
    assert leftovers, "no kill struck in mid-write: the test proves nothing"
    assert await LocalStore(tmp_path).sweep(FUTURE) == len(pictures)
    assert files(tmp_path) == []


def fail(code: int) -> Any:
    def raise_it(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return raise_it


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["open", "write", "fsync"])
async def test_disk_full_is_507_and_leaves_nothing(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str
) -> None:
    monkeypatch.setattr(os, call, fail(code))
    with pytest.raises(StoreFull) as caught:
        await store.put(NAME, b"x", "image/png")
    monkeypatch.undo()
    assert caught.value.answer.status == 507
    assert files(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if not done("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)):
        pytest.skip("may not mount a tmpfs here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


async def test_disk_full_for_real(small_disk: Path) -> None:
    small = LocalStore(small_disk)
    assert await small.has_room(500_000)
    assert not await small.has_room(4_000_000)
    with pytest.raises(StoreFull):
        await small.put(NAME, bytes(4_000_000), "image/png")
    assert files(small_disk) == []
    await small.put(NAME, bytes(500_000), "image/png")
    assert not await small.has_room(1_000_000)


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS, errno.EACCES])
async def test_other_faults_of_the_disk_are_500_without_a_path(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    """EROFS and EACCES of a put are no longer among them: nothing can be kept, as on a full disk (below)."""
    monkeypatch.setattr(os, "open", fail(code))
    calls = [store.get(NAME)] if code != errno.EIO else [store.put(NAME, b"x", "image/png"), store.get(NAME)]
    for call in calls:
        with pytest.raises(ServerFault) as caught:
            await call
        assert str(tmp_path) not in caught.value.message
        assert caplog.records[-1].__dict__["errno"] == errno.errorcode[code]


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ELOOP])
async def test_a_folder_that_cannot_be_written_any_more_is_507_and_the_log_says_why(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A data folder that became read-only answered 500, with retry, and the log had no errno."""
    monkeypatch.setattr(os, "open", fail(code))
    with pytest.raises(StoreFull) as caught:
        await store.put(NAME, b"x", "image/png")
    assert str(tmp_path) not in caught.value.message
    (record,) = caplog.records
    assert record.__dict__["errno"] == errno.errorcode[code]


def done(*command: str) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


async def test_a_read_only_mount_has_no_room(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if not done("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)):
        pytest.skip("may not mount a tmpfs here")
    try:
        store = LocalStore(disk / "pictures")
        await store.put(NAME, b"x", "image/png")
        assert done("mount", "-o", "remount,ro", str(disk))
        assert not await store.has_room(1)
        with pytest.raises(StoreFull):
            await store.put(new_name("image/png"), b"x", "image/png")
        assert [record.__dict__["errno"] for record in caplog.records] == ["EROFS", "EROFS"]
        assert await store.get(NAME) is not None
        assert await store.sweep(FUTURE) == 0
    finally:
        done("umount", str(disk))


@pytest.mark.parametrize("gone", [Path("data/pictures"), Path("data")])
async def test_a_folder_that_was_removed_is_made_anew(tmp_path: Path, gone: Path) -> None:
    """Programs that clean /tmp removed it: every answer with a URL was 500 until somebody restarted the server."""
    store = LocalStore(tmp_path / "data" / "pictures")
    await store.put(NAME, b"x", "image/png")
    for call in ("has_room", "put", "get", "sweep"):
        shutil.rmtree(tmp_path / gone)
        if call == "has_room":
            assert await store.has_room(1)
        if call == "get":
            assert await store.get(NAME) is None
        if call == "sweep":
            assert await store.sweep(FUTURE) == 0
        await store.put(NAME, b"y", "image/png")
        assert await store.get(NAME) is not None
    assert (tmp_path / "data" / "pictures").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("instead", ["file", "dangling link", "file above"])
async def test_a_folder_that_something_else_replaced_is_507_until_it_is_back(tmp_path: Path, instead: str) -> None:
    folder = tmp_path / "data" / "pictures"
    store = LocalStore(folder)
    replaced = folder.parent if instead == "file above" else folder
    shutil.rmtree(replaced)
    if instead == "dangling link":
        replaced.symlink_to(tmp_path / "nowhere" / "at all")
    else:
        replaced.write_text("not a folder")
    assert not await store.has_room(1)
    with pytest.raises(StoreFull):
        await store.put(NAME, b"x", "image/png")
    assert await store.get(NAME) is None
    replaced.unlink()
    await store.put(NAME, b"x", "image/png")
    assert await store.get(NAME) is not None


async def test_file_and_folder_are_synced_in_order(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(file: int) -> None:
        order.append("sync folder" if os.path.isdir(f"/proc/self/fd/{file}") else "sync file")  # noqa: PTH112
        fsync(file)

    def note_replace(self: Path, target: Path) -> Path:
        order.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    await store.put(NAME, b"x", "image/png")
    assert order == ["sync file", "rename", "sync folder"]


async def test_short_writes_are_continued(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:7]))
    await store.put(NAME, b"x" * 100, "image/png")
    monkeypatch.undo()
    picture = await store.get(NAME)
    assert picture is not None
    assert picture.data == b"x" * 100


async def test_symlinks_pipes_and_folders_are_not_pictures(store: LocalStore, tmp_path: Path) -> None:
    secret = tmp_path.parent / "secret"
    secret.write_text("secret")
    link, pipe, folder = (new_name("image/png") for _ in range(3))
    (tmp_path / link).symlink_to(secret)
    os.mkfifo(tmp_path / pipe)
    (tmp_path / folder).mkdir()
    for name in (link, pipe, folder):
        assert await asyncio.wait_for(store.get(name), 2) is None
    await store.sweep(FUTURE)
    assert secret.read_text() == "secret"


async def test_what_a_killed_server_left_half_written_goes_with_the_next_sweep(
    store: LocalStore, tmp_path: Path
) -> None:
    """It stayed for as long as the picture's URL would have lived, through every restart."""
    name = new_name("image/png", int(time.time()) + 3600)
    leftover = tmp_path / f".{name}.{'a' * 16}.part"
    leftover.touch()
    assert await store.sweep(0) == 0
    assert leftover.exists(), "a writer may still be at it"
    os.utime(leftover, (time.time() - 61,) * 2)
    assert await store.sweep(0) == 0
    assert not leftover.exists()


async def test_sweep_leaves_strangers_and_writers_at_work(store: LocalStore, tmp_path: Path) -> None:
    for stranger in ("README", "photo.png", ".hidden", "0" * 32 + ".txt"):
        (tmp_path / stranger).touch()
    leftover = tmp_path / f".{NAME}.{'a' * 16}.part"
    leftover.touch()
    assert await store.sweep(time.time() - 60) == 0
    assert leftover.exists(), "a writer may still be at it"
    assert await store.sweep(FUTURE) == 0
    assert not leftover.exists()
    assert len(files(tmp_path)) == 4


async def test_slow_disk_does_not_stop_the_event_loop(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these calls ends only when the loop has turned meanwhile: one that the loop waits for never does."""
    main = threading.get_ident()
    loop = asyncio.get_running_loop()
    slow: set[str] = set()

    def slowly(name: str, call: Any) -> Any:
        def run(*args: Any, **options: Any) -> Any:
            assert threading.get_ident() != main
            turned = threading.Event()
            loop.call_soon_threadsafe(turned.set)
            assert turned.wait(60), f"the loop waits for {name}"
            slow.add(name)
            return call(*args, **options)

        return run

    names = ("fsync", "scandir", "statvfs", "fdopen")
    for name in names:
        monkeypatch.setattr(os, name, slowly(name, getattr(os, name)))
    await store.put(NAME, b"x", "image/png")
    await store.get(NAME)
    await store.has_room(1)
    await store.sweep(FUTURE)
    assert slow == {*names}
    assert set(slow) == {"fsync", "scandir", "statvfs", "fdopen"}


async def test_readers_and_writers_and_sweeps_at_once(store: LocalStore) -> None:
    async def one(index: int) -> None:
        name, data = new_name("image/webp"), bytes([index]) * 10_000
        await store.put(name, data, "image/webp")
        picture = await store.get(name)
        assert picture is not None
        assert picture.data == data

    await asyncio.gather(*(one(index) for index in range(100)), *(store.sweep(0) for _ in range(10)))
