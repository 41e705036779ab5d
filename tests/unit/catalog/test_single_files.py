"""Checkpoints and files beside folders in models.yaml: what an entry of them becomes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import get_args

import pytest

from pipelines.facts.checkpoint import ARCHITECTURES, BASES, TRANSFORMER_BASES
from pipelines.spec import Task
from server.catalog.entries import Base
from server.errors import ConfigError
from tests.unit.catalog.models_files import catalog
from tests.unit.commands.command_line import run
from tests.unit.pipelines.facts.test_checkpoint import Shapes, sd, write

ENTRY = "default: a\nmodels:\n  a:\n    checkpoint: some.safetensors\n"


def test_every_base_may_be_written() -> None:
    assert tuple(base for each in get_args(Base) for base in get_args(each)) == BASES + TRANSFORMER_BASES


@pytest.mark.parametrize(
    ("width", "channels", "family", "side"),
    [
        (768, 4, "stable-diffusion", 512),
        (768, 9, "stable-diffusion-inpainting", 512),
        (1024, 4, "stable-diffusion", 768),
        (1024, 9, "stable-diffusion-inpainting", 512),
        (2048, 4, "stable-diffusion-xl", 1024),
        (2048, 9, "stable-diffusion-xl-inpainting", 1024),
        (1280, 4, "stable-diffusion-xl-refiner", 1024),
    ],
)
def test_family_and_size_are_told_from_the_header(
    width: int, channels: int, family: str, side: int, tmp_path: Path
) -> None:
    write(tmp_path / "some.safetensors", sd(width, channels))
    model = catalog(tmp_path, ENTRY).resolve("a")
    assert (model.family.name, model.area.native_width) == (family, side)
    assert model.plan.source == str(tmp_path / "some.safetensors")
    assert (Task.TEXT_TO_IMAGE in model.family.tasks) == (channels == 4 and width != 1280)


def test_sd_2_1_base_draws_512(tmp_path: Path) -> None:
    write(tmp_path / "some.safetensors", sd(1024))
    assert catalog(tmp_path, f"{ENTRY}    prediction: epsilon\n").resolve("a").area.native_width == 512
    assert catalog(tmp_path, f"{ENTRY}    native_size: 640x640\n").resolve("a").area.native_width == 640


def test_a_checkpoint_that_is_missing_leaves_the_others_serving(tmp_path: Path) -> None:
    text = f"{ENTRY}  b:\n    path: weights\n"
    model = catalog(tmp_path, text).resolve("a")
    assert model.problem() == "some.safetensors does not exist"
    assert model.weight_bytes is None


def test_weights_are_counted_from_the_header(tmp_path: Path) -> None:
    write(tmp_path / "some.safetensors", sd())
    model = catalog(tmp_path, ENTRY).resolve("a")
    assert model.problem() is None
    assert model.weight_bytes == 2 * (320 * 4 * 9 + 320 * 768 + 512 * 4 * 9 + 77)


def test_ids_that_are_like_a_checkpoint_share_its_weights(tmp_path: Path) -> None:
    write(tmp_path / "some.safetensors", sd())
    models = catalog(tmp_path, f"{ENTRY}    prediction: v\n  b:\n    like: a\n")
    assert models.resolve("b").plan == models.resolve("a").plan
    assert models.resolve("b").plan.prediction == "v"


def test_other_files_are_other_weights(tmp_path: Path) -> None:
    """The plan is what tells weights apart: with one VAE or another they are not the same."""
    write(tmp_path / "some.safetensors", sd())
    plain = catalog(tmp_path, ENTRY).resolve("a").plan
    other = catalog(tmp_path, f"{ENTRY}    vae: vae.safetensors\n").resolve("a").plan
    assert plain.mark != other.mark


def test_a_file_that_has_been_replaced_is_other_weights(tmp_path: Path) -> None:
    file = write(tmp_path / "some.safetensors", sd())
    before = catalog(tmp_path, ENTRY).resolve("a").plan
    assert catalog(tmp_path, ENTRY).resolve("a").plan == before
    write(file, sd() | {"more": (4,)})
    assert catalog(tmp_path, ENTRY).resolve("a").plan != before


FOLDER = "default: one\ncheckpoints: files\n"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with one checkpoint."""
    (tmp_path / "files").mkdir()
    write(tmp_path / "files" / "one.safetensors", sd())
    return tmp_path / "files"


