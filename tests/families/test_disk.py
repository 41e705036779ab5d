"""Each family's tiny pipeline, saved and loaded by the real loader, with tokenizers and schedulers as on hubs."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sentencepiece
import torch

from pipelines.errors import LoadRefused
from pipelines.facts import folder as model_folder
from pipelines.models.loader import LoadedModel, load
from pipelines.plan import ModelPlan
from pipelines.spec import Task
from tests.families import tiny
from tests.families.drive import draw, drawing, half_mask, picture
from tests.families.parts import VOCAB

# What saving calls by the name that it has in these tests, and hubs by that of the library.
_CLASSES = {
    "_Controlled": "StableDiffusionControlNetPipeline",
    "PictureProcessor": ["transformers", "Qwen2VLProcessor"],
}


def save(name: str, folder: Path) -> LoadedModel:
    """The tiny model of a row, written to ``folder`` as a hub has it."""
    built = tiny.build(name)
    built._base.save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    for key, value in index.items():
        called = value[1] if isinstance(value, list) else value
        if isinstance(called, str) and called in _CLASSES:
            index[key] = _CLASSES[called]
    (folder / "model_index.json").write_text(json.dumps(index))
    return built


def set_class(folder: Path, name: str, library: str, class_name: str) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, name: [library, class_name]}))


def reload(built: LoadedModel, folder: Path) -> LoadedModel:
    assert model_folder.problem(folder) is None
    return load(msgspec.structs.replace(built.plan, folder=str(folder)), torch.device("cpu"))


def draw_one(model: LoadedModel) -> torch.Tensor:
    width, height = model.plan.native_width, model.plan.native_height
    more: dict[str, Any] = {}
    if Task.TEXT_TO_IMAGE not in model.family.tasks:
        more["sources"] = (picture(width, height),)
    if model.family.tasks == {Task.INPAINTING}:
        more["mask"] = half_mask(width, height)
    return draw(model, [drawing(model, 1, "a cat", steps=2, **more)]).pictures["1"]


@pytest.mark.parametrize("name", [name for name in tiny.BUILDERS if name != "SD ControlNet"])
def test_each_family_draws_from_disk_what_it_draws_in_memory(name: str, tmp_path: Path) -> None:
    """Qwen-Image-Edit never loaded without torchvision: these models were only ever built in memory."""
    built = save(name, tmp_path / "model")
    drawn = draw_one(reload(built, tmp_path / "model"))
    assert torch.allclose(drawn, draw_one(built), atol=1e-4)


def test_a_pipeline_with_a_controlnet_loads_from_disk(tmp_path: Path) -> None:
    reload(save("SD ControlNet", tmp_path / "model"), tmp_path / "model")


@pytest.fixture(scope="session")
def spiece() -> bytes:
    """A sentencepiece model of its own, as T5, Llama and Gemma have."""
    model = io.BytesIO()
    text = [
        f"a {a} and the {b} on an old map {a}{b}" for a in ("cat", "dog", "red") for b in ("house", "tree", "apple")
    ]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text * 10),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=3,
    )
    return model.getvalue()


@pytest.mark.parametrize(
    ("row", "class_name", "file"),
    [
        ("PixArt-Sigma", "T5Tokenizer", "spiece.model"),
        ("PixArt-Sigma", "T5TokenizerFast", "spiece.model"),
        ("AuraFlow", "LlamaTokenizer", "tokenizer.model"),
        ("AuraFlow", "LlamaTokenizerFast", "tokenizer.model"),
        ("Lumina 2", "GemmaTokenizer", "tokenizer.model"),
        ("Sana", "GemmaTokenizerFast", "tokenizer.model"),
    ],
)
def test_tokenizers_that_have_a_sentencepiece_model_alone(
    row: str, class_name: str, file: str, spiece: bytes, tmp_path: Path
) -> None:
    """protobuf was no dependency: 503 at load, and check was silent."""
    folder = tmp_path / "model"
    built = save(row, folder)
    shutil.rmtree(folder / "tokenizer")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / file).write_bytes(spiece)
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "bos_token": "<s>"}
    config = {"tokenizer_class": class_name, "model_max_length": 300, "extra_ids": 0, **special}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config))
    set_class(folder, "tokenizer", "transformers", class_name)
    loaded = reload(built, folder)
    tokens = loaded._base.tokenizer("a cat").input_ids
    assert 2 <= len(tokens) <= 12
    assert max(tokens) < VOCAB
    assert torch.isfinite(draw_one(loaded)).all()


@pytest.mark.parametrize(
    ("class_name", "more"),
    [
        ("LMSDiscreteScheduler", {}),
        ("EulerDiscreteScheduler", {"use_beta_sigmas": True}),
        ("UniPCMultistepScheduler", {"use_beta_sigmas": True}),
    ],
)
def test_schedulers_that_need_scipy(class_name: str, more: dict[str, Any], tmp_path: Path) -> None:
    """scipy was no dependency: every request failed, and check was silent."""
    folder = tmp_path / "model"
    built = save("SD 1.x", folder)
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "_class_name": class_name, **more}))
    set_class(folder, "scheduler", "diffusers", class_name)
    assert torch.isfinite(draw_one(reload(built, folder))).all()


@pytest.mark.parametrize(
    ("component", "value"),
    [
        ("unet", ["diffusers", "StableDiffusionPipeline"]),
        ("unet", ["diffusers", "AutoPipelineForText2Image"]),
        ("unet", ["diffusers", "os"]),
        ("text_encoder", ["transformers", "TrainingArguments"]),
        ("text_encoder", ["transformers", "AutoModel"]),
        ("_class_name", "StableDiffusionSafetyChecker"),
        ("_class_name", "UNet2DConditionModel"),
        ("_class_name", "ModularPipeline"),
        ("_class_name", "KandinskyCombinedPipeline"),
        ("_class_name", "None"),
    ],
)
def test_a_class_that_is_not_what_its_place_asks_for(component: str, value: Any, tmp_path: Path) -> None:
    """A pipeline inside a pipeline opened pickles of a folder that nobody had judged."""
    folder = tmp_path / "model"
    built = save("SD 1.x", folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, component: value}))
    with pytest.raises(LoadRefused):
        load(ModelPlan("m", str(folder), built.plan.family), torch.device("cpu"))
