"""Adapters: mixed requests draw what plain diffusers draws with set_adapters alone, and equal sets share steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipelines.engine import adapters
from pipelines.engine.arguments import call_arguments
from pipelines.engine.embeddings import EmbeddingCache
from pipelines.engine.sink import KeepingSink
from pipelines.errors import AdapterRefused
from pipelines.models.loader import LoadedModel
from pipelines.plan import AdapterFile, Drawing
from pipelines.spec import Adapter
from tests.families import tiny
from tests.families.drive import check, draw, drawing, run
from tests.loras import write_lora

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`")  # what is compared with loads two too
aten = torch.ops.aten
SAME = 1e-5
# A denoiser each: UNet with its text encoder, two transformers with theirs, one whose text encoder takes none.
BUILDS = ["SD 1.x", "SDXL", "SD3", "FLUX.1", "Qwen-Image"]


def write(name: str, folder: Path, *, seed: int, **options: Any) -> Path:
    return write_lora(part_of(tiny.build(name)), folder, seed=seed, **options)


def part_of(model: LoadedModel) -> Any:
    return model._base


def adapted(name: str, files: dict[str, Path]) -> LoadedModel:
    model = tiny.build(name)
    listed = [AdapterFile(adapter, str(path)) for adapter, path in files.items()]
    model.adapters = adapters.load(part_of(model), listed)
    return model


def plain(name: str, files: dict[str, Path], one: Drawing) -> torch.Tensor:
    """What diffusers alone draws, on a pipeline of its own that has just the adapters of this drawing."""
    model = tiny.build(name)
    pipeline = part_of(model)
    wanted = one.spec.adapters
    for adapter in wanted:
        pipeline.load_lora_weights(str(files[adapter.name]), adapter_name=adapter.name)
    if wanted:
        pipeline.set_adapters([a.name for a in wanted], [a.weight for a in wanted])
    with torch.no_grad():
        drawn: torch.Tensor = pipeline(**call_arguments(pipeline, model.family, one.spec, one.seeds)).images
    return drawn.float()


A, B = Adapter("a", 1.0), Adapter("b", 1.0)
SETS = [(), (A,), (Adapter("a", 0.5),), (B,), (A, B), (), (A,), (Adapter("b", -0.7),)]


@pytest.mark.parametrize("name", BUILDS)
def test_mixed_requests_draw_what_diffusers_draws_alone(name: str, tmp_path: Path) -> None:
    files = {"a": write(name, tmp_path, seed=1), "b": write(name, tmp_path, seed=2)}
    model = adapted(name, files)
    assert not model.adapters.broken
    check(model)
    assert model.shares, model.reason
    assert model.adapters.mixed
    drawings = [
        drawing(model, number, "an old map" if number % 2 else "a cat", steps=3 + number % 3, adapters=wanted)
        for number, wanted in enumerate(SETS, 10)
    ]
    expected = {one.job_id: plain(name, files, one) for one in drawings}
    together = draw(model, drawings)
    assert together.fallbacks == 0
    assert together.forwards <= 12, "of 31: they share steps, whatever their adapters"
    for one in drawings:
        assert float((together.pictures[one.job_id] - expected[one.job_id]).abs().max()) <= SAME, one.spec.adapters
    # And they are not all the base model's picture.
    base = plain(name, files, drawing(model, 11, "an old map", steps=5))
    assert float((base - expected["11"]).abs().max()) > 100 * SAME


def test_where_adapters_are_switched_equal_sets_share_steps(tmp_path: Path) -> None:
    """DoRA's layers look at their weight as a whole: no rows there."""
    options = {"size": 0.05}  # larger ones amplify a batch's rounding, step after step
    files = {
        "a": write("SD 1.x", tmp_path, seed=1, **options),
        "b": write("SD 1.x", tmp_path, seed=2, dora=True, **options),
    }
    model = adapted("SD 1.x", files)
    check(model)
    assert model.shares, model.reason
    same = [drawing(model, number, "a cat", steps=4, adapters=(B,)) for number in range(4)]
    assert draw(model, same).forwards == 4
    drawings = [drawing(model, number, "a cat", steps=20, adapters=(A,) if number % 2 else (B,)) for number in range(4)]
    order: list[str] = []

    class Watched(KeepingSink):
        def progress(self, drawing: Drawing, done: int, of: int) -> None:
            order.append(drawing.job_id)

    sink = Watched()
    engine = run(model, drawings, sink, EmbeddingCache())
    assert engine.counts["unet_forwards"] == 40
    assert engine.counts["adapter_switches"] <= 16, "no thrashing"
    assert {"0", "1"} <= set(order[: len(order) * 3 // 4]), "both sets are drawn, whichever went first"
    assert not sink.errors
    few = [msgspec.structs.replace(one, spec=msgspec.structs.replace(one.spec, steps=4)) for one in drawings]
    pictures = draw(model, few).pictures
    for one in few:  # DoRA divides by norms, which amplifies a batch's rounding; alone the two are equal
        assert float((pictures[one.job_id] - plain("SD 1.x", files, one)).abs().max()) <= 5 * SAME


def test_layers_whose_input_has_no_rows_keep_different_adapters_apart(tmp_path: Path) -> None:
    files = {"a": write("SD 1.x", tmp_path, seed=1)}
    model = adapted("SD 1.x", files)
    layer = next(layer for layer in part_of(model).unet.modules() if hasattr(layer, "lora_A"))
    inner = layer.forward
    layer.forward = lambda x, *rest: inner(x.flatten(0, 1), *rest).unflatten(0, x.shape[:2])
    check(model)
    assert model.shares, model.reason
    assert not model.adapters.mixed
    drawings = [drawing(model, number, "a cat", steps=4, adapters=(A,) if number % 2 else ()) for number in range(4)]
    together = draw(model, drawings)
    assert (together.forwards, together.fallbacks) == (8, 0)
    for one in drawings:
        assert float((together.pictures[one.job_id] - plain("SD 1.x", files, one)).abs().max()) <= SAME


def test_a_number_that_overflows_in_an_adapter_stays_in_its_rows(tmp_path: Path) -> None:
    files = {"a": write("SD 1.x", tmp_path, seed=1, size=1e30)}
    good = adapted("SD 1.x", {})
    alone = draw(good, [drawing(good, 1, "a cat")]).pictures["1"]
    model = adapted("SD 1.x", files)
    sink = KeepingSink()
    base, bad = drawing(model, 1, "a cat"), drawing(model, 2, "a cat", adapters=(A,))
    run(model, [base, bad], sink)
    assert "2" in sink.errors
    assert float((sink.pictures["1"] - alone).abs().max()) <= SAME


def test_what_an_adapter_does_not_change_is_shared(tmp_path: Path) -> None:
    """An adapter of the denoiser alone leaves the text encoder's cache to everybody."""
    files = {"a": write("SD 1.x", tmp_path, seed=1, parts=["unet"]), "b": write("SD 1.x", tmp_path, seed=2)}
    model = adapted("SD 1.x", files)
    check(model)
    cache, sink = EmbeddingCache(), KeepingSink()
    drawings = [
        drawing(model, number, "a cat", adapters=wanted) for number, wanted in enumerate([(), (A,), (B,), (A, B)])
    ]
    for one in drawings:
        run(model, [one], sink, cache)
    assert cache.misses == 2 * 2, "prompt and no prompt; as the base model encodes them, and as b does"
    expected = [plain("SD 1.x", files, one) for one in drawings]
    for one, alone in zip(drawings, expected, strict=True):
        assert float((sink.pictures[one.job_id] - alone).abs().max()) <= SAME


def test_a_broken_adapter_spares_its_model(tmp_path: Path) -> None:
    good = write("SD 1.x", tmp_path, seed=1)
    whole = good.read_bytes()
    files = {name: tmp_path / f"{name}.safetensors" for name in ("missing", "cut", "empty", "shape", "other")}
    files["cut"].write_bytes(whole[:-10])
    files["empty"].write_bytes(b"")
    files["pickle"] = tmp_path / "pickle.bin"
    files["pickle"].write_bytes(whole)
    files["shape"] = write("SDXL", tmp_path, seed=3)
    files["other"] = write("FLUX.1", tmp_path, seed=4, parts=["transformer"])
    model = adapted("SD 1.x", {**files, "good": good})
    assert set(model.adapters.broken) == set(files), model.adapters.broken
    check(model)
    one, base = drawing(model, 1, "a cat", adapters=(Adapter("good", 1.0),)), drawing(model, 2, "a cat")
    refused = drawing(model, 3, "a cat", adapters=(Adapter("cut", 1.0),))
    sink = KeepingSink()
    run(model, [one, base, refused], sink, None)
    assert isinstance(sink.errors["3"], AdapterRefused)
    for each in (one, base):
        alone = plain("SD 1.x", {"good": good}, each)
        assert float((sink.pictures[each.job_id] - alone).abs().max()) <= SAME


def test_a_model_without_adapters_is_left_as_it_is() -> None:
    model = tiny.build("SD 1.x")
    before = {name: type(module) for name, module in part_of(model).unet.named_modules()}
    model.adapters = adapters.load(part_of(model), [])
    assert {name: type(module) for name, module in part_of(model).unet.named_modules()} == before
    assert not model.adapters


class _Kernels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators that compute: each is a launch of a kernel on a device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view and func.overloadpacket not in (aten.detach, aten._unsafe_view)
        return func(*args, **(kwargs or {}))


def test_a_group_of_rows_with_an_adapter_costs_three_kernels_a_layer(tmp_path: Path) -> None:
    """It was four: with many groups a step, launching those of 700 layers takes the host longer than the device."""
    files = {name: write("SDXL", tmp_path, seed=seed, parts=["unet"]) for seed, name in enumerate("ab")}
    model = adapted("SDXL", files)
    unet = part_of(model).unet
    layer = next(module for name, module in unet.named_modules() if name.endswith("attn1.to_q"))

    def kernels(*wanted: tuple[Adapter, ...]) -> int:
        model.adapters.use(unet, [adapters.Share(1, each) for each in wanted])
        seen = _Kernels()
        with torch.no_grad(), seen:
            layer(torch.zeros(len(wanted), 4, layer.in_features))
        return seen.count

    base = kernels((), (), ())
    assert kernels((), (A,), ()) == base + 3
    assert kernels((A,), (B,), (A,)) == base + 9