def test_each_file_of_the_folder_is_a_model_by_its_stem(files: Path, tmp_path: Path) -> None:
    write(files / "two-v1.5.safetensors", sd(2048))
    models = catalog(tmp_path, FOLDER)
    assert {model.id: model.family.name for model in models} == {
        "one": "stable-diffusion",
        "two-v1.5": "stable-diffusion-xl",
    }
    assert models.refused_checkpoints == {}
    assert models.watched_folders == (files,)
    assert models.resolve("one").plan.checkpoint == str(files / "one.safetensors")


def test_a_file_that_is_wrong_does_not_take_the_others_down(files: Path, tmp_path: Path) -> None:
    write(files / "lora.safetensors", {"a.lora_up.weight": (4, 4)})
    write(files / "odd.safetensors", sd(999))
    write(files / "a b.safetensors", sd())
    (files / "half.safetensors").write_bytes((files / "one.safetensors").read_bytes()[:1000])
    (files / "._one.safetensors").write_bytes(b"what a system left")
    (files / "notes.txt").write_text("mine")
    models = catalog(tmp_path, FOLDER)
    assert [model.id for model in models] == ["one"]
    assert sorted(models.refused_checkpoints) == [
        "a b.safetensors",
        "half.safetensors",
        "lora.safetensors",
        "odd.safetensors",
    ]
    assert "is truncated" in models.refused_checkpoints["half.safetensors"]
    assert "under loras" in models.refused_checkpoints["lora.safetensors"]


def test_names_that_models_yaml_has_stay_with_it(files: Path, tmp_path: Path) -> None:
    text = f"{FOLDER}models:\n  one: {{ path: weights, aliases: [two] }}\n"
    write(files / "two.safetensors", sd())
    models = catalog(tmp_path, text)
    assert models.resolve("one").plan.checkpoint is None
    assert models.refused_checkpoints == {
        "one.safetensors": "one already stands for one; rename the file",
        "two.safetensors": "two already stands for one; rename the file",
    }


def test_old_ids_may_be_like_a_file_of_the_folder(files: Path, tmp_path: Path) -> None:
    models = catalog(tmp_path, f"{FOLDER}models:\n  dall-e-3: {{ like: one }}\n")
    assert models.resolve("dall-e-3").plan == models.resolve("one").plan


def test_a_default_that_is_broken_is_a_model_that_says_so(files: Path, tmp_path: Path) -> None:
    """It would have kept the server from starting, and the others from serving."""
    (files / "one.safetensors").write_bytes(b"half of it")
    write(files / "two.safetensors", sd())
    models = catalog(tmp_path, FOLDER)
    assert "one.safetensors is not a safetensors file" in str(models.resolve("one").problem())
    assert models.resolve("two").id == "two"


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    models = catalog(tmp_path, f"{FOLDER}models:\n  one: {{ path: weights }}\n")
    assert models.refused_checkpoints == {"checkpoints": "the folder does not exist, or is none"}
    with pytest.raises(ConfigError, match="default = 'one': must be one of the files in checkpoints"):
        catalog(tmp_path, FOLDER)
    with pytest.raises(ConfigError, match="needs models, or checkpoints"):
        catalog(tmp_path, "default: one\n")


def test_configurations_of_the_owners(tmp_path: Path) -> None:
    shutil.copytree(ARCHITECTURES / "sdxl", tmp_path / "mine")
    write(tmp_path / "some.safetensors", sd(999))
    model = catalog(tmp_path, f"{ENTRY}    config: mine\n").resolve("a")
    assert model.family.name == "stable-diffusion-xl"
    assert model.plan.folder == str(tmp_path / "mine")


def test_configurations_that_are_missing(tmp_path: Path) -> None:
    write(tmp_path / "some.safetensors", sd())
    model = catalog(tmp_path, f"{ENTRY}    config: nowhere\n").resolve("a")
    assert model.problem() == "config: nowhere does not exist, or is no folder"


