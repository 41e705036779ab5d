"""How much of a device a model will take: told from its files before it is loaded, and from its tensors afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file
from torch.testing._internal.two_tensor import TwoTensor

from pipelines.engine.shared import DENOISERS
from pipelines.errors import LoadRefused
from pipelines.facts import requirements
from pipelines.models import streaming, tuning, upscaler_alone
from pipelines.models.loader import LoadedModel, advice, load, weight_bytes
from pipelines.plan import UPSCALER, AdapterFile, ModelPlan, UpscalerFile
from server.catalog.catalog import Model
from tests import upscalers
from tests.unit.pipelines.facts.test_checkpoint import write_header

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
UNET = {"proj.weight": (64, 32), "conv.weight": (8, 8, 3, 3), "proj.bias": (64,)}
TEXT = {"embed.weight": (100, 16), "layer.weight": (16, 16)}


def elements(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes.values())


def write(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.zeros(shape, dtype=torch.float16) for name, shape in shapes.items()}, path)


@pytest.fixture
def plan(tmp_path: Path) -> ModelPlan:
    """A folder as hubs have them: variants and twins beside the weights, and files of no component."""
    parts = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
    }
    folder = tmp_path / "model"
    write(folder / "v1-5-pruned.safetensors", UNET | TEXT)
    write(folder / "old_text_encoder" / "model.safetensors", TEXT)
    write(folder / "safety_checker" / "model.safetensors", TEXT)
    for variant in ("", ".fp16", ".non_ema"):
        write(folder / "unet" / f"diffusion_pytorch_model{variant}.safetensors", UNET)
    write(folder / "text_encoder" / "model.fp16.safetensors", TEXT)
    shards = {name: f"model-0000{number}-of-00002.safetensors" for number, name in enumerate(TEXT, 1)}
    for name, file in shards.items():
        write(folder / "text_encoder" / file, {name: TEXT[name]})
    index = folder / "text_encoder" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    for name in ("unet", "text_encoder"):
        (folder / name / "config.json").write_text("{}")
    (folder / "scheduler").mkdir()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "X", **parts}))
    return ModelPlan("m", str(folder), "other")


@pytest.fixture(scope="module")
def loaded(mini: Model) -> LoadedModel:
    return load(mini.plan, CPU)


def test_variants_twins_and_files_of_no_component_do_not_count(plan: ModelPlan) -> None:
    """All of them did: ordinary hub folders were taken for three to four times what they are, and refused."""
    assert weight_bytes(plan, CPU) == 4 * (elements(UNET) + elements(TEXT))
    assert weight_bytes(plan, CUDA) == 2 * (elements(UNET) + elements(TEXT))


def test_weights_under_a_name_of_their_own_count(plan: ModelPlan) -> None:
    for file in (Path(plan.folder) / "unet").glob("*.safetensors"):
        file.unlink()
    write(Path(plan.folder) / "unet" / "its_own_name.safetensors", UNET)
    assert weight_bytes(plan, CPU) == 4 * (elements(UNET) + elements(TEXT))


def test_integers_count_as_they_are_stored_and_float8_where_a_library_quantised_it(
    plan: ModelPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder quantised beforehand was taken for twice what it is, and refused where it fits."""
    unet = Path(plan.folder) / "unet"
    tensors = {"a": torch.zeros(8, 8, dtype=torch.int8), "b": torch.zeros(4, 4).to(torch.float8_e4m3fn)}
    save_file(tensors, unet / "diffusion_pytorch_model.safetensors")
    plain = weight_bytes(plan, CPU)
    assert plain == 64 + 4 * 16 + 4 * elements(TEXT)
    monkeypatch.setattr(requirements, "_is_installed", lambda module: True)
    (unet / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "bitsandbytes"}}))
    assert weight_bytes(plan, CPU) == 64 + 16 + 4 * elements(TEXT)


def test_loras_count_and_broken_ones_do_not(plan: ModelPlan, tmp_path: Path) -> None:
    write(tmp_path / "ink.safetensors", {"lora": (8, 8)})
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    files = tuple(AdapterFile(name, str(tmp_path / f"{name}.safetensors")) for name in ("ink", "torn"))
    with_loras = msgspec.structs.replace(plan, adapters=files)
    assert weight_bytes(with_loras, CPU) == weight_bytes(plan, CPU) + 4 * 64


def test_a_lora_that_the_library_cannot_open_is_no_bar_to_its_model(plan: ModelPlan, tmp_path: Path) -> None:
    write_header(tmp_path / "odd.safetensors", {"lora": {"dtype": "X9", "shape": [8], "data_offsets": [0, 8]}}, 8)
    file = AdapterFile("odd", str(tmp_path / "odd.safetensors"))
    assert weight_bytes(msgspec.structs.replace(plan, adapters=(file,)), CPU) >= weight_bytes(plan, CPU)


