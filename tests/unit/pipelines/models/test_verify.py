"""Folders that loaded in silence and drew something else: refused by name, before and after their weights are read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.errors import LoadRefused
from pipelines.facts import folder as model_folder
from pipelines.models import dry_run, selfcheck, tuning, verify
from pipelines.models.loader import LoadedModel, load, weight_bytes
from pipelines.plan import ModelPlan
from server.catalog.catalog import Model

CPU = torch.device("cpu")
Tensors = dict[str, torch.Tensor]
FILES = {
    "text_encoder": "text_encoder/model.safetensors",
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
}


@pytest.fixture
def plan(mini: Model, tmp_path: Path) -> ModelPlan:
    """The embedded model, copied to be broken."""
    shutil.copytree(mini.plan.folder, tmp_path / "model")
    return msgspec.structs.replace(mini.plan, folder=str(tmp_path / "model"))


def change(plan: ModelPlan, component: str, how: Callable[[Tensors], Tensors]) -> None:
    """Write a component's weights anew."""
    path = Path(plan.folder) / FILES[component]
    save_file({name: tensor.clone() for name, tensor in how(load_file(path)).items()}, path)


def set_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def without_first(tensors: Tensors) -> Tensors:
    return {name: tensors[name] for name in sorted(tensors)[1:]}


def renamed(tensors: Tensors) -> Tensors:
    return {f"other.{name}": tensor for name, tensor in tensors.items()}


def reshaped(tensors: Tensors) -> Tensors:
    first = next(name for name in sorted(tensors) if tensors[name].dim() > 1)
    return {**tensors, first: torch.cat([tensors[first]] * 2)}


@pytest.mark.parametrize("component", FILES)
@pytest.mark.parametrize(
    ("how", "says"), [(without_first, "lacks 1 of the"), (renamed, "lacks"), (reshaped, "does not fit its config.json")]
)
def test_tensors_that_are_missing_renamed_or_of_another_shape(
    component: str, how: Callable[[Tensors], Tensors], says: str, plan: ModelPlan
) -> None:
    """A text encoder got random numbers in their place; of a UNet one heard "Cannot copy out of meta tensor"."""
    change(plan, component, how)
    with pytest.raises(LoadRefused, match=f"^{component}/ {says}") as refused:
        load(plan, CPU)
    assert str(Path(plan.folder).parent) not in str(refused.value)
    if how is renamed:
        assert "its files have other." in str(refused.value)


def test_other_widths_than_the_configuration_says(plan: ModelPlan) -> None:
    set_json(Path(plan.folder) / "text_encoder" / "config.json", hidden_size=96)
    with pytest.raises(
        LoadRefused, match=r"^text_encoder/ does not fit its config\.json: .*x192 in its files, and .*x96"
    ):
        load(plan, CPU)


def test_what_a_class_does_without_is_not_missed(plan: ModelPlan) -> None:
    """position_ids was a tensor of old files and is none of new ones."""
    change(plan, "text_encoder", lambda had: {**had, "text_model.embeddings.position_ids": torch.arange(326)[None]})
    (Path(plan.folder) / "text_encoder" / "._model.safetensors").write_bytes(b"what a system left")
    assert load(plan, CPU).weight_bytes() > 0


def test_a_tensor_that_loading_left_without_memory_is_named(plan: ModelPlan) -> None:
    module = torch.nn.Linear(2, 2, device="meta")
    with pytest.raises(LoadRefused, match=r"^unet/ lacks 2 of its tensors: bias, weight$"):
        verify.refuse_unloaded({"unet": module, "tokenizer": object()})
    verify.refuse_unloaded({"unet": torch.nn.Linear(2, 2)})


@pytest.mark.parametrize(("words", "says"), [(0, "cannot read a text"), (2, "knows no words, so that prompts would")])
def test_a_tokenizer_without_its_vocabulary(words: int, says: str, plan: ModelPlan) -> None:
    """transformers made one of two words: prompts had no effect, and nothing said so."""
    file = Path(plan.folder) / "tokenizer" / "tokenizer.json"
    whole = json.loads(file.read_text())
    few = {"<|startoftext|>": 7436, "<|endoftext|>": 7437} if words else {}
    file.write_text(json.dumps({**whole, "model": {**whole["model"], "vocab": few, "merges": []}}))
    with pytest.raises(LoadRefused, match=f"^tokenizer/ {says}"):
        load(plan, CPU)


