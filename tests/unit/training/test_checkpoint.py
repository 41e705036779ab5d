"""Checkpoints: pieces small enough to travel, and never half of one."""

from pathlib import Path

import pytest
import torch

from training import checkpoint
from training.checkpoint import Checkpoint
from training.nets.unet import UNetShape
from training.nets.upscaler import UpscalerShape


def small_checkpoint(seen: int) -> Checkpoint:
    """An upscaler and a UNet with weights of their own."""
    torch.manual_seed(seen)
    shapes: dict[str, checkpoint.Shape] = {
        "upscaler": UpscalerShape(8, 2),
        "unet": UNetShape((16, 16, 16, 16), context=8),
    }
    weights = {name: checkpoint.build(name, shape).state_dict() for name, shape in shapes.items()}
    return Checkpoint(weights, shapes, {"upscaler": 3, "unet": seen}, ["a</w>", "貓"])


def test_a_checkpoint_comes_back_in_pieces_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "MAX_PIECE", 200_000)
    kept = small_checkpoint(5)
    size = checkpoint.save(tmp_path, kept)
    files = sorted(tmp_path.iterdir())
    assert len(files) > 1
    assert size == sum(path.stat().st_size for path in files)
    assert all(path.stat().st_size < 220_000 for path in files)
    back = checkpoint.load(tmp_path)
    assert (back.shapes, back.seen, back.vocabulary) == (kept.shapes, kept.seen, kept.vocabulary)
    for name, weights in kept.weights.items():
        assert all(torch.equal(back.weights[name][key], weight.half()) for key, weight in weights.items())
        net = back.net(name)
        assert all(torch.equal(net.state_dict()[key], weight.half().float()) for key, weight in weights.items())


def test_pieces_that_a_smaller_checkpoint_leaves_over_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "MAX_PIECE", 50_000)
    checkpoint.save(tmp_path, small_checkpoint(5))
    monkeypatch.undo()
    checkpoint.save(tmp_path, small_checkpoint(6))
    assert len(list(tmp_path.iterdir())) == 1
    assert checkpoint.load(tmp_path).seen["unet"] == 6


def test_a_save_that_fails_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, small_checkpoint(5))

    def full(*arguments: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(tmp_path, small_checkpoint(6))
    assert checkpoint.load(tmp_path).seen["unet"] == 5


def test_pieces_of_two_saves_are_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "MAX_PIECE", 200_000)
    checkpoint.save(tmp_path, small_checkpoint(5))
    old = (tmp_path / "weights-1.safetensors").read_bytes()
    checkpoint.save(tmp_path, small_checkpoint(6))
    (tmp_path / "weights-1.safetensors").write_bytes(old)
    with pytest.raises(ValueError, match="2 saves"):
        checkpoint.load(tmp_path)
