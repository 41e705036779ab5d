"""models.yaml: what a typing error is told, what keys are taken over, what ships."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest

from server.catalog.load import find_models_file, load_catalog
from server.errors import ConfigError
from tests.running import ROOT
from tests.unit.catalog.models_files import GOOD, catalog


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("    multiple: 16", "    multipel: 16", 7, ["models.mini.multipel", "no such key", "multiple", "native_size"]),
        ("    multiple: 16", "    multiple: 0", 7, ["models.mini.multiple = 0", "greater than or equal to 1"]),
        ("    multiple: 16", "    multiple: sixteen", 7, ["models.mini.multiple = 'sixteen'", "integer"]),
        ("native_size: 64x64", "native_size: 64", 6, ["models.mini.native_size = 64", "string"]),
        ("native_size: 64x64", "native_size: 64*64", 6, ["models.mini.native_size = '64*64'", "1024x1024"]),
        ("steps: 30", "steps: 3000", 10, ["models.mini.quality.hd.steps = 3000", "500"]),
        ("steps: 30", "steps: 30 }\n    max_steps: 20\n    loras: {", 10, ["hd.steps = 30", "max_steps, 20", "raise"]),
        ("like: mini", "like: mini\n    max_steps: 5", 13, ["models.dall-e-2 = 8", "max_steps, 5"]),
        ('calm" }', 'calm", steps: 9 }\n    max_steps: 8', 10, ["models.mini.quality.hd.steps = 30", "max_steps, 8"]),
        ("steps: 30", "steps: 30, scheduler: euler }\n    family: flux\n    loras: {", 10, ["= 'euler'", "flow_euler"]),
        (
            "steps: 30",
            "steps: 30, scheduler: flow_unipc }\n    family: stable-diffusion\n    loras: {",
            10,
            ["= 'flow_unipc'", "not for stable-diffusion", "unipc"],
        ),
        (
            "steps: 30",
            "steps: 30, scheduler: flow_heun }\n    family: flux\n    loras: {",
            10,
            ["= 'flow_heun'", "flow_dpmpp_2m"],
        ),
        ("steps: 30", "steps: 30, step_cache: 2", 10, ["hd.step_cache = 2", "1"]),
        ("steps: 30", "steps: 30, spacing: dense", 10, ["hd.spacing = 'dense'", "dense_start"]),
        ("steps: 30", "stps: 30", 10, ["models.mini.quality.hd.stps", "allowed", "steps", "scheduler"]),
        ("steps: 30", "steps: 30, scheduler: eular", 10, ["scheduler = 'eular'", "euler", "ddim"]),
        ("      hd:", "      best:", 10, ["models.mini.quality.best", "standard", "hd"]),
        ("      natural:", "      calm:", 12, ["models.mini.style.calm", "vivid", "natural"]),
        ("like: mini", "like: maxi", 14, ["models.dall-e-2.like = 'maxi'", "mini"]),
        ("like: mini", "dtype: float8", 14, ["models.dall-e-2.dtype = 'float8'", "bfloat16"]),
        ("    like: mini\n", "", 13, ["models.dall-e-2", "path", "like"]),
        ("like: mini", "like: mini\n    path: x", 13, ["models.dall-e-2", "path", "like"]),
        ("like: mini", "like: mini\n    checkpoint: x.safetensors", 13, ["models.dall-e-2", "needs one of path"]),
        ("    path: weights", "    checkpoint: x\n    base: sd3", 6, ["models.mini.base = 'sd3'", "'sdxl-refiner'"]),
        ("    path: weights", "    checkpoint: x\n    base: sdxl\n    config: y", 4, ["base and config exclude"]),
        ("    path: weights", "    checkpoint: x\n    transformer: y", 4, ["transformer belongs to path"]),
        ("    path: weights", "    checkpoint: x\n    hub: a/b", 4, ["hub belongs to path"]),
        ("    multiple: 16", "    base: sdxl", 4, ["base belongs to checkpoint"]),
        ("    multiple: 16", "    prediction: v", 4, ["prediction belongs to checkpoint"]),
        (
            "    multiple: 16",
            "    prediction: v_prediction",
            7,
            ["mini.prediction =", "'epsilon' or 'v'"],
        ),
        ("like: mini", "like: mini\n    vae: x.safetensors", 15, ["models.dall-e-2.vae = 'x.safetensors'", "mini"]),
        ("    multiple: 16", "    transformer: x.gguf\n    quantise: int8", 8, ["mini.quantise", "GGUF"]),
        ("    multiple: 16", "    transformer: x.gguf\n    fuse_qkv: true", 8, ["mini.fuse_qkv", "GGUF"]),
        ("    multiple: 16", "    transformer: x.gguf\n    compile: true", 8, ["mini.compile", "GGUF"]),
        ("like: mini", "like: mini\n    family: sdxxl", 13, ["family", "stable-diffusion-xl"]),
        ("[256x256, 1024x1024]", "[256x256]", 13, ["default_size"]),
        ("[256x256, 1024x1024]", "[256x256, big]", 16, ["models.dall-e-2.sizes", "'big'", "1024x1024"]),
        ("    multiple: 16", "    edit_size: large", 7, ["models.mini.edit_size = 'large'", "1024x1024"]),
        ("    multiple: 16", "    edit_size: 4096x16", 7, ["models.mini.edit_size = '4096x16'", "auto", "2048"]),
        ("like: mini", "like: mini\n    edit_size: 64x64", 15, ["models.dall-e-2.edit_size = '64x64'", "256x256"]),
        ("aliases: [two]", "aliases: [mini]", 13, ["'mini'", "already stands for mini"]),
        ("aliases: [two]", "aliases: ['a b']", 13, ["'a b'", "letters"]),
        ("default: mini", "default: maxi", 1, ["default = 'maxi'", "mini, dall-e-2"]),
        ("default: mini\n", "", 1, ["default", "required"]),
        ("providers: [openai, google]", "provider: [openai]", 2, ["provider", "no such key", "providers"]),
        ("    multiple: 16", "    native_size: 32x32", 7, ["native_size", "twice"]),
        ("like: mini", "like: mini\n    dtype: bfloat16", 15, ["models.dall-e-2.dtype = 'bfloat16'", "mini"]),
        (
            "    multiple: 16",
            "    encoders: host\n    quantise_encoders: nf4",
            4,
            ["models.mini", "encoders: host and quantise_encoders exclude each other"],
        ),
        ("like: mini", "like: mini\n    encoders: host", 15, ["models.dall-e-2.encoders = 'host'", "mini"]),
        ("like: mini", "like: mini\n    quantise: int8", 15, ["models.dall-e-2.quantise = 'int8'", "mini"]),
        ("like: mini", "like: mini\n    offload: true", 15, ["models.dall-e-2.offload = True", "mini"]),
        ("like: mini", "like: mini\n    compile: true", 15, ["models.dall-e-2.compile = True", "mini"]),
        ("    multiple: 16", "    cuda_graphs: always", 7, ["mini.cuda_graphs = 'always'", "'auto' or 'off'"]),
        ("    multiple: 16", "    cuda_graphs: on", 7, ["mini.cuda_graphs", "'auto' or 'off'"]),
        ("like: mini", "like: mini\n    cuda_graphs: off", 15, ["models.dall-e-2.cuda_graphs", "mini"]),
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


LAUGHS = (
    "a: &a ["
    + ", ".join(["lol"] * 9)
    + "]\n"
    + "".join(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in pairwise("abcdefghi"))
)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("default: x\nmodels: &a\n  x: *a\n", 3, "*a stands inside what it stands for"),
        ("default: x\nmodels: &a {<<: *a}\n", 2, "*a stands inside"),
        ("default: x\nmodels: [&a [1, *a]]\n", 2, "*a stands inside"),
        ("default: x\n" + "- " * 10_000, 2, ""),
        ("default:\n" + "  - " + "- " * 10_000, 2, "nested deeper than 20 levels"),
        ("x:\n  " + "[" * 100_000, 2, "nested deeper than 20 levels"),
        ("{" * 100_000, 1, "nested deeper than 20 levels"),
        ("? " * 10_000, 1, "nested deeper than 20 levels"),
        ("a:\n" + "".join(" " * depth + "b:\n" for depth in range(1, 500)), 20, "nested deeper than 20 levels"),
        (LAUGHS, 5, "more than 50000 values up to here, with aliases written out"),
        ("a: [" + "1," * 200_000 + "]", 1, "more than 50000 values"),
        ("default: x\n? [a, b]\n: 1\n", 2, "a key must be a word"),
        ("default: x\n? {a: b}\n: 1\n", 2, "a key must be a word"),
        ("default: x\nmodels: {x: {path: a, path: b}}\n", 2, "path: the key is given twice"),
        (f"default: x\nmodels: {{x: {{max_side: {'9' * 5000}}}}}\n", 2, "not a value of int"),
        ("default: x\nmodels: !!int many\n", 2, "not a value of int"),
        ("default: x\nmodels: !!bool perhaps\n", 2, "not a value of bool"),
        ("default: x\nmodels: !!timestamp never\n", 2, "not a value of timestamp"),
        ("default: x\nmodels: 2026-13-45\n", 2, "not a value of timestamp"),
        ("default: x\nmodels: !!binary '%'\n", 2, ""),
        ("default: x\nmodels: !ours {}\n", 2, "!ours"),
        ("default: x\nmodels: *nowhere\n", 2, "nowhere"),
        ("default: x\nmodels: {x: {<<: 5}}\n", 2, ""),
        ("default: x\n---\ndefault: y\n", 2, "document"),
        ("default: x\nmodels: \x07\n", 2, "a character that may not be in it"),
        ("default: x\nmodels: {x: {path: a, dtype: " + "y" * 500_000 + "}}", 2, "yyy…"),
    ],
    ids=range(26),
)
def test_yaml_that_has_no_end_or_no_value_is_a_sentence_with_the_line_at_once(
    tmp_path: Path, text: str, line: int, says: str
) -> None:
    """An anchor inside itself was a traceback, deep nesting too; nine levels of aliases kept `check` for ever."""
    started_s = time.process_time()
    with pytest.raises(ConfigError) as refused:
        catalog(tmp_path, text)
    assert time.process_time() - started_s < 20  # it was hours
    message = str(refused.value)
    assert f"{tmp_path / 'models.yaml'}, line {line}: " in message
    assert says in message
    assert "\n" not in message
    assert len(message) < 1000 + len(str(tmp_path))


def test_a_file_that_is_too_large_or_no_text_is_refused_by_line_or_size(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="more than 1024 KiB"):
        catalog(tmp_path, "#" * (1024 * 1024 + 1))
    (tmp_path / "models.yaml").write_bytes(b"default: x\n# \xff\n")
    with pytest.raises(ConfigError, match="line 2: not text in UTF-8"):
        load_catalog(tmp_path / "models.yaml")


def test_anchors_and_merge_keys_serve_an_owner_who_writes_a_preset_once(tmp_path: Path) -> None:
    text = GOOD.replace("standard: {", "standard: &base {").replace("hd: { steps: 30 }", "hd: { <<: *base, steps: 30 }")
    hd = catalog(tmp_path, text).models["mini"].preset("hd", "vivid")
    assert (hd.steps, hd.guidance) == (30, 2.5)


@pytest.mark.parametrize("max_side", [16, 512, 1023, 1024, 2048])
def test_the_built_in_default_size_fits_into_max_side(tmp_path: Path, max_side: int) -> None:
    """With max_side: 512, every request without a size was 400: the default was one that the model does not make."""
    both = catalog(
        tmp_path,
        GOOD.replace("multiple: 16", f"max_side: {max_side}").replace("sizes: [256x256, 1024x1024]", "owned_by: me"),
    )
    for model in both:
        assert model.size(model.entry.default_size) == (min(1024, max_side),) * 2


@pytest.mark.parametrize(
    ("written", "line"),
    [
        ("max_side: 512\n    default_size: 1024x1024", 8),
        ("default_size: 8x8", 7),
        ("default_size: 512x15", 7),
        ("max_side: 1000\n    default_size: 64x1001", 8),
        ("sizes: [512x512]\n    default_size: 256x256", 8),
    ],
)
def test_a_written_default_size_that_the_model_does_not_make_stops_the_start(
    tmp_path: Path, written: str, line: int
) -> None:
    with pytest.raises(ConfigError, match=f"line {line}: models.mini.default_size = .*: default_size "):
        catalog(tmp_path, GOOD.replace("multiple: 16", written))


def test_sizes_and_default_size_are_judged_as_they_are_taken_over(tmp_path: Path) -> None:
    """An ID like another was judged before it took over keys: a default_size that its own sizes lack passed, and
    one that they have was refused."""
    like = "    sizes: [256x256, 1024x1024]"
    base = GOOD.replace("multiple: 16", "default_size: 512x512")
    assert (
        catalog(tmp_path, base.replace(like, "    sizes: [512x512]")).models["dall-e-2"].entry.default_size == "512x512"
    )
    with pytest.raises(ConfigError, match="default_size is not one of sizes"):
        catalog(tmp_path, base)
    with pytest.raises(ConfigError, match=r"line 13: models.dall-e-2 = '512x512': default_size has a side"):
        catalog(tmp_path, base.replace(like, "    max_side: 256"))


def test_a_file_that_is_not_text_or_not_there_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"models\.yaml"):
        load_catalog(tmp_path / "models.yaml")
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        find_models_file(tmp_path / "nowhere.yaml")


def test_the_file_of_this_folder_goes_before_the_one_that_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_models_file(None) == ROOT / "models.yaml"
    (tmp_path / "models.yaml").touch()
    assert find_models_file(None) == tmp_path / "models.yaml"


def test_an_installation_without_the_file_says_how_to_name_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("server.catalog.load.shipped_models_file", lambda: None)
    with pytest.raises(ConfigError, match="--models"):
        find_models_file(None)


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
