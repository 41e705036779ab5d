"""Which files of a component loading reads; what is not among them can refuse nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import LoadRefused
from pipelines.facts import requirements
from pipelines.facts.component import Component, Files, components, files_of_model, files_read, one_variant
from pipelines.facts.folder import inspect, parts, problem
from tests.unit.pipelines.facts.test_folder import weights

UNET = Component("unet", "diffusers", "UNet2DConditionModel")
TEXT = Component("text_encoder", "transformers", "T5EncoderModel")
TOKENIZER = Component("tokenizer", "transformers", "T5Tokenizer")
PROCESSOR = Component("processor", "transformers", "Qwen2VLProcessor")
DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model.safetensors", "model.safetensors"


def read(part: Component, *names: str, shards: Mapping[str, str] | None = None) -> set[str]:
    return set(files_read(part, names, lambda name: {"weight_map": shards or {"w": "s.safetensors"}}))


# What hubs, systems and aborted downloads leave beside the weights.
ADDED = (
    *("._diffusion_pytorch_model.safetensors", "._model.safetensors", ".DS_Store", "._config.json", "README.md"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin", "model.onnx"),
    *("diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.safetensors", "model.fp16.safetensors"),
    *("model.safetensors.index.fp16.json", "diffusion_pytorch_model.safetensors.index.fp16.json", "model.onnx_data"),
    *("flax_model.msgpack", "flax_model.msgpack.index.json", "tf_model.h5", "openvino_model.xml", "openvino_model.bin"),
    *("model.safetensors.incomplete", "diffusion_pytorch_model.non_ema.safetensors", "picture.png", "rust_model.ot"),
    *("diffusion_pytorch_model.fp16-00001-of-00002.safetensors", "modeling.py", ".gitattributes"),
)


@pytest.mark.parametrize(("part", "name"), [(UNET, DIFFUSERS), (TEXT, TRANSFORMERS)])
def test_what_loading_never_opens_is_not_read(part: Component, name: str) -> None:
    """An AppleDouble file, an index of pickles or an aborted variant refused the whole model."""
    assert read(part, "config.json", name, *ADDED) == {"config.json", name}


@pytest.mark.parametrize(("part", "stem"), [(UNET, "diffusion_pytorch_model"), (TEXT, "model")])
def test_a_variant_is_read_where_there_is_nothing_else_or_where_the_model_is_loaded_as_one(
    part: Component, stem: str
) -> None:
    """Folders with fp16 files alone, the usual small download, passed every check and did not load."""
    whole, index = f"{stem}.fp16.safetensors", f"{stem}.safetensors.index.fp16.json"
    assert read(part, "config.json", whole) == {"config.json", whole}
    assert read(part, "config.json", index, "s.safetensors") == {"config.json", index, "s.safetensors"}
    both = ("config.json", whole, f"{stem}.safetensors")
    names: Mapping[str, Any] = {}
    assert files_read(part, both, lambda name: names).variant is None
    as_one = files_read(part, both, lambda name: names, "fp16")
    assert (as_one.weights, as_one.variant) == ((whole,), "fp16")
    assert files_read(part, ("config.json", f"{stem}.safetensors"), lambda name: names, "fp16").variant is None


def test_two_variants_are_no_model() -> None:
    variants = {name: Files((), (), None, ("w",), name) for name in ("fp16", "bf16")}
    with pytest.raises(LoadRefused, match="fp16/ has its weights as fp16 alone, bf16/ as bf16"):
        one_variant(variants)


def test_an_index_comes_first_for_diffusers_and_second_for_transformers() -> None:
    for part, name in ((UNET, DIFFUSERS), (TEXT, TRANSFORMERS)):
        found = read(part, "config.json", name, f"{name}.index.json", "s.safetensors")
        sharded = {"config.json", f"{name}.index.json", "s.safetensors"}
        assert found == (sharded if part is UNET else {"config.json", name})
        assert read(part, "config.json", f"{name}.index.json", "s.safetensors", *ADDED) == sharded


@pytest.mark.parametrize("shard", ["../s.safetensors", "/s.safetensors", "s.bin", "missing.safetensors"])
def test_shards_lie_beside_their_index(shard: str) -> None:
    names = ("config.json", f"{DIFFUSERS}.index.json", "s.safetensors", "s.bin")
    with pytest.raises(LoadRefused, match=r"shard|missing"):
        read(UNET, *names, shards={"w": shard})


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"},
        {"vocab.json", "merges.txt", "added_tokens.json", "additional_chat_templates/tool.jinja"},
        {"spiece.model"},
        {"tokenizer.model", "tokenizer.model.v3"},
        {"sentencepiece.bpe.model", "vocab.txt"},
        {"tokenizer.4.0.json", "tokenizer.json"},
        {"tekken.json", "tiktoken.model"},
    ],
)
def test_tokenizers_of_every_kind_and_chat_templates(files: set[str]) -> None:
    """chat_template.jinja stayed behind: every request of FLUX.2 Klein and Z-Image was a 503."""
    added = {"._tokenizer.json", "._spiece.model", ".vocab.json", "README.md", "model.safetensors", "flax.msgpack"}
    assert read(TOKENIZER, *files, *added) == files


def test_a_processor_has_a_tokenizer_and_pictures() -> None:
    files = {"preprocessor_config.json", "tokenizer.json", "chat_template.json", "chat_template.jinja"}
    assert read(PROCESSOR, *files, "model.safetensors") == files


@pytest.mark.parametrize("names", [(), ("tokenizer_config.json",), ("merges.txt", "chat_template.jinja")])
def test_a_tokenizer_without_a_vocabulary(names: tuple[str, ...]) -> None:
    with pytest.raises(LoadRefused, match="vocabulary"):
        read(TOKENIZER, *names)


def test_a_tokenizer_of_bytes_needs_none() -> None:
    part = Component("tokenizer_2", "transformers", "ByT5Tokenizer")
    assert read(part, "tokenizer_config.json") == {"tokenizer_config.json"}


@pytest.mark.parametrize("pipeline", [None, 5, ["None", "X"], [], {}, "os.path", "../x", "a", "", "ModularPipeline"])
def test_the_class_of_a_pipeline_is_a_plain_name(pipeline: Any) -> None:
    """diffusers 0.37 ran NAME.py of the folder for _class_name: [NAME, …]."""
    with pytest.raises(LoadRefused, match="_class_name"):
        components({"_class_name": pipeline, "unet": ["diffusers", "UNet2DConditionModel"]})


@pytest.mark.parametrize(
    "value",
    [
        *(["diffusers", name] for name in ("StableDiffusionPipeline", "AutoModel", "a", "os.system", "X/Y", "", "..")),
        *(["transformers", name] for name in ("AutoModel", "AutoTokenizer", "FlaxCLIPModel")),
        *(["os", "system"], ["diffusers.models", "U"], ["diffusers", None], ["unet", "U"]),
    ],
)
def test_the_class_of_a_component_is_one_of_a_component(value: list[Any]) -> None:
    """A pipeline inside a pipeline opened pickles, as nobody had judged its folder."""
    with pytest.raises(LoadRefused, match="component unet"):
        components({"_class_name": "X", "unet": value, "vae": ["diffusers", "AutoencoderKL"]})


def test_what_is_no_component_is_none() -> None:
    index = {
        "_class_name": "X",
        "_ignore_files": ["a.bin", "b.bin"],
        "safety_checker": [None, None],
        "layers": [9, 18],
        "requires_safety_checker": False,
        "vae": ["diffusers", "AutoencoderKL"],
    }
    assert [part.name for part in components(index)] == ["vae"]


def write(folder: Path, files: Mapping[str, bytes | dict[str, Any]]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    write(
        folder,
        {
            "model_index.json": index,
            "unet/config.json": {},
            f"unet/{DIFFUSERS}": weights(),
            "tokenizer/tokenizer.json": {"model": {"vocab": {"auto_map": 1}}},
            "tokenizer/tokenizer_config.json": {},
            "scheduler/scheduler_config.json": {},
        },
    )
    return folder


def test_files_that_loading_never_opens_refuse_nothing(model: Path) -> None:
    whole = inspect(model)
    write(model / "unet", dict.fromkeys(ADDED, b"\x00torn"))
    write(model, dict.fromkeys(("README.md", ".cache/huggingface/x.json", "onnx/model.onnx", "a.ckpt"), b"\x00torn"))
    write(model, {"tokenizer/config.json.lock": b"", "old_unet/config.json": b"torn", ".git/lfs/x": b""})
    assert inspect(model) == whole == len(weights())


@pytest.mark.parametrize("name", ["None.py", "unet/diffusers.py", "tokenizer/transformers.py"])
def test_code_that_a_library_would_take_for_the_models(model: Path, name: str) -> None:
    """diffusers 0.37 ran them."""
    write(model, {name: b"raise SystemExit"})
    assert "code" in str(problem(model))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (f"unet/{DIFFUSERS}", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        ("tokenizer/tokenizer.json", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("tokenizer/vocab.json", b"", "empty"),
        ("tokenizer/chat_template.jinja", b"\xff\xfe", "UTF-8"),
        ("tokenizer/tokenizer.json", b"{", "JSON"),
    ],
)
def test_files_that_loading_reads_and_cannot_use(model: Path, name: str, content: bytes, says: str) -> None:
    write(model, {name: content})
    assert says in str(problem(model))


@pytest.mark.parametrize(
    "name", ["model_index.json", "unet/config.json", f"unet/{DIFFUSERS}", "tokenizer/tokenizer.json"]
)
def test_files_that_loading_reads_and_are_missing(model: Path, name: str) -> None:
    (model / name).unlink()
    assert problem(model) is not None
    (model / name).symlink_to("nothing")
    assert problem(model) is not None


def test_a_scheduler_without_its_config(model: Path) -> None:
    (model / "scheduler" / "scheduler_config.json").unlink()
    assert problem(model) == "scheduler/scheduler_config.json is missing"


def test_a_snapshot_of_a_hub_cache_is_a_model_folder(model: Path, tmp_path: Path) -> None:
    """Its files are links to blobs beside it: all of them were taken for files from outside."""
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / "abc"
    (repository / "blobs").mkdir(parents=True)
    for number, path in enumerate(path for path in model.rglob("*") if path.is_file()):
        blob = repository / "blobs" / f"{number}"
        blob.write_bytes(path.read_bytes())
        link = snapshot / path.relative_to(model)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    assert problem(snapshot) is None
    assert inspect(snapshot) == len(weights())
    outside = tmp_path / "models--other--name" / "blobs" / "0"
    write(outside.parent, {"0": weights()})
    (snapshot / "unet" / DIFFUSERS).unlink()
    (snapshot / "unet" / DIFFUSERS).symlink_to(outside)
    assert "outside" in str(problem(snapshot))


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_a_shard_that_is_a_link(model: Path, tmp_path: Path, where: str) -> None:
    target = (model / "store" if where == "inside" else tmp_path / "store") / "shard"
    write(target.parent, {"shard": weights()})
    (model / "unet" / DIFFUSERS).unlink()
    (model / "unet" / "s.safetensors").symlink_to(target)
    write(model, {f"unet/{DIFFUSERS}.index.json": {"weight_map": {"w": "s.safetensors"}}})
    assert (problem(model) is None) == (where == "inside")


def test_what_is_pulled_is_what_is_read(model: Path) -> None:
    """pull took every variant and the index of pickles, and left chat templates behind."""
    write(model, {f"unet/{name}": b"{}" for name in ADDED})
    write(model, {"tokenizer/chat_template.jinja": b"{{ x }}", "README.md": b"", "a.safetensors": b"", "b/c.json": b""})
    names = {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()}
    pulled = files_of_model(names, lambda name: json.loads((model / name).read_text()))
    read = {f"{part.component.name}/{name}" for part in parts(model) for name in part.files}
    assert set(pulled) == read | {"model_index.json"}
    assert "tokenizer/chat_template.jinja" in pulled
    with pytest.raises(LoadRefused, match="format"):
        files_of_model({"unet/config.json"}, lambda name: {})


SPIECE = Files((), ("spiece.model",), None, ())


@pytest.mark.parametrize(
    ("part", "files", "config", "module"),
    [
        (TOKENIZER, SPIECE, {}, "google.protobuf"),
        (Component("tokenizer", "transformers", "LlamaTokenizer"), SPIECE, {}, "google.protobuf"),
        (Component("tokenizer", "transformers", "X"), Files((), (), None, ()), {"use_beta_sigmas": True}, "scipy"),
        (Component("scheduler", "diffusers", "LMSDiscreteScheduler"), Files((), (), None, ()), {}, "scipy"),
        (Component("scheduler", "diffusers", "DPMSolverSDEScheduler"), Files((), (), None, ()), {}, "torchsde"),
        (Component("tokenizer", "transformers", "PixtralProcessor"), Files((), (), None, ()), {}, "torchvision"),
        (Component("x", "transformers", "Qwen2VLVideoProcessor"), Files((), (), None, ()), {}, "torchvision"),
        (UNET, Files((), (), None, ()), {"quantization_config": {"quant_method": "torchao"}}, "torchao"),
        (UNET, Files((), (), None, ()), {"quantization_config": {"load_in_4bit": True}}, "bitsandbytes"),
    ],
)
def test_packages_that_a_model_needs_are_named(
    part: Component, files: Files, config: dict[str, Any], module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """check was silent, and loading a 503."""
    monkeypatch.setattr(requirements, "_is_installed", lambda name: name != module)
    said = str(requirements.missing(part, files, {"config.json": config}))
    assert f"needs {module}: pip install" in said
    monkeypatch.setattr(requirements, "_is_installed", lambda name: True)
    assert requirements.missing(part, files, {"config.json": config}) is None


@pytest.mark.parametrize(
    ("version", "says"),
    [("0.14.9", "needs torchao 0.15 or newer: pip install -U"), ("0.15.0", None), ("1.0", None), ("0.15rc1+cpu", None)],
)
def test_a_package_that_is_too_old_is_named(version: str, says: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One heard "requires torchao >= 0.15.0 for construction from dict" at load."""
    monkeypatch.setattr(requirements, "_is_installed", lambda name: True)
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    config = {"config.json": {"quantization_config": {"quant_method": "torchao"}}}
    said = requirements.missing(UNET, Files((), (), None, ()), config)
    assert said is None if says is None else says in str(said)


def test_a_fast_tokenizer_needs_nothing_and_neither_does_qwens_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "_is_installed", lambda name: False)
    fast = Files((), ("spiece.model", "tokenizer.json"), None, ())
    assert requirements.missing(TOKENIZER, fast, {}) is None
    assert requirements.missing(PROCESSOR, fast, {}) is None
    assert "bitsandbytes" in str(requirements.missing_for_quantise("nf4"))
    assert requirements.missing_for_quantise(None) is None
