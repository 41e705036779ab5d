"""Training goes on from the weights that ship."""

import json
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from training import autoencoder, resume, runtime, text_encoder, tokens, unet


@pytest.fixture
def no_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of the one with the checkpoints and the tokenizer."""
    monkeypatch.setattr(tokens, "FOLDER", tmp_path / "tokenizer")
    for module, name in ((autoencoder, "CHECKPOINT"), (text_encoder, "CHECKPOINT"), (text_encoder, "READER")):
        monkeypatch.setattr(module, name, tmp_path / getattr(module, name).name)
    monkeypatch.setattr(unet, "CHECKPOINT", tmp_path / unet.CHECKPOINT.name)
    return tmp_path


def test_every_network_goes_on_from_the_weights_that_ship(no_checkpoints: Path) -> None:
    resume.resume()
    tokenizer = CLIPTokenizer.from_pretrained(no_checkpoints / "tokenizer", local_files_only=True)
    autoencoder.load(autoencoder.CHECKPOINT)  # each load is strict: no key may be missing, none unexpected
    text_encoder.load(tokenizer, text_encoder.CHECKPOINT)
    text_encoder.load(tokenizer, text_encoder.READER, text_encoder.READER_LAYERS)
    unet.load(unet.CHECKPOINT)
    seen = {path.stem: runtime.samples_of(path) for path in no_checkpoints.glob("*.pt")}
    assert seen == json.loads(resume.SEEN.read_text(encoding="utf-8"))


@pytest.mark.usefixtures("no_checkpoints")
def test_a_checkpoint_that_is_there_is_left_alone() -> None:
    runtime.save(unet.CHECKPOINT, {"average": {}, "samples": 7})
    resume.resume()
    assert runtime.samples_of(unet.CHECKPOINT) == 7
