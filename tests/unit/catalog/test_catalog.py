"""models.yaml: what a typing error is told, how names resolve, what keys are taken over."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.catalog.catalog import Catalog, find_models_file, load_catalog
from server.commands.check import check
from server.errors import BadRequest, ConfigError, ModelNotFound
from server.settings import Settings
from tests.running import ROOT

GOOD = """\
default: mini
providers: [openai, google]
models:
  mini:
    path: weights
    native_size: 64x64
    multiple: 16
    quality:
      standard: { steps: 8, guidance: 2.5 }
      hd: { steps: 30 }
    style:
      natural: { guidance: 1.2, prompt_suffix: ", calm" }
  dall-e-2:
    like: mini
    aliases: [two]
    sizes: [256x256, 1024x1024]
"""


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "models.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def catalog(tmp_path: Path, text: str = GOOD) -> Catalog:
    return load_catalog(write(tmp_path, text))


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("    multiple: 16", "    multipel: 16", 7, ["models.mini.multipel", "no such key", "multiple", "native_size"]),
        ("    multiple: 16", "    multiple: 0", 7, ["models.mini.multiple = 0", "greater than or equal to 1"]),
        ("    multiple: 16", "    multiple: sixteen", 7, ["models.mini.multiple = 'sixteen'", "integer"]),
        ("native_size: 64x64", "native_size: 64", 6, ["models.mini.native_size = 64", "string"]),
        ("native_size: 64x64", "native_size: 64*64", 6, ["models.mini.native_size = '64*64'", "1024x1024"]),
        ("steps: 30", "steps: 3000", 10, ["models.mini.quality.hd.steps = 3000", "500"]),
        ("steps: 30", "stps: 30", 10, ["models.mini.quality.hd.stps", "allowed", "steps", "scheduler"]),
        ("steps: 30", "steps: 30, scheduler: eular", 10, ["scheduler = 'eular'", "euler", "ddim"]),
        ("      hd:", "      best:", 10, ["models.mini.quality.best", "standard", "hd"]),
        ("      natural:", "      calm:", 12, ["models.mini.style.calm", "vivid", "natural"]),
        ("like: mini", "like: maxi", 14, ["models.dall-e-2.like = 'maxi'", "mini"]),
        ("like: mini", "dtype: float8", 14, ["models.dall-e-2.dtype = 'float8'", "bfloat16"]),
        ("    like: mini\n", "", 13, ["models.dall-e-2", "path", "like"]),
        ("like: mini", "like: mini\n    path: x", 13, ["models.dall-e-2", "path", "like"]),
        ("like: mini", "like: mini\n    family: sdxxl", 13, ["family", "stable-diffusion-xl"]),
        ("[256x256, 1024x1024]", "[256x256]", 13, ["default_size"]),
        ("[256x256, 1024x1024]", "[256x256, big]", 16, ["models.dall-e-2.sizes", "'big'", "1024x1024"]),
        ("aliases: [two]", "aliases: [mini]", 13, ["'mini'", "already stands for mini"]),
        ("aliases: [two]", "aliases: ['a b']", 13, ["'a b'", "letters"]),
        ("default: mini", "default: maxi", 1, ["default = 'maxi'", "mini, dall-e-2"]),
        ("default: mini\n", "", 1, ["default", "required"]),
        ("providers: [openai, google]", "provider: [openai]", 2, ["provider", "no such key", "providers"]),
        ("    multiple: 16", "    native_size: 32x32", 7, ["native_size", "twice"]),
        ("like: mini", "like: mini\n    dtype: bfloat16", 15, ["models.dall-e-2.dtype = 'bfloat16'", "mini"]),
        ("like: mini", "like: mini\n    quantise: int8", 15, ["models.dall-e-2.quantise = 'int8'", "mini"]),
        ("like: mini", "like: mini\n    offload: true", 15, ["models.dall-e-2.offload = True", "mini"]),
        ("like: mini", "like: mini\n    compile: true", 15, ["models.dall-e-2.compile = True", "mini"]),
        ("like: mini", "like: mini\n    fuse_qkv: false", 15, ["models.dall-e-2.fuse_qkv = False", "mini"]),
        ("like: mini", "like: mini\n    family: lcm", 15, ["models.dall-e-2.family = 'lcm'", "mini"]),
    ],
)
def test_a_typing_error_names_file_line_key_value_and_what_is_allowed(
    tmp_path: Path, old: str, new: str, line: int, says: list[str]
) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as refused:
        catalog(tmp_path, GOOD.replace(old, new, 1))
    message = str(refused.value)
    assert f"{tmp_path / 'models.yaml'}, line {line}: " in message
    for part in says:
        assert part in message, message


@pytest.mark.parametrize(
    "text", ["", "models: [", "a: &a\n  b: *c", "- 1", "models: {}", "\x00", "5", "a: !!python/x y"]
)
def test_what_is_no_models_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"models\.yaml"):
        catalog(tmp_path, text)


def test_a_file_that_is_not_text_or_not_there_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"models\.yaml"):
        load_catalog(tmp_path / "models.yaml")
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        find_models_file(tmp_path / "nowhere.yaml")


def test_like_takes_over_all_but_names(tmp_path: Path) -> None:
    both = catalog(tmp_path)
    base, other = both.models["mini"], both.models["dall-e-2"]
    assert other.plan == base.plan  # the same weights, loaded once
    assert list(both.plans) == ["mini"]
    assert other.area == base.area
    assert other.preset("hd", "vivid") == base.preset("hd", "vivid")
    assert base.entry.aliases == []
    assert (base.sizes.startswith("auto, or"), other.sizes) == (True, "auto, 256x256, 1024x1024")


@pytest.mark.parametrize("first", ["mini", "dall-e-2"])
def test_ids_that_share_weights_have_one_plan_whatever_they_set(tmp_path: Path, first: str) -> None:
    """Another native_size or keep made another plan under the same key: the same weights, loaded a second time."""
    text = GOOD.replace("like: mini", "like: mini\n    native_size: 128x128\n    keep: true\n    preload: true")
    if first == "dall-e-2":
        head, mini, other = text.replace("  dall-e-2:", "|  dall-e-2:").replace("  mini:", "|  mini:").split("|")
        text = head + other + mini
    both = catalog(tmp_path, text)
    mine, theirs = both.models["mini"], both.models["dall-e-2"]
    assert next(iter(both.models)) == first
    assert mine.plan == theirs.plan == both.plans["mini"]
    assert (mine.plan.native_width, mine.plan.native_height, mine.plan.keep) == (64, 64, True)
    assert (mine.area.native_width, theirs.area.native_width) == (64, 128)
    assert {model.plan for model in both if model.entry.preload} == {mine.plan}


def test_presets_lie_over_each_other(tmp_path: Path) -> None:
    mini = catalog(tmp_path).models["mini"]
    assert (mini.preset("standard", "vivid").steps, mini.preset("standard", "vivid").guidance) == (8, 2.5)
    assert (mini.preset("hd", "vivid").steps, mini.preset("hd", "vivid").guidance) == (30, 2.5)
    assert mini.preset("hd", "natural").guidance == 1.2
    for name in ("high", "xhigh", "max"):
        assert mini.preset(name, "natural") == mini.preset("hd", "natural")
    for name in ("low", "medium", "auto"):
        assert mini.preset(name, "vivid") == mini.preset("standard", "vivid")


@pytest.mark.parametrize("name", ["dall-e-2", "two", "openai/dall-e-2", "google/openai/two"])
def test_names_resolve(tmp_path: Path, name: str) -> None:
    assert catalog(tmp_path).resolve(name).id == "dall-e-2"


@pytest.mark.parametrize("name", ["", "/", "openai/", "other/two", "openai", "two/", "/two", "../two", "TWO"])
def test_other_names_do_not(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelNotFound, match="dall-e-2, mini"):
        catalog(tmp_path).resolve(name)


def test_sizes(tmp_path: Path) -> None:
    both = catalog(tmp_path)
    assert both.models["dall-e-2"].size("256x256") == (256, 256)
    assert both.models["mini"].size("16x2048") == (16, 2048)
    for model, size in (("dall-e-2", "512x512"), ("mini", "15x64"), ("mini", "64x2049"), ("mini", "064x64")):
        with pytest.raises(BadRequest):
            both.models[model].size(size)


def test_the_file_that_ships_serves_the_ids_that_programs_name() -> None:
    shipped = load_catalog(ROOT / "models.yaml")
    for name in ("dall-e-2", "dall-e-3", "gpt-image-1", "google/gemini-2.5-flash-image", "openai/dall-e-3"):
        assert shipped.resolve(name).problem() is None
    assert shipped.default == "dall-e-2"
    assert shipped.models["dall-e-2"].entry.sizes == ["256x256", "512x512", "1024x1024"]
    assert shipped.models["dall-e-3"].entry.sizes == ["1024x1024", "1792x1024", "1024x1792"]
    for model in shipped:
        hd, standard = model.preset("hd", "vivid"), model.preset("standard", "vivid")
        assert hd.steps is not None
        assert standard.steps is not None
        assert hd.steps > standard.steps


def test_the_commented_entries_of_the_file_that_ships_are_valid(tmp_path: Path) -> None:
    """Whoever takes the # away must get a model."""
    lines = (ROOT / "models.yaml").read_text(encoding="utf-8").splitlines()
    examples = [line[4:] for line in lines if line.startswith(("  #   ", "  # ")) and ("  #   " in line or ":" in line)]
    entries = "\n".join("  " + line for line in examples if line.strip() and not line.startswith(("Larger", "with `")))
    text = GOOD + entries + "\n"
    found = catalog(tmp_path, text)
    assert {"sdxl", "flux2-klein", "qwen-image", "z-image-turbo", "sd3.5-large"} <= set(found.models)


