"""A checkpoint as a folder that stock diffusers loads."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from training import checkpoint, codes, export, resume, ship
from training.checkpoint import Checkpoint
from training.nets.autoencoder import AutoencoderShape
from training.nets.text_encoder import TextEncoderShape
from training.nets.unet import UNetShape
from training.nets.upscaler import UpscalerShape
from training.samples.archive import Archive
from training.text_encoder import prefix_ids

TOKENIZER = resume.SHIPPED / "tokenizer"
WORDS = len(resume.vocabulary((TOKENIZER / "tokenizer.json").read_bytes()))


def tiny_archive() -> Archive:
    """As much of an archive as the export needs: the tokenizer that ships."""
    files = {path.name: path.read_bytes() for path in TOKENIZER.iterdir()}
    return cast(Archive, SimpleNamespace(tokenizer=files))


def tiny_checkpoint() -> Checkpoint:
    """All networks, tiny, with weights of their own."""
    torch.manual_seed(1)
    shapes: dict[str, checkpoint.Shape] = {
        "autoencoder": AutoencoderShape(8, (8,) * 3),
        "text_encoder": TextEncoderShape(WORDS, 1, 16, 16, 2, codes.LENGTH),
        "unet": UNetShape((16, 16, 16, 16), context=16),
        "upscaler": UpscalerShape(8, 1),
    }
    nets = {name: checkpoint.build(name, shape) for name, shape in shapes.items()}
    weights = {name: net.half().state_dict() for name, net in nets.items()}
    return Checkpoint(weights, shapes, dict.fromkeys(shapes, 7), [])


@torch.no_grad()
def test_stock_diffusers_loads_what_was_trained_and_draws(tmp_path: Path) -> None:
    kept, folder = tiny_checkpoint(), tmp_path / "mini"
    size = export.export(kept, tiny_archive(), folder)
    pipeline = export.load(folder)
    net = kept.net("text_encoder")
    ids = pipeline.tokenizer(["a cat"], padding="max_length", return_tensors="pt").input_ids
    assert ids.shape == (1, codes.LENGTH)
    assert torch.equal(ids[:, : codes.PREFIX], prefix_ids(ids[:, : codes.WORDS], WORDS))
    assert torch.allclose(net(ids), pipeline.text_encoder(ids).last_hidden_state, atol=1e-4)
    picture = pipeline("a cat", num_inference_steps=2, width=176, height=96).images[0]
    assert picture.size == (176, 96)
    upscaler = resume.upscaler_of(folder)
    assert size == sum(path.stat().st_size for path in (upscaler, *folder.rglob("*")) if path.is_file())


def test_what_was_exported_can_be_gone_on_from(tmp_path: Path) -> None:
    kept, folder = tiny_checkpoint(), tmp_path / "mini"
    export.export(kept, tiny_archive(), folder)
    given = resume.read(folder)
    for name, weights in kept.weights.items():
        net = checkpoint.build(name, kept.shapes[name])
        taken = resume.take(net, given.weights[name], given.vocabulary, given.vocabulary)
        assert taken.left == ()
        assert all(torch.equal(net.state_dict()[key], weight.float()) for key, weight in weights.items())


def test_shipping_writes_the_weights_and_how_much_they_have_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "SHIPPED", tmp_path / "mini")
    monkeypatch.setattr(resume, "SEEN", tmp_path / "seen.json")
    ship.ship(tiny_checkpoint(), tiny_archive())
    assert resume.read(tmp_path / "mini").seen == dict.fromkeys(("autoencoder", "text_encoder", "unet", "upscaler"), 7)


def test_a_checkpoint_that_lacks_a_network_is_told(tmp_path: Path) -> None:
    kept = tiny_checkpoint()
    del kept.weights["unet"]
    with pytest.raises(ValueError, match="no unet"):
        export.export(kept, tiny_archive(), tmp_path / "mini")