@pytest.mark.parametrize(("quantise", "per_element"), [("int8", 1), ("float8", 1), ("nf4", 0.5625)])
def test_a_quantised_denoiser_takes_less(plan: ModelPlan, quantise: str, per_element: float) -> None:
    """It was refused for a size that it never has. What is no matrix, and what is not the denoiser, stays as it is."""
    quantised = msgspec.structs.replace(plan, quantise=quantise)
    matrix = 64 * 32
    whole = 2 * (elements(UNET) - matrix + elements(TEXT))
    assert weight_bytes(quantised, CUDA) == int(matrix * per_element) + whole


def test_what_is_quantised_is_what_counts_as_quantised(plan: ModelPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_bitsandbytes", lambda library, name: object())
    monkeypatch.setattr(tuning, "PipelineQuantizationConfig", lambda quant_mapping: quant_mapping)
    small = msgspec.structs.replace(plan, quantise="int8")
    assert set(tuning.quantisation(small)) == set(DENOISERS)
    assert weight_bytes(small, CPU) < weight_bytes(plan, CPU), "the plan's denoiser is among them"


def test_an_offloaded_model_takes_the_layer_that_runs_and_the_next(plan: ModelPlan, loaded: LoadedModel) -> None:
    """It was refused where it did not fit as a whole, which is what offloading is for."""
    offloaded = msgspec.structs.replace(plan, offload=True)
    text = 2 * elements(TEXT)  # small tensors of encoders stay
    assert weight_bytes(offloaded, CUDA) == 2 * 2 * (64 * 32) + text
    assert weight_bytes(offloaded, CPU) == weight_bytes(plan, CPU)  # nothing is offloaded there
    largest = max(p.nbytes for p in loaded._base.unet.parameters())
    vae = sum(tensor.nbytes for tensor in (*loaded._base.vae.parameters(), *loaded._base.vae.buffers()))
    offloaded = msgspec.structs.replace(loaded.plan, offload=True)
    again = LoadedModel(offloaded, loaded._base, loaded.family, CUDA)
    stays = again.weight_bytes() - 2 * largest - vae  # the VAE does, and what is small of the encoder
    assert 0 <= stays < 1 << 20
    assert again.weight_bytes() < loaded.weight_bytes()


def test_a_tensor_made_of_smaller_ones_counts_as_what_it_is_made_of(loaded: LoadedModel) -> None:
    """torchao's say that they are bfloat16."""
    before = loaded.weight_bytes()
    module = torch.nn.Linear(4, 4, bias=False)
    two_tensors: Any = TwoTensor  # untyped
    module.weight = torch.nn.Parameter(two_tensors(torch.zeros(4, 4), torch.zeros(4, 4)), requires_grad=False)
    loaded._base.unet.extra = module
    try:
        assert loaded.weight_bytes() == before + 2 * 4 * 16
    finally:
        del loaded._base.unet.extra


def test_what_is_told_from_the_files_is_what_the_model_then_takes(mini: Model, loaded: LoadedModel) -> None:
    assert weight_bytes(mini.plan, CPU) == pytest.approx(loaded.weight_bytes(), rel=0.01)


def test_a_broken_folder_is_refused_before_any_model_makes_room_for_it(plan: ModelPlan) -> None:
    (Path(plan.folder) / "model_index.json").unlink()
    with pytest.raises(LoadRefused, match=r"model_index\.json is missing"):
        weight_bytes(plan, CPU)


def test_a_lost_device_is_no_broken_folder(mini: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's error of a lost device is a RuntimeError, as those of broken folders are."""

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", fail)
    with pytest.raises(torch.AcceleratorError):
        load(mini.plan, CPU)


def test_quantised_weights_are_moved_by_their_library(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    monkeypatch.setattr(type(loaded._base), "to", lambda self, device: done.append(device))
    quantised = msgspec.structs.replace(loaded.plan, quantise="nf4")
    LoadedModel(quantised, loaded._base, loaded.family, CUDA).move(CPU)
    assert done == [CPU]


def test_what_diffusers_says_of_a_broken_folder_names_no_path(plan: ModelPlan) -> None:
    """/readyz shows the reason to anyone."""
    folder = Path(plan.folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "StableDiffusionPipeline"}))
    (folder / "unet" / "config.json").unlink()
    with pytest.raises(LoadRefused, match="could not load") as refused:
        load(plan, CPU)
    assert str(folder.parent) not in str(refused.value)


def big_text(plan: ModelPlan) -> ModelPlan:
    """The same, with a text encoder of two blocks and a vocabulary."""
    shapes = {
        "shared.weight": (4096, 256),
        "encoder.block.0.wi.weight": (512, 256),
        "encoder.block.1.wi.weight": (512, 256),
        "encoder.norm.weight": (256,),
    }
    write(Path(plan.folder) / "text_encoder" / "model.safetensors", shapes)
    return plan


def test_encoders_in_host_memory_take_no_room_on_the_device(plan: ModelPlan) -> None:
    """They run once a prompt, and took a quarter to a half of the device: five of seven models did not fit 24 GB."""
    big = big_text(plan)
    assert weight_bytes(big, CUDA, host_encoders=True) == 2 * elements(UNET) + 2 * 256
    assert weight_bytes(big, CPU, host_encoders=True) == weight_bytes(big, CPU), "all is in host memory there"
    quantised = msgspec.structs.replace(big, quantise_encoders="nf4")
    assert weight_bytes(quantised, CUDA, host_encoders=True) > 4096 * 256 // 2, "quantised ones stay on the device"
    assert weight_bytes(quantised, CUDA) < weight_bytes(big, CUDA) / 3


def test_a_refusal_says_what_would_make_the_model_fit(plan: ModelPlan) -> None:
    big = big_text(plan)
    unet = 2 * elements(UNET)
    assert advice(big, CUDA, unet + 512) == "encoders: host"
    assert advice(big, CUDA, unet + 512 - 64 * 32) == "quantise: int8"
    assert advice(big, CUDA, unet + 512 - 64 * 32 - 512) == "quantise: nf4"
    assert advice(big, CUDA, 100) == ""
    assert advice(msgspec.structs.replace(big, offload=True), CUDA, 100) == ""
    assert advice(big, CPU, 100) == ""


def test_quantised_encoders_have_a_word_of_their_own(plan: ModelPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_bitsandbytes", lambda library, name: (library.__name__, name))
    monkeypatch.setattr(tuning, "PipelineQuantizationConfig", lambda quant_mapping: quant_mapping)
    both = msgspec.structs.replace(plan, quantise="int8", quantise_encoders="nf4")
    mapping = tuning.quantisation(both)
    assert mapping["transformer"] == ("diffusers", "int8")
    assert mapping["text_encoder_2"] == ("transformers", "nf4")
    assert set(tuning.quantisation(msgspec.structs.replace(plan, quantise_encoders="nf4"))) == set(tuning.ENCODERS)


def test_a_model_with_streamed_encoders_draws_the_same(mini: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole pipeline, with its text encoder streamed on the CPU."""
    plain = load(mini.plan, CPU)
    other = load(mini.plan, CPU)
    monkeypatch.setattr(streaming, "MIN_STREAMED_BYTES", 1024)
    streamed = streaming.stream_encoders(other._base, CPU, host_bytes=0)
    assert streamed["text_encoder"].parameters

    def draw(model: LoadedModel) -> Any:
        generator = torch.Generator().manual_seed(5)
        arguments = {"num_inference_steps": 2, "height": 64, "width": 64, "output_type": "pt", "generator": generator}
        return model._base("a red apple", **arguments).images

    assert torch.equal(draw(plain), draw(other))
    assert torch.equal(draw(plain), draw(other))


def test_upscalers_count_come_with_their_model_and_may_be_broken(mini: Model, tmp_path: Path) -> None:
    good = UpscalerFile("good", str(upscalers.write(tmp_path / "good.safetensors", upscalers.compact())))
    torn = UpscalerFile("torn", str(tmp_path / "torn.safetensors"))
    Path(torn.path).write_bytes(b"torn")
    plan = msgspec.structs.replace(mini.plan, dtype="float32", upscalers=(good, torn))
    plain = msgspec.structs.replace(plan, upscalers=())
    own = 4 * sum(tensor.numel() for tensor in upscalers.compact().values())
    assert weight_bytes(plan, CPU) == weight_bytes(plain, CPU) + own
    model = load(plan, CPU)
    assert list(model.upscalers) == ["good"]
    assert model.weight_bytes() == load(plain, CPU).weight_bytes() + own


def test_an_upscaler_by_itself_is_counted_as_it_will_be(tmp_path: Path) -> None:
    file = UpscalerFile("good", str(upscalers.write(tmp_path / "good.safetensors", upscalers.rrdb())))
    for dtype in ("float32", "auto"):
        plan = ModelPlan("upscaler good", file.path, UPSCALER, dtype=dtype, upscalers=(file,))
        made = upscaler_alone.load(plan, CPU)
        assert made.weight_bytes() == upscaler_alone.weight_bytes(plan, CPU) > 0
        made.move(CPU)
        assert not made.has_host_copy