def test_a_tokenizer_with_its_configuration_alone(plan: ModelPlan) -> None:
    (Path(plan.folder) / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(LoadRefused, match=r"^tokenizer/ has no vocabulary"):
        load(plan, CPU)


def test_a_tokenizer_without_its_configuration(plan: ModelPlan) -> None:
    """The first prompt failed: "int too big to convert"."""
    (Path(plan.folder) / "tokenizer" / "tokenizer_config.json").unlink()
    with pytest.raises(LoadRefused, match=r"^tokenizer/tokenizer_config\.json is missing, or has no model_max_length"):
        load(plan, CPU)


def test_a_tokenizer_of_another_model(plan: ModelPlan) -> None:
    """Its encoder was asked for a row that it does not have, at the first prompt."""
    table = "embeddings.token_embedding.weight"
    known: list[int] = []

    def cut(had: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        known.extend(len(tensor) for name, tensor in had.items() if name.endswith(table))
        return {name: tensor[:100] if name.endswith(table) else tensor for name, tensor in had.items()}

    change(plan, "text_encoder", cut)
    set_json(Path(plan.folder) / "text_encoder" / "config.json", vocab_size=100, eos_token_id=99, pad_token_id=99)
    with pytest.raises(
        LoadRefused, match=r"^tokenizer/ has more tokens \((\d+)\) than its text encoder knows \(100\)"
    ) as told:
        load(plan, CPU)
    assert f"({known[0]})" in str(told.value)


def as_variant(folder: Path, component: str, shards: int) -> None:
    """Weights as hubs have them in fp16: under a name of their own, whole or in shards."""
    (path,) = (folder / component).glob("*.safetensors")
    stem = path.stem
    tensors = load_file(path)
    path.unlink()
    if shards == 1:
        save_file(tensors, path.with_name(f"{stem}.fp16.safetensors"))
        return
    owners = {name: f"{stem}.fp16-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(tensors)}
    for file in set(owners.values()):
        save_file({name: tensor for name, tensor in tensors.items() if owners[name] == file}, path.with_name(file))
    index = {"metadata": {"total_size": 1}, "weight_map": owners}
    path.with_name(f"{stem}.safetensors.index.fp16.json").write_text(json.dumps(index))


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("components", [tuple(FILES), ("unet",), ("text_encoder",)])
def test_folders_with_fp16_variants_load(
    components: tuple[str, ...], shards: int, mini: Model, plan: ModelPlan
) -> None:
    """They passed every check, and then: "no file named model.safetensors"."""
    size = weight_bytes(plan, CPU)
    for component in components:
        as_variant(Path(plan.folder), component, shards)
    assert model_folder.problem(Path(plan.folder)) is None
    assert weight_bytes(plan, CPU) == size
    wanted, found = load(mini.plan, CPU), load(plan, CPU)
    for component in FILES:
        for name, tensor in weights(wanted, component).items():
            assert torch.equal(tensor, weights(found, component)[name]), name


def test_beside_a_variant_that_stands_alone_the_variants_of_all_are_read(plan: ModelPlan) -> None:
    """diffusers reads them: they are what must be checked and sized."""
    folder = Path(plan.folder)
    as_variant(folder, "unet", 1)
    text = folder / FILES["text_encoder"]
    shutil.copy(text, text.with_name("model.fp16.safetensors"))
    change(plan, "text_encoder", renamed)  # the plain file, which nobody reads
    read = {part.component.name: [path.name for path in part.weights] for part in model_folder.parts(folder)}
    assert read["text_encoder"] == ["model.fp16.safetensors"]
    assert read["vae"] == ["diffusion_pytorch_model.safetensors"]
    assert load(plan, CPU).weight_bytes() > 0


def scaled(tensors: Tensors) -> Tensors:
    """As ComfyUI stores them: every matrix divided by its scale, so that it fills fp8's range."""
    made: Tensors = {"scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}
    for name, tensor in tensors.items():
        made[name] = tensor
        if name.endswith(".weight") and tensor.dim() == 2:
            scale = tensor.float().abs().max() / 448
            made[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
            made[name.replace(".weight", ".scale_weight")] = scale.reshape(1)
            made[name.replace(".weight", ".scale_input")] = torch.ones(1)
    return made


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_scaled_fp8_is_multiplied_by_its_scales(component: str, dtype: str, mini: Model, plan: ModelPlan) -> None:
    """The scales were dropped: weights came out 600 to 7,000 times too large, and the load check was content."""
    plan = msgspec.structs.replace(plan, dtype=dtype)
    change(plan, component, scaled)
    wanted = weights(load(msgspec.structs.replace(mini.plan, dtype=dtype), CPU), component)
    found = weights(load(plan, CPU), component)
    assert wanted.keys() == found.keys()
    changed = [name for name, tensor in wanted.items() if not torch.equal(tensor, found[name])]
    assert len(changed) > 5
    for name in changed:
        off = (wanted[name].float() - found[name].float()).abs().mean() / wanted[name].float().abs().mean()
        assert off < 0.04, name  # of fp8's three bits


def weights(model: LoadedModel, component: str) -> Tensors:
    return dict(model._base.components[component].named_parameters())


def test_a_scale_whose_weight_was_quantised_on_the_way_is_refused(plan: ModelPlan) -> None:
    """Quantised by ``quantise`` while it was loaded, it is no longer what the scale is for."""
    change(plan, "unet", scaled)
    parts = model_folder.parts(Path(plan.folder))
    with pytest.raises(LoadRefused, match=r"^unet/ has .*scale_weight, but .* is not loaded as it is stored"):
        verify.descale({"unet": torch.nn.Linear(2, 2)}, parts)


def drowned(tensors: Tensors) -> Tensors:
    return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}


@pytest.mark.parametrize("component", ["text_encoder", None])
def test_the_load_check_refuses_a_model_that_makes_the_same_of_two_prompts(
    component: str | None, plan: ModelPlan
) -> None:
    """It drew its two prompts with two seeds, and took the seeds' difference for the prompts'."""
    if component is not None:
        change(plan, component, drowned)
    model = load(plan, CPU)
    if component is None:
        model._base.tokenizer = OneWord(model._base.tokenizer)
    with pytest.raises(LoadRefused, match=r"^prompts have no effect"):
        selfcheck.check(model)


class OneWord:
    """A tokenizer to which all texts are the same."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __call__(self, text: object, **more: Any) -> Any:
        return self._tokenizer(["a"] * len(text) if isinstance(text, list) else "a", **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def in_four_bits(name: str, tensor: torch.Tensor) -> Tensors:
    packed = torch.zeros(tensor.numel() // 2, 1, dtype=torch.uint8)
    beside = {f"{name}.absmax": torch.ones(4), f"{name}.quant_map": torch.ones(16)}
    return {name: packed, **beside, f"{name}.quant_state.bitsandbytes__nf4": torch.zeros(8, dtype=torch.uint8)}


def in_eight_bits(name: str, tensor: torch.Tensor) -> Tensors:
    scale = {name.replace("weight", "SCB"): torch.ones(len(tensor))}
    return {name: torch.zeros(tensor.shape, dtype=torch.int8), **scale, f"{name}_format": torch.zeros(())}


def of_torchao(name: str, tensor: torch.Tensor) -> Tensors:
    head = name.removesuffix("weight")
    data = torch.zeros(tensor.shape).to(torch.float8_e4m3fn)
    return {f"{head}_weight_qdata": data, f"{head}_weight_scale": torch.ones(len(tensor), 1)}


def of_quanto(name: str, tensor: torch.Tensor) -> Tensors:
    return {f"{name}._data": torch.zeros(tensor.shape, dtype=torch.int8), f"{name}._scale": torch.ones(len(tensor), 1)}


Packing = Callable[[str, torch.Tensor], Tensors]


@pytest.mark.parametrize("component", ["unet", "text_encoder"])
@pytest.mark.parametrize(
    ("method", "pack"),
    [("bitsandbytes", in_four_bits), ("bitsandbytes", in_eight_bits), ("torchao", of_torchao), ("quanto", of_quanto)],
)
def test_weights_that_are_quantised_already_are_compared_by_name(
    component: str, method: str, pack: Packing, plan: ModelPlan
) -> None:
    """They were not compared at all: what was missing was told after minutes of loading, or never."""

    def packed(tensors: Tensors) -> Tensors:
        found: Tensors = {}
        for name, tensor in tensors.items():
            found |= pack(name, tensor) if name.endswith("_proj.weight") or "to_q.weight" in name else {name: tensor}
        return found

    set_json(Path(plan.folder) / component / "config.json", quantization_config={"quant_method": method})
    change(plan, component, packed)
    part = next(each for each in model_folder.parts(Path(plan.folder)) if each.component.name == component)
    assert part.is_quantised
    assert verify.compare(part) is not None
    change(plan, component, lambda tensors: {k: v for k, v in tensors.items() if "attn" not in k or "1" not in k})
    with pytest.raises(LoadRefused, match=rf"^{component}/ lacks \d+ of the .*attn"):
        verify.compare(part)
    change(plan, component, lambda tensors: {name: t[:1] if "norm" in name else t for name, t in tensors.items()})
    with pytest.raises(LoadRefused, match=rf"^{component}/ (lacks|does not fit)"):
        verify.compare(part)


class Quantiser:
    """A library's, as far as a model without memory meets it."""

    lost = ""
    fails = ""

    def preprocess_model(self, model: torch.nn.Module, **_: Any) -> None:
        if self.fails:
            raise RuntimeError(self.fails)
        for name, module in list(model.named_modules()):
            if isinstance(module, torch.nn.Linear) and name == self.lost:
                model.set_submodule(name, torch.nn.Identity())


@pytest.mark.parametrize(
    ("lost", "fails", "says"),
    [
        ("", "", None),
        (
            "time_embedding.linear_1",
            "",
            "its library has no time_embedding.linear_1.bias, time_embedding.linear_1.weight",
        ),
        ("", "no such layer", "RuntimeError: no such layer"),
    ],
)
def test_a_model_is_built_as_quantise_has_it(
    lost: str, fails: str, says: str | None, plan: ModelPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check built the plain model, whatever models.yaml said."""
    plan = msgspec.structs.replace(plan, quantise="int8")
    mapping = {"unet": object()}
    monkeypatch.setattr(tuning, "quantisation", lambda plan: SimpleNamespace(quant_mapping=mapping))
    quantiser = Quantiser()
    quantiser.lost, quantiser.fails = lost, fails
    made = SimpleNamespace(from_config=lambda config, pre_quantized: quantiser)
    monkeypatch.setattr(verify, "DiffusersAutoQuantizer", made)
    said = dry_run.problem(plan)
    assert said == (
        None if says is None else f"quantise: int8 cannot be had for unet/: {says}{' then' if lost else ''}"
    )