def test_a_seal_lies_beside_its_file_and_not_in_our_configurations(tmp_path: Path) -> None:
    """It would have been written beside the configurations that ship."""
    write(tmp_path / "some.safetensors", sd())
    (tmp_path / "models.yaml").write_text(ENTRY)
    assert run("models", "--models", str(tmp_path / "models.yaml"), "seal", "a") == 0
    assert (tmp_path / "some.safetensors.darkroom-seal.json").is_file()
    assert sorted(path.name for path in (ARCHITECTURES / "sd15").iterdir() if path.is_file()) == ["model_index.json"]


def test_a_checkpoint_of_flux_has_no_place_for_its_tokenizer_in_the_folder(files: Path, tmp_path: Path) -> None:
    """Its words come from a file, which an entry names."""
    all_in_one = {f"model.diffusion_model.{name}": shape for name, shape in flux().items()}
    clip = {"text_encoders.clip_l.transformer.text_model.embeddings.token_embedding.weight": (4, 768)}
    t5: Shapes = {
        f"text_encoders.t5xxl.transformer.{name}": (4, 4096)
        for name in ("shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight")
    }
    write(files / "all.safetensors", {**all_in_one, **clip, **t5, "vae.decoder.conv_in.weight": (4, 4, 3, 3)})
    models = catalog(tmp_path, FOLDER)
    assert "T5 is without its words" in models.refused_checkpoints["all.safetensors"]
    assert "stands under models" in models.refused_checkpoints["all.safetensors"]


def flux() -> Shapes:
    """A few names of FLUX.1 schnell, enough to tell what it is."""
    found: Shapes = {"img_in.weight": (3072, 64), "vector_in.in_layer.weight": (3072, 768)}
    found |= {f"double_blocks.{number}.x": (1,) for number in range(19)}
    return found | {f"single_blocks.{number}.x": (1,) for number in range(38)}


FILES = """default: a
models:
  a:
    transformer: flux.safetensors
    text_encoders: [clip_l.safetensors, t5.safetensors]
    vae: ae.safetensors
    tokenizer: t5/tokenizer.json
"""


def test_files_alone_are_a_model_of_the_base_that_the_transformer_tells(tmp_path: Path) -> None:
    write(tmp_path / "flux.safetensors", flux())
    model = catalog(tmp_path, FILES).resolve("a")
    assert (model.family.name, model.plan.folder) == ("flux", str(ARCHITECTURES / "flux-schnell"))
    assert model.plan.source == str(tmp_path / "flux.safetensors")
    assert model.plan.text_encoders == (str(tmp_path / "clip_l.safetensors"), str(tmp_path / "t5.safetensors"))
    assert model.problem() == "ae.safetensors does not exist"
    write(tmp_path / "flux.safetensors", flux() | {"guidance_in.in_layer.weight": (1,)})
    assert catalog(tmp_path, FILES).resolve("a").plan.folder == str(ARCHITECTURES / "flux-dev")
    kontext = catalog(tmp_path, f"{FILES}    base: flux-kontext\n").resolve("a")
    assert kontext.family.name == "flux-kontext"
    write(tmp_path / "t5.safetensors", {"shared.weight": (4, 4)})
    assert catalog(tmp_path, FILES).resolve("a").plan.mark != model.plan.mark


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("    path: x\n    tokenizer: y\n", "tokenizer belongs to checkpoint, or transformer without path"),
        ("    path: x\n    config: y\n", "config belongs to checkpoint, or transformer without path"),
        ("    checkpoint: x\n    transformer: y\n", "transformer belongs to path, or stands without checkpoint"),
        ("    text_encoders: [x]\n", "needs one of path (a model folder), checkpoint (one file), transformer (with"),
        ("    transformer: x\n    prediction: v\n", "prediction belongs to checkpoint"),
        ("    path: x\n    text_encoders: x\n", "valid list"),
        ("    path: x\n    text_encoders: ['']\n", "at least 1 character"),
        ("    path: x\n    text_encoders: [a, b, c, d, e]\n", "at most 4 items"),
    ],
)
def test_keys_that_do_not_go_together(lines: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        catalog(tmp_path, f"default: a\nmodels:\n  a:\n{lines}")
    assert says in str(refused.value)


def test_who_is_like_files_does_not_name_others(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"models\.b\.text_encoders: is a's to say"):
        catalog(tmp_path, f"{FILES}  b: {{ like: a, text_encoders: [x] }}\n")
