"""Which files of this machine an agent may name: pictures in open folders, wherever a path pretends to lead."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from PIL import Image

from server.agents.folders import MAX_BYTES, Folders
from server.agents.refusals import CallFailed
from tests.pictures import png

PICTURE = png(Image.new("RGB", (2, 2), "red"))


@pytest.fixture
def opened(tmp_path: Path) -> Path:
    folder = tmp_path / "opened"
    folder.mkdir()
    (folder / "a.png").write_bytes(PICTURE)
    (tmp_path / "secret.png").write_bytes(PICTURE)
    return folder


@pytest.mark.parametrize("path", ["a.png", "./a.png", "../opened/a.png", "{folder}/a.png"])
def test_a_picture_in_an_open_folder_is_read(opened: Path, path: str) -> None:
    text = Folders([opened]).read(path.format(folder=opened), "image_paths")
    assert text == "data:image/png;base64," + base64.b64encode(PICTURE).decode()


def test_a_second_folder_is_open_as_well(opened: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "b.png").write_bytes(PICTURE)
    assert Folders([opened, other]).read(str(other / "b.png"), "image_paths")


ELSEWHERE = ("../secret.png", "{folder}/../secret.png", "{outside}/secret.png", "link.png", "linked/secret.png",
             "gone.png", "/etc/passwd", "~nobody-here/x", "a\0.png", "~")  # fmt: skip


@pytest.mark.parametrize("path", ELSEWHERE)
def test_what_is_elsewhere_is_refused_as_what_is_not_there(opened: Path, tmp_path: Path, path: str) -> None:
    """Or an agent could be talked into finding out which files there are."""
    (opened / "link.png").symlink_to(tmp_path / "secret.png")
    (opened / "linked").symlink_to(tmp_path)
    with pytest.raises(CallFailed, match="there is no such file in the folders open to this tool"):
        Folders([opened]).read(path.format(folder=opened, outside=tmp_path), "image_paths")


def test_without_a_folder_no_path_is_read_and_it_says_how_to_open_one(opened: Path) -> None:
    with pytest.raises(CallFailed, match="darkroom mcp --folder DIR"):
        Folders([]).read(str(opened / "a.png"), "image_paths")


def test_what_does_not_begin_like_a_picture_stays_here(opened: Path) -> None:
    (opened / "key.png").write_text("-----BEGIN PRIVATE KEY-----")
    with pytest.raises(CallFailed, match="is not a PNG, JPEG or WebP file"):
        Folders([opened]).read("key.png", "image_paths")


def test_pipes_and_folders_are_not_waited_for(opened: Path) -> None:
    os.mkfifo(opened / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(CallFailed, match=r"is not a file|Is a directory"):
            Folders([opened]).read(name, "image_paths")


def test_a_file_that_is_too_large_is_not_read(opened: Path) -> None:
    with (opened / "large.png").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(CallFailed, match="more than"):
        Folders([opened]).read("large.png", "image_paths")
