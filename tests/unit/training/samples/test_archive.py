from pathlib import Path
from typing import Any

import torch

from training.samples import archive as archives
from training.samples.archive import SIDE, Archive

from .conftest import PICTURES


def test_the_same_content_is_the_same_bytes(content: dict[str, Any], tmp_path: Path) -> None:
    for name in ("one.zip", "other.zip"):
        archives.write(tmp_path / name, content, PICTURES, {"licences/LICENSE": "MIT"})
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "other.zip").read_bytes()


def test_an_archive_opens_as_it_was_written(content: dict[str, Any], archive: Archive) -> None:
    assert archive.names == content["names"]
    assert archive.tokenizer == content["tokenizer"]
    assert archive.phrases.families == content["phrases"].families
    for name, table in content["phrases"].tables().items():
        assert torch.equal(archive.phrases.tables()[name], table), name
    assert archive.embeddings.shape == (len(content["all_embeddings"]), 192)


def test_sprites_are_cut_to_their_outline_and_centred(archive: Archive) -> None:
    assert archive.sprites.shape == (6, 4, SIDE, SIDE)
    disc, bar = archive.sprites[0, 3], archive.sprites[5, 3]
    assert disc[SIDE // 2, :4].max() > 128
    assert bar[SIDE // 2, 0] > 128
    rows = (bar[:, SIDE // 2] > 128).nonzero()[:, 0]
    assert abs(int(rows[0]) + int(rows[-1]) - (SIDE - 1)) <= 2, "the bar lies in the middle"
    assert 0.4 < len(rows) / SIDE < 0.5, "the bar keeps its shape"
