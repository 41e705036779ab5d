"""``darkroom models import``: what a file is, and its entry in models.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.catalog.load import load_catalog
from tests import upscalers
from tests.unit.commands.command_line import run
from tests.unit.pipelines.facts.test_checkpoint import Shapes, sd, write

MODELS = """\
# the owner's words
default: a   # stays
models:
  a:
    path: nowhere   # also stays
    aliases:
      - b

  # c: an idea
providers: [x]
"""
LORA: Shapes = {"a.lora_up.weight": (4, 4)}
TRANSFORMER: Shapes = {"double_blocks.0.img_attn.qkv.weight": (4, 4)}
UNET: Shapes = {"input_blocks.0.0.weight": (320, 4, 3, 3)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "models.yaml"
    path.write_text(MODELS)
    path.chmod(0o640)
    return path


def imports(file: Path, weights: Path, *arguments: str) -> int:
    return run("models", "--models", str(file), "import", str(weights), *arguments)


def test_a_checkpoint_is_told_and_its_entry_printed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = write(file.parent / "My Model (v2).safetensors", {**sd(2048), "v_pred": (1,), "ztsnr": (1,)})
    assert imports(file, weights) == 0
    said = capsys.readouterr().out
    assert "a checkpoint of sdxl, UNet in F16" in said
    assert "v-prediction, zero terminal SNR" in said
    assert f"  My-Model-v2:\n    checkpoint: {weights}\n" in said
    assert file.read_text() == MODELS


def test_an_entry_is_written_behind_the_last_and_nothing_else_changes(file: Path) -> None:
    weights = write(file.parent / "some.safetensors", sd())
    assert imports(file, weights, "--write", "--as", "new") == 0
    entry = f"\n  new:\n    checkpoint: {weights}\n"
    assert file.read_text() == MODELS.replace("      - b\n", f"      - b\n{entry}")
    assert file.stat().st_mode & 0o777 == 0o640
    assert load_catalog(file).resolve("new").family.name == "stable-diffusion"
    assert [path.name for path in file.parent.iterdir() if path.suffix == ".part"] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--write", "--as", "b"], "has a model b already"),
        (["--as", "no good"], "cannot be an ID"),
        (["--into", "a"], "a model of its own"),
    ],
)
def test_what_cannot_be_done_changes_nothing(
    arguments: list[str], says: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = write(file.parent / "some.safetensors", sd())
    assert imports(file, weights, *arguments) == 1
    assert says in capsys.readouterr().err
    assert file.read_text() == MODELS


def test_one_that_could_not_be_served_is_not_added(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without_text = {name: shape for name, shape in sd().items() if "cond_stage" not in name}
    assert imports(file, write(file.parent / "some.safetensors", without_text), "--write") == 1
    assert "not added: some.safetensors has no text encoder" in capsys.readouterr().err
    assert file.read_text() == MODELS


def test_models_in_one_line_are_left_to_their_owner(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("default: a\nmodels: { a: { path: nowhere } }\n")
    assert imports(file, write(file.parent / "some.safetensors", sd()), "--write") == 1
    assert "write the entry by hand" in capsys.readouterr().err


def test_a_file_of_another_models_is_told_where_it_belongs(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lora = write(file.parent / "ink.safetensors", LORA)
    assert imports(file, lora, "--into", "a") == 0
    assert f"models.a:\n\n    loras:\n      ink: {{ path: {lora} }}" in capsys.readouterr().out
    assert imports(file, write(file.parent / "flux.safetensors", TRANSFORMER)) == 0
    assert "    transformer: " in capsys.readouterr().out
    toy = write(file.parent / "cat toy.safetensors", {"<some>": (2, 768)})
    assert imports(file, toy, "--into", "a") == 0
    assert f"models.a, by the word that prompts shall say:\n\n    embeddings:\n      <cat-toy>: {toy}" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("stem", ["12345", "on", "2024-01-31", "style:ink"])
def test_what_is_printed_can_be_pasted(stem: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """YAML took the name of a LoRA for a number, and models.yaml was refused."""
    assert imports(file, write(file.parent / f"{stem}.safetensors", LORA), "--into", "a") == 0
    lines = capsys.readouterr().out.partition("\n\n")[2]
    file.write_text(MODELS.replace("    aliases:\n", f"{lines}    aliases:\n"))
    (adapter,) = load_catalog(file).models["a"].plan.adapters
    assert adapter.name == stem.replace(":", "-")
    file.write_text(MODELS)
    net = upscalers.write(file.parent / f"{stem}.safetensors", upscalers.compact())
    assert imports(file, net) == 0
    file.write_text(capsys.readouterr().out.partition("\n\n")[2] + MODELS)
    assert load_catalog(file).upscalers[stem.replace(":", "-")].problem is None


def test_an_upscaler_that_is_not_read_is_not_to_be_listed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = write(file.parent / "old.safetensors", {"model.1.sub.0.RDB1.conv1.0.weight": (32, 64, 3, 3)})
    assert imports(file, old) == 1
    said = capsys.readouterr()
    assert "an ESRGAN in an older layout" in said.err
    assert "upscalers:" not in said.out


def test_lines_keep_their_ends(file: Path) -> None:
    """Those of a file from Windows all became others."""
    before = MODELS.replace("\n", "\r\n").encode()
    file.write_bytes(before)
    assert imports(file, write(file.parent / "some.safetensors", sd()), "--write") == 0
    after = file.read_bytes()
    assert set(before.split(b"\n")) <= set(after.split(b"\n"))
    assert after.count(b"\n") == after.count(b"\r\n")
    assert "some" in load_catalog(file).models


def test_what_is_served_under_no_key_is_refused_with_what_to_do(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert imports(file, write(file.parent / "unet.safetensors", UNET)) == 1
    assert "is a UNet alone: a text encoder and a VAE are missing" in capsys.readouterr().err
    pickle = file.parent / "old.ckpt"
    pickle.write_bytes(b"PK\3\4")
    assert imports(file, pickle) == 1
    assert ".ckpt" in capsys.readouterr().err
    assert imports(file, file.parent / "missing.safetensors") == 1
    assert "does not exist" in capsys.readouterr().err


def test_a_link_to_models_yaml_stays_one(file: Path) -> None:
    link = file.parent / "link.yaml"
    link.symlink_to(file)
    assert imports(link, write(file.parent / "some.safetensors", sd()), "--write") == 0
    assert link.readlink() == file
    assert "some" in load_catalog(file).models


def test_files_beside_a_transformer_are_an_entry_together(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flux: Shapes = {"img_in.weight": (3072, 64), "vector_in.in_layer.weight": (3072, 768)}
    flux |= {f"double_blocks.{number}.x": (1,) for number in range(19)}
    flux |= {f"single_blocks.{number}.x": (1,) for number in range(38)}
    weights = write(file.parent / "flux.safetensors", flux)
    clip = write(file.parent / "clip, l.safetensors", {"text_model.embeddings.token_embedding.weight": (4, 768)})
    assert imports(file, weights, "--text-encoder", str(clip)) == 0
    said = capsys.readouterr().out
    assert f"  flux:\n    transformer: {weights}\n    text_encoders: ['{clip}']\n" in said
    assert "before it can be served: flux.safetensors has no VAE, no text encoder T5 (t5xxl_fp16.safetensors)" in said
    all_in_one = {f"model.diffusion_model.{name}": shape for name, shape in flux.items()}
    write(weights, {**all_in_one, "vae.decoder.conv_in.weight": (4, 4)})
    assert imports(file, weights) == 0
    said = capsys.readouterr().out
    assert f"    checkpoint: {weights}\n" in said
    assert "has no text encoder CLIP-L (clip_l.safetensors), no text encoder T5" in said