WITH_LORAS = GOOD.replace(
    "  dall-e-2:",
    "    loras:\n      pixel: { path: loras/pixel.safetensors, weight: 0.5 }\n  dall-e-2:",
)


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("weight: 0.5", "weight: 5", 14, ["models.mini.loras.pixel.weight = 5", "less than or equal to 4"]),
        ("weight: 0.5", "weight: .nan", 14, ["models.mini.loras.pixel.weight", "finite"]),
        ("weight: 0.5", "wieght: 0.5", 14, ["models.mini.loras.pixel.wieght", "no such key", "path, weight"]),
        ("path: loras/pixel.safetensors, ", "", 14, ["models.mini.loras.pixel.path", "required"]),
        ("      pixel:", "      'pix el':", 14, ["models.mini.loras", "letters"]),
        ("    multiple: 16", "    compile: true", 13, ["models.mini.loras", "compile"]),
        ("    multiple: 16", "    fuse_qkv: true", 13, ["models.mini.loras", "fuse_qkv"]),
        ("    multiple: 16", "    quantise: float8", 13, ["models.mini.loras", "float8"]),
        ("like: mini", "like: mini\n    loras: { pixel: { path: x.safetensors } }", 13, ["pixel", "another file"]),
    ],
)
def test_a_typing_error_among_adapters_is_told_as_any_other(
    tmp_path: Path, old: str, new: str, line: int, says: list[str]
) -> None:
    assert old in WITH_LORAS
    with pytest.raises(ConfigError) as refused:
        catalog(tmp_path, WITH_LORAS.replace(old, new, 1))
    message = str(refused.value)
    assert f"{tmp_path / 'models.yaml'}, line {line}: " in message
    for part in says:
        assert part in message, message


