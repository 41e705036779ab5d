"""Tiny models whose weights lie in single files, and T5's words in small."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import sentencepiece
import torch
from safetensors.torch import load_file, save_file

from pipelines.facts import folder as model_folder
from pipelines.facts import model_files, seal
from pipelines.models import dry_run
from pipelines.models.loader import load
from pipelines.plan import ModelPlan
from tests.families.test_disk import save, set_class
from tests.families.test_transformer_files import original_sd3
from tests.original_layout import _vae
from tests.original_transformers import PREFIX

CPU = torch.device("cpu")
Tensors = dict[str, torch.Tensor]
TEXTS = ("text_encoder", "text_encoder_2", "text_encoder_3")


class Pieces:
    """A tiny model whose weights lie in files of their own, and whose folder has configurations alone."""

    def __init__(self, name: str, folder: Path) -> None:
        self.model = save(name, folder / "config")
        self.folder, self.config = folder, folder / "config"
        self.tensors: dict[str, Tensors] = {}
        for component in ("transformer", "vae", *TEXTS):
            for path in (self.config / component).glob("*.safetensors"):
                self.tensors[component] = load_file(path)
                path.unlink()
        self.tensors["vae"] = _vae(self.tensors["vae"], self.model.components["vae"])
        if name == "SD3":
            self.tensors["transformer"] = original_sd3(self.tensors["transformer"])

    def write(self, component: str, tensors: Tensors | None = None) -> str:
        path = self.folder / f"{component}.safetensors"
        found = self.tensors[component] if tensors is None else tensors
        save_file({name: tensor.contiguous() for name, tensor in found.items()}, path)
        return str(path)

    def plan(self, **more: Any) -> ModelPlan:
        known = {
            "folder": str(self.config),
            "is_transformer_alone": True,
            "transformer": self.write("transformer"),
            "vae": self.write("vae"),
            "text_encoders": tuple(self.write(each) for each in TEXTS if each in self.tensors),
        }
        return msgspec.structs.replace(self.model.plan, **{**known, **more})

    def checkpoint(self, *, without: str = "") -> ModelPlan:
        """All of it in one file, as ComfyUI writes it."""
        names = {"text_encoder": "clip_1", "text_encoder_2": "clip_2", "text_encoder_3": "t5xxl"}  # of one width here
        if "text_encoder_3" not in self.tensors:
            names["text_encoder_2"] = "t5xxl"
        tensors = {PREFIX + name: each for name, each in self.tensors["transformer"].items()}
        tensors |= {f"vae.{name}": each for name, each in self.tensors["vae"].items()}
        for component, called in names.items():
            if component in self.tensors and component != without:
                prefix = f"text_encoders.{called}."
                tensors |= {f"{prefix}transformer.{name}": each for name, each in self.tensors[component].items()}
                tensors[f"{prefix}logit_scale"] = torch.ones(())
        file = self.write("all", tensors)
        return msgspec.structs.replace(self.model.plan, folder=str(self.config), checkpoint=file)

    def same_as(self, plan: ModelPlan, without: tuple[str, ...] = ()) -> None:
        assert model_files.problem(plan) is None
        assert dry_run.problem(plan, lambda read: None) is None
        loaded = load(plan, CPU)
        for component in ("transformer", "vae", *TEXTS):
            expected = self.model.components.get(component)
            if expected is None:
                continue
            if component in without:
                assert loaded.components[component] is None
                continue
            found = loaded.components[component].state_dict()
            for name, tensor in expected.state_dict().items():
                assert torch.equal(found[name], tensor), f"{component}: {name}"


def seal_folder(folder: Path) -> None:
    (folder / seal.NAME).write_bytes(seal.make(folder, model_folder.files_read(folder), lambda read: None))


def trained_on(*some: str) -> bytes:
    model = io.BytesIO()
    text = [f"a {a} and the {b} on an old map" for a in some for b in ("house", "tree", "apple")]
    trained: dict[str, Any] = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "vocab_size": 50}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text * 10), model_writer=model, hard_vocab_limit=False, **trained
    )
    return model.getvalue()


def without_words(pieces: Pieces) -> Pieces:
    """As our own configurations are: no words of T5."""
    take_words(pieces.config)
    return pieces


def take_words(model: Path) -> None:
    folder = model / "tokenizer_2"
    for path in folder.iterdir():
        path.unlink()
    config = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "extra_ids": 10}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 512}))
    set_class(model, "tokenizer_2", "transformers", "T5TokenizerFast")
