"""Files are whole or not there, for their owner alone, and leave nothing beside them."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from server.storage import atomic

Write = Callable[[Path, bytes], object]
both = pytest.mark.parametrize("write", [atomic.write, atomic.create])


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@both
def test_a_new_file_is_for_its_owner_alone_and_stands_alone(tmp_path: Path, write: Write) -> None:
    file = tmp_path / "file"
    write(file, b"new")
    assert file.read_bytes() == b"new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert names(tmp_path) == ["file"]


def test_write_replaces_a_file_and_create_leaves_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert atomic.create(file, b"first")
    assert not atomic.create(file, b"second")
    assert file.read_bytes() == b"first"
    atomic.write(file, b"third")
    assert file.read_bytes() == b"third"
    assert names(tmp_path) == ["file"]


def test_of_many_that_create_at_once_one_is_told_so_and_what_it_wrote_stays(tmp_path: Path) -> None:
    file, winners = tmp_path / "file", list[int]()
    start = threading.Barrier(12)

    def create(number: int) -> None:
        start.wait()
        if atomic.create(file, b"%d" % number):
            winners.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [b"%d" % number for number in winners] == [file.read_bytes()]
    assert names(tmp_path) == ["file"]


@both
def test_the_file_is_synced_before_it_has_its_name_and_the_folder_after(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    order: list[tuple[str, bool]] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        order.append((kind, file.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    write(file, b"x")
    assert order == [("file", False), ("folder", True)]


@both
@pytest.mark.parametrize("call", ["open", "write", "fsync"])
def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, write: Write, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space"):
        write(file, b"new")
    monkeypatch.undo()
    assert file.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@both
def test_a_file_system_that_cannot_sync_folders_has_the_file_all_the_same(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write on such a disk was told as failed, though the file stood there."""
    fsync = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_replacement_has_the_mode_of_the_old_file_and_is_synced_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    file.chmod(0o664)
    synced: list[bytes] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(file.read_bytes())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    with atomic.replacement(file, b"new") as new:
        assert (new.read_bytes(), file.read_bytes(), synced) == (b"new", b"old", [b"old"])
    assert file.read_bytes() == b"new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o664
    assert synced == [b"old", b"new"]
    assert names(tmp_path) == ["file"]


def test_a_replacement_that_is_refused_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    with pytest.raises(ValueError, match="not so"), atomic.replacement(file, b"new"):
        raise ValueError("not so")
    assert file.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@both
def test_short_writes_are_continued(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:7]))
    write(tmp_path / "file", b"x" * 100)
    assert (tmp_path / "file").read_bytes() == b"x" * 100


def test_a_leftover_tells_which_file_it_was_to_become(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed removes nothing: the sweep knows what it left by its name."""
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
    atomic.create(tmp_path / "file.png", b"x")
    leftover, file = names(tmp_path)
    assert (atomic.target_of(leftover), atomic.target_of(file)) == ("file.png", None)
    for other in (".hidden", "file.png.part", leftover.removeprefix("."), leftover + "x", f".{'0' * 16}.part", ""):
        assert atomic.target_of(other) is None