def test_ids_that_share_weights_share_adapters_and_offer_their_own(tmp_path: Path) -> None:
    both = catalog(
        tmp_path, WITH_LORAS.replace("like: mini", "like: mini\n    loras: { ink: { path: /ink.safetensors } }")
    )
    mini, other = both.models["mini"], both.models["dall-e-2"]
    assert mini.plan == other.plan
    assert [(file.name, file.path) for file in mini.plan.adapters] == [
        ("ink", "/ink.safetensors"),
        ("pixel", str(tmp_path / "loras" / "pixel.safetensors")),
    ]
    assert (list(mini.entry.loras), list(other.entry.loras)) == (["pixel"], ["ink"])
    assert list(catalog(tmp_path, WITH_LORAS).models["dall-e-2"].entry.loras) == ["pixel"], "like takes them over"


def test_files_of_adapters_that_cannot_be_used_are_told_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    (tmp_path / "lora.bin").write_bytes(b"x")
    more = "      cut: { path: cut.safetensors }\n      pickle: { path: lora.bin }\n  dall-e-2:"
    file = write(
        tmp_path, WITH_LORAS.replace("  dall-e-2:", more).replace("weights", str(ROOT / "weights/darkroom-mini"))
    )
    problems = load_catalog(file).models["dall-e-2"].lora_problems()
    assert set(problems) == {"pixel", "cut", "pickle"}
    assert "does not exist" in problems["pixel"]
    assert "truncated" in problems["cut"]
    assert "not a .safetensors file" in problems["pickle"]
    assert check(Settings(models=file)) == 1
    said = capsys.readouterr().err
    for name in problems:
        assert f"models.mini.loras.{name}: " in said
    assert load_catalog(file).models["mini"].problem() is None
