"""Adversities of disks and folders: full, read-only, removed, shared by servers of other lifetimes.

Knows mounts and permissions; the visitor knows answers.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from tests.pictures import png
from tests.reliability.asks import EDITS, Ask, drawn, form
from tests.reliability.lives import House, tracebacks
from tests.reliability.visitor import Skipped, Visitor, field
from tests.running import ROOT, Running, eventually

ROOM = 100_000  # bytes left on a full disk
FULL = "507 store_full"
LATE = ("200 store_full",)  # of a stream that has begun: its last event is the error
LIFETIME_S = 4  # of the shorter of two servers


def disk_full(house: House, visitor: Visitor) -> None:
    """While it runs. Needs root: else see ``disk_full_from_start``."""
    with mounted(house.pictures, size="3m"), house.life() as running:
        kept = visitor.draw("with room", "url")
        with visitor.meanwhile("full while it draws", "url", FULL, steps=60), full(house.pictures, room=0):
            pass_until_answered(visitor)
        with full(house.pictures):
            before = house.metrics().steps
            for kind in ("url", "edit", "stream_url"):
                visitor.draw("full", kind, FULL)
            if steps := house.metrics().steps - before:
                visitor.note("full", f"{steps} steps were drawn for pictures that nobody could keep")
            for kind in ("b64", "stream", "mask"):
                visitor.draw("full", kind)
            _spare_url(visitor)
            visitor.fetch("full", kept)
            visitor.healthy("full")
            visitor.no_leftovers("full")
        visitor.fetch("room again", visitor.draw("room again", "url"))
        visitor.fetch("room again", kept)
        _ends(running, visitor)


def pass_until_answered(visitor: Visitor) -> None:
    """Leave what has been done in place until the drawing has ended."""
    deadline = time.monotonic() + 120
    while visitor.house.metrics().permits and time.monotonic() < deadline:
        time.sleep(0.1)


def _spare_url(visitor: Visitor) -> None:
    """A URL that nobody asked for is left out; the picture is not."""
    fields = {"prompt": "a red apple", "model": "gpt-image-1", "size": "256x256", "num_inference_steps": 2}
    body = json.dumps(fields).encode()
    answer = visitor.send("full", Ask("both", "POST", "/api/images/generations", body))
    if answer is None:
        return
    if answer.status != 200:
        visitor.note("full", f"both is {answer.status}, not 200")
    elif field(answer, "b64_json") is None or field(answer, "url") is not None:
        visitor.note("full", "both: not the picture alone")


def disk_full_from_start(house: House, visitor: Visitor) -> None:
    """No file may be longer than a little: what a quota does, and what needs no root."""
    with house.life(wrapper=("prlimit", "--fsize=8192:8192")) as running:
        for kind in ("url", "stream_url", "edit"):
            visitor.draw("no file may be long", kind, FULL, *LATE[kind != "stream_url" :])
        for kind in ("b64", "stream", "mask"):
            visitor.draw("no file may be long", kind)
        visitor.healthy("no file may be long")
        visitor.no_leftovers("no file may be long")
        if house.stored():
            visitor.note("no file may be long", "a torn picture is stored")
        _ends(running, visitor)


def read_only(house: House, visitor: Visitor) -> None:
    """The data folder becomes read-only while the server runs."""
    with _own_disk(house), house.life(sweep_interval_s=0.5) as running:
        kept = visitor.draw("writable", "url")
        with _read_only(house):
            for kind in ("url", "stream_url", "edit"):
                visitor.draw("read-only", kind, FULL, *LATE[kind != "stream_url" :])
            for kind in ("b64", "stream", "mask", "variation"):
                visitor.draw("read-only", kind)
            _upload(visitor, "read-only", "200", FULL)
            visitor.fetch("read-only", kept)
            visitor.healthy("read-only")
        visitor.fetch("writable again", visitor.draw("writable again", "url"))
        visitor.fetch("writable again", kept)
        visitor.no_leftovers("writable again")
        _ends(running, visitor)


def read_only_start(house: House, visitor: Visitor) -> None:
    """One sentence, and exit code 2: whether the secret, the folder of pictures or the data folder cannot be made."""
    with _own_disk(house):
        _refuses_to_start(house, visitor, "no secret", house.data_dir)
        house.data_dir.joinpath("signing_key").write_text("0" * 64)
        _refuses_to_start(house, visitor, "no folder of pictures", house.data_dir)
        house.pictures.mkdir()
        _refuses_to_start(house, visitor, "nothing missing", house.data_dir)
        _refuses_to_start(house, visitor, "no data folder", house.data_dir / "none")


def _refuses_to_start(house: House, visitor: Visitor, when: str, data_dir: Path) -> None:
    command = [sys.executable, "-m", "server", "serve", "--port", "0", "--data-dir", str(data_dir)]
    with _read_only(house):
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
        except subprocess.TimeoutExpired:
            visitor.note(when, "it starts")
            return
    visitor.count += 1
    if ended.returncode != 2:
        visitor.note(when, f"exit code {ended.returncode}, not 2")
    if len(ended.stderr.splitlines()) > 2 or "Traceback" in ended.stderr:
        visitor.note(when, f"{len(ended.stderr.splitlines())} lines instead of a sentence")


def pictures_removed(house: House, visitor: Visitor) -> None:
    """By whatever cleans temporary folders."""
    with house.life() as running:
        gone = visitor.draw("before", "url")
        for _ in range(2):
            shutil.rmtree(house.pictures, ignore_errors=True)
            visitor.fetch("removed", gone, 404)
            gone = visitor.draw("removed", "url")
            visitor.fetch("made anew", gone)
        shutil.rmtree(house.pictures, ignore_errors=True)
        visitor.draw("removed", "b64")
        with visitor.meanwhile("removed while it draws", "stream_url", steps=40):
            shutil.rmtree(house.pictures, ignore_errors=True)
            pass_until_answered(visitor)
        visitor.healthy("removed")
        _ends(running, visitor)


def temporary_folder_full(house: House, visitor: Visitor) -> None:
    """Uploads must not need it, or be refused as any that find no room."""
    folder = house.data_dir.parent / "tmp"
    folder.mkdir()
    with mounted(folder, size="64k"):
        (folder / "ballast").write_bytes(b"\0" * 60_000)
        with house.life(environment={"TMPDIR": str(folder)}) as running:
            _upload(visitor, "full", "200", FULL)
            visitor.draw("full", "url")
            visitor.healthy("full")
            _ends(running, visitor)
    shutil.rmtree(folder)
    with house.life(environment={"TMPDIR": str(folder)}) as running:
        _upload(visitor, "missing", "200", FULL)
        visitor.healthy("missing")
        _ends(running, visitor)


def _upload(visitor: Visitor, when: str, *expected: str) -> None:
    """A source of some megabytes, which no parser keeps in memory."""
    noise = png(Image.frombytes("RGB", (900, 900), random.Random(1).randbytes(900 * 900 * 3)))
    ask = drawn("mask", random.Random(when), steps=4, n=1)
    fields = {
        "prompt": "a red apple",
        "size": "256x256",
        "seed": ask.seeds[0],
        "num_inference_steps": 4,
        "response_format": "b64_json",
    }
    body, headers = form(fields, image=noise)
    visitor.draw(when, "mask", *expected, ask=Ask("upload", "POST", EDITS, body, headers, seeds=ask.seeds))


def two_servers(house: House, visitor: Visitor) -> None:
    """On one data folder: each picture lives as long as its own server said."""
    with (
        house.life(url_lifetime_s=3600, sweep_interval_s=0.5) as long,
        house.life(port=0, url_lifetime_s=LIFETIME_S, sweep_interval_s=0.5) as short,
    ):
        kept = visitor.draw("the longer", "url")
        brief = visitor.draw("the shorter", "url", port=short.port)
        visitor.fetch("the shorter's at the longer", brief, 200)
        visitor.fetch("the longer's at the shorter", kept, 200, port=short.port)
        time.sleep(LIFETIME_S + 3)
        for port in (long.port, short.port):
            visitor.fetch("after the shorter lifetime", kept, 200, port=port)
            visitor.fetch("after the shorter lifetime", brief, 403, port=port)
        if (names := house.stored()) != {told.name for told in kept}:
            visitor.note("after the shorter lifetime", f"{len(names)} pictures are stored, not the longer's one")
        visitor.healthy("both")
        _ends(short, visitor)
        _ends(long, visitor)


def _ends(running: Running, visitor: Visitor) -> None:
    """In order, without a traceback in the log."""
    if code := running.stop():
        visitor.note("at the end", f"exit code {code}")
    for line in tracebacks(running):
        visitor.note("in the log", line)


@contextlib.contextmanager
def mounted(folder: Path, *, size: str) -> Iterator[None]:
    """A disk of its own, in memory. Raises Skipped without the right to mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "none", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        raise Skipped("needs root, to mount a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def full(folder: Path, *, room: int = ROOM) -> Iterator[None]:
    """But for a little room, or none."""
    ballast = folder / "ballast"
    space = os.statvfs(folder)
    ballast.write_bytes(b"\0" * max(0, space.f_bavail * space.f_frsize - room))
    try:
        yield
    finally:
        ballast.unlink()


@contextlib.contextmanager
def _own_disk(house: House) -> Iterator[None]:
    """The data folder on a disk of its own, where this is root; with the key that it had."""
    if os.geteuid():
        yield
        return
    keys = house.keys_file.read_bytes()
    with mounted(house.data_dir, size="32m"):
        house.keys_file.write_bytes(keys)
        yield


@contextlib.contextmanager
def _read_only(house: House) -> Iterator[None]:
    if os.geteuid():  # whom permissions stop
        folders = [folder for folder in (house.data_dir, house.pictures) if folder.exists()]
        for folder in folders:
            folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
        try:
            yield
        finally:
            for folder in folders:
                folder.chmod(stat.S_IRWXU)
        return
    _remount(house, "ro")
    try:
        yield
    finally:
        _remount(house, "rw")


def _remount(house: House, how: str) -> None:
    def tried() -> bool:  # busy while a file is being written
        command = ["mount", "-o", f"remount,{how}", str(house.data_dir)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    eventually(tried, within_s=10)
