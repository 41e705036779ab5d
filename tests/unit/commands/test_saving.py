"""Names of saved pictures, and that nothing is ever overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.commands.saving import Destination, slug
from server.errors import ConfigError


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A red apple, on a table!", "a-red-apple-on-a-table"),
        ("../../etc/passwd", "etc-passwd"),
        ("一只红色的猫", "一只红色的猫"),
        ("🐈‍⬛", "picture"),
        ("\x1b[31m\n\t", "31m"),
        ("word " * 30, "-".join(["word"] * 9)),
        ("x" * 300, "x" * 48),
    ],
)
def test_names_hold_words_only(prompt: str, name: str) -> None:
    assert slug(prompt) == name


def test_names_say_the_seed_and_count_on_instead_of_overwriting(tmp_path: Path) -> None:
    destination = Destination(tmp_path / "new" / "folder")
    destination.check(4)
    kept = [destination.keep(b"%d" % n, prompt="a cat", seed=7, format_="jpeg") for n in range(3)]
    assert [path.name for path in kept] == ["a-cat-seed7.jpg", "a-cat-seed7-2.jpg", "a-cat-seed7-3.jpg"]
    assert [path.read_bytes() for path in kept] == [b"0", b"1", b"2"]


def test_a_file_is_one_picture_and_new(tmp_path: Path) -> None:
    destination = Destination(tmp_path / "cat.WEBP")
    assert destination.format == "webp"
    destination.check(1)
    assert destination.keep(b"x", prompt="p", seed=1, format_="webp") == tmp_path / "cat.WEBP"
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        destination.check(1)
    with pytest.raises(ConfigError, match="folder"):
        Destination(tmp_path / "dog.png").check(2)
    # Another command may have been quicker after all.
    assert destination.keep(b"y", prompt="p", seed=1, format_="webp").name == "cat-2.WEBP"
    assert (tmp_path / "cat.WEBP").read_bytes() == b"x"


def test_a_folder_may_have_a_dot_and_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "v1.png").mkdir()
    assert Destination(tmp_path / "v1.png").format is None
    (tmp_path / "notes").write_text("x")
    with pytest.raises(ConfigError, match="is a file"):
        Destination(tmp_path / "notes").check(1)
    with pytest.raises(ConfigError, match="cannot be written"):
        Destination(tmp_path / "notes" / "deeper").keep(b"", prompt="p", seed=1, format_="png")


def test_what_could_not_be_kept_is_refused_before_it_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for name in ("file/sub", "file/a.png", "a.gif", "b/c.TIFF"):
        with pytest.raises(ConfigError):
            Destination(tmp_path / name).check(1)
    for name in ("new", "new/er/a.png", "v1.2"):
        Destination(tmp_path / name).check(1)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
