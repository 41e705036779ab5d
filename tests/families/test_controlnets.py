"""ControlNets: mixed requests draw what plain diffusers draws with each alone, and share steps as far as they can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import msgspec
import pytest
import torch
from PIL import Image

from pipelines.engine.call import Call
from pipelines.engine.controls import Controls
from pipelines.engine.embeddings import EmbeddingCache
from pipelines.engine.engine import Engine
from pipelines.engine.shared import Stage
from pipelines.engine.sink import KeepingSink
from pipelines.errors import DrawError, Unsupported
from pipelines.facts import step_cache
from pipelines.models import selfcheck
from pipelines.models.loader import LoadedModel
from pipelines.models.verdict import Verdict
from pipelines.pictures.edges import canny
from pipelines.pictures.fitting import to_pil, to_pixels
from pipelines.plan import Drawing
from pipelines.spec import Adapter, Control, Task
from tests.controlnets import controlnet
from tests.families import tiny
from tests.families.drive import check, draw, drawing, half_mask, picture, run

SAME = 5e-5  # as tests/engine has it
CELL, SIDE = 2, 32  # pixels: of a latent's side, and of a picture's
STEPS = 4
ONE, OTHER = picture(SIDE, SIDE, 1), picture(SIDE, SIDE, 2)
BUILDS = ["SD 1.x", "SD 2.x", "SDXL"]


def controlled(name: str, **config: Any) -> LoadedModel:
    """A tiny model with the ControlNets a and b, as it is after the check at load."""
    built = tiny.build(name)
    nets = {word: controlnet(built._base.unet, CELL, seed=seed, **config) for seed, word in enumerate("ab")}
    model = LoadedModel(built.plan, built._base, built.family, built.device, nets=nets)
    check(model)
    assert model.shares, model.reason
    return model


@pytest.fixture(scope="module", params=BUILDS)
def any_model(request: pytest.FixtureRequest) -> LoadedModel:
    return controlled(request.param)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return controlled("SD 1.x")


def plain(model: LoadedModel, one: Drawing) -> torch.Tensor:
    """What diffusers' own pipeline draws, with just the ControlNets of this drawing."""
    spec = one.spec
    auto = {
        Task.TEXT_TO_IMAGE: diffusers.AutoPipelineForText2Image,
        Task.IMAGE_TO_IMAGE: diffusers.AutoPipelineForImage2Image,
        Task.INPAINTING: diffusers.AutoPipelineForInpainting,
    }[spec.task]
    nets = [model._nets.modules[control.name] for control in spec.controls]
    pipeline = auto.from_pipe(model._base, controlnet=nets[0] if len(nets) == 1 else nets)
    pipeline.set_progress_bar_config(disable=True)
    images = [to_pil(control.image) for control in spec.controls]
    more: dict[str, Any] = {
        "image" if spec.task is Task.TEXT_TO_IMAGE else "control_image": images,
        "controlnet_conditioning_scale": [control.weight for control in spec.controls],
        "control_guidance_start": [control.start for control in spec.controls],
        "control_guidance_end": [control.end for control in spec.controls],
    }
    if len(nets) == 1:
        more = {key: value[0] for key, value in more.items()}
    if spec.sources:
        more |= {"image": to_pil(spec.sources[0]), "strength": spec.strength}
    if spec.mask is not None:
        more["mask_image"] = to_pil(spec.mask)
    with torch.no_grad():
        drawn: torch.Tensor = pipeline(
            prompt=spec.prompt,
            num_images_per_prompt=len(one.seeds),
            num_inference_steps=spec.steps,
            guidance_scale=spec.guidance,
            height=spec.draw_height,
            width=spec.draw_width,
            output_type="pt",
            generator=[torch.Generator().manual_seed(seed) for seed in one.seeds],
            **more,
        ).images
    return drawn


def mixed(model: LoadedModel) -> list[Drawing]:
    """All that can be different, with as many steps."""
    a, b = Control("a", ONE), Control("b", OTHER, 1.0, 0.0, 0.5)
    return [
        drawing(model, 1, "a cat"),
        drawing(model, 2, "a dog", controls=(a,)),
        drawing(model, 3, "a house", controls=(b,)),
        drawing(
            model, 4, "two of them", controls=(msgspec.structs.replace(a, weight=0.6), Control("b", OTHER, 1.4)), n=2
        ),
        drawing(model, 5, "one twice", controls=(a, Control("a", OTHER, 0.7, 0.5, 1.0))),
        drawing(model, 6, "from a picture", controls=(a,), sources=(OTHER,), strength=1.0),
        drawing(model, 7, "in a part", controls=(a,), sources=(OTHER,), mask=half_mask(SIDE, SIDE), strength=1.0),
        drawing(model, 8, "from a picture", sources=(OTHER,), strength=1.0),
    ]


def test_mixed_requests_draw_what_each_draws_alone(any_model: LoadedModel) -> None:
    drawings = mixed(any_model)
    alone = {one.job_id: draw(any_model, [one]).pictures[one.job_id] for one in drawings}
    together = draw(any_model, drawings)
    assert together.fallbacks == 0
    for job, expected in alone.items():
        assert float((together.pictures[job] - expected).abs().max()) < SAME, job


def test_they_share_each_step_of_the_denoiser_and_each_call_of_a_controlnet(model: LoadedModel) -> None:
    """Weights and ranges too: what a network computes does not depend on them."""
    sink = KeepingSink()
    counts = run(model, mixed(model), sink).counts
    assert not sink.errors
    assert counts["unet_forwards"] == STEPS
    assert counts["controlnets.b_forwards"] == STEPS
    # One of the drawings has a twice: its second call of a step comes when the first is done.
    assert counts["controlnets.a_forwards"] == 2 * STEPS


def test_pictures_are_those_of_diffusers_own_pipelines(any_model: LoadedModel) -> None:
    for one in mixed(any_model):
        if one.spec.controls:
            drawn = draw(any_model, [one]).pictures[one.job_id]
            assert float((drawn - plain(any_model, one)).abs().max()) < SAME, one.job_id


def test_a_control_changes_the_picture_and_so_do_its_weight_its_picture_and_its_range(model: LoadedModel) -> None:
    def drawn(*controls: Control) -> torch.Tensor:
        return draw(model, [drawing(model, 1, "a cat", controls=controls)]).pictures["1"]

    base = Control("a", ONE)
    pictures = [
        drawn(),
        drawn(base),
        drawn(msgspec.structs.replace(base, weight=0.5)),
        drawn(msgspec.structs.replace(base, image=OTHER)),
        drawn(msgspec.structs.replace(base, end=0.5)),
        drawn(msgspec.structs.replace(base, name="b")),
    ]
    for index, one in enumerate(pictures):
        for other in pictures[:index]:
            assert float((one - other).abs().max()) > 100 * SAME


def observed(model: LoadedModel, one: Drawing) -> list[Call]:
    calls: list[Call] = []
    engine = Engine(KeepingSink(), observe=calls.append)
    engine.submit(model, one)
    engine.close()
    return calls


def test_without_controls_a_model_draws_as_one_that_has_none(model: LoadedModel) -> None:
    """To the byte, with the same calls, of which none has anything to add."""
    bare = tiny.build("SD 1.x")
    check(bare)
    one = drawing(model, 1, "a cat", n=2)
    assert torch.equal(draw(model, [one]).pictures["1"], draw(bare, [one]).pictures["1"])
    calls = observed(model, one)
    assert [call.shared.name for call in calls] == [call.shared.name for call in observed(bare, one)]
    steps = [call for call in calls if call.shared.stage is Stage.DENOISE]
    assert all(call.arguments["mid_block_additional_residual"] is None for call in steps)


def test_requests_without_controls_that_meet_are_given_nothing_to_add(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser = next(shared for shared in model.shared_modules.values() if shared.stage is Stage.DENOISE)
    real, seen = denoiser.function, list[bool]()

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs.get("down_block_additional_residuals") is not None)
        return real(*args, **kwargs)

    monkeypatch.setattr(denoiser, "function", watched)
    draw(model, [drawing(model, number, "a cat") for number in range(3)])
    assert seen == [False] * STEPS


def test_outside_of_its_range_a_controlnet_is_not_called(model: LoadedModel) -> None:
    """Its steps there are a plain request's: they share the denoiser's call with nothing filled in."""
    sink = KeepingSink()
    one = drawing(model, 1, "a cat", controls=(Control("a", ONE, 1.0, 0.25, 0.75),))
    assert run(model, [one], sink).counts["controlnets.a_forwards"] == 2
    steps = [call for call in observed(model, one) if call.shared.stage is Stage.DENOISE]
    added = [call.arguments["mid_block_additional_residual"] is not None for call in steps]
    assert added == [False, True, True, False]


def test_a_controlnet_that_pools_its_picture_shares_steps_with_one_that_does_not() -> None:
    """Shuffle's: one number for all places of a layer, and added to one half of guidance alone."""
    built = tiny.build("SD 1.x")
    unet = built._base.unet
    nets = {
        "pooled": controlnet(unet, CELL, seed=0, global_pool_conditions=True),
        "plain": controlnet(unet, CELL, seed=1),
    }
    model = LoadedModel(built.plan, built._base, built.family, built.device, nets=nets)
    check(model)
    drawings = [
        drawing(model, 1, "a cat", controls=(Control("pooled", ONE, 1.0, 0.0, 0.5),)),
        drawing(model, 2, "a dog", controls=(Control("plain", OTHER),)),
        drawing(model, 3, "a house"),
    ]
    alone = {one.job_id: draw(model, [one]).pictures[one.job_id] for one in drawings}
    sink = KeepingSink()
    assert run(model, drawings, sink).counts["unet_forwards"] == STEPS
    for one in drawings:
        assert float((sink.pictures[one.job_id] - alone[one.job_id]).abs().max()) < SAME
    for one in drawings[:2]:
        assert float((alone[one.job_id] - plain(model, one)).abs().max()) < SAME


@pytest.mark.parametrize("twice", [False, True])
def test_steps_are_left_out_with_controls_too(model: LoadedModel, monkeypatch: pytest.MonkeyPatch, twice: bool) -> None:
    """Of a network that is called twice a step, each call is told from its own: one that ended early was taken for the
    other."""
    monkeypatch.setattr(step_cache, "_TOLERANCE", 1e9)
    monkeypatch.setattr(step_cache, "_TOLERANCE_SHORT", 1e9)
    controls = (Control("a", ONE, 1.0, 0.0, 0.5), Control("a" if twice else "b", OTHER))
    cached = drawing(model, 1, "a cat", steps=20, step_cache=0.5, controls=controls)
    sink = KeepingSink()
    counts = run(model, [cached], sink).counts
    assert counts["unet_forwards"] < 14
    assert counts["answered_from_cache"] > 6
    drawings = [cached, drawing(model, 2, "a dog", steps=13), drawing(model, 3, "a house", steps=13, controls=controls)]
    alone = {one.job_id: draw(model, [one]).pictures[one.job_id] for one in drawings}
    together = draw(model, drawings)
    for one in drawings:
        assert float((together.pictures[one.job_id] - alone[one.job_id]).abs().max()) < SAME


def test_a_network_called_twice_is_never_left_out_alone() -> None:
    net = controlnet(tiny.build("SD 1.x")._base.unet, CELL, seed=0)
    called: list[str] = []

    def park(word: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            called.append(word)
            assert kwargs["conditioning_scale"] == 1.0
            return [torch.ones(1)], torch.ones(1)

        return call

    nothing = torch.zeros(1)
    down, middle = Controls([net, net], [park("x"), park("y")])(nothing, 1, nothing, [nothing] * 2, [0.0, 0.5])
    assert called == ["x", "y"]
    assert [float(each) for each in (*down, middle)] == [0.5, 0.5]
    called.clear()
    assert Controls([net], [park("x")])(nothing, 1, nothing, [nothing], [0.0]) == (None, None)
    assert called == []


def test_previews_prompt_weights_and_adapters_go_with_controls(model: LoadedModel) -> None:
    class Seen(KeepingSink):
        previews = 0

        def previewed(self, drawing: Drawing, done: int, of: int, picture: torch.Tensor) -> None:
            self.previews += 1

    weighted = drawing(model, 1, "a (red:1.4) cat", controls=(Control("a", ONE),), prompt_weights=True, n=2)
    shown = msgspec.structs.replace(weighted, previews=2)
    seen = Seen()
    run(model, [shown], seen, EmbeddingCache())
    assert not seen.errors
    assert seen.previews == 2
    unweighted = drawing(model, 1, "a red cat", controls=(Control("a", ONE),), n=2)
    assert float((seen.pictures["1"] - draw(model, [unweighted]).pictures["1"]).abs().max()) > SAME


def test_a_name_that_the_model_has_not_fails_its_run_alone(model: LoadedModel) -> None:
    sink = KeepingSink()
    run(model, [drawing(model, 1, "a cat", controls=(Control("c", ONE),)), drawing(model, 2, "a dog")], sink)
    assert isinstance(sink.errors["1"], Unsupported)
    assert "no ControlNet c" in str(sink.errors["1"])
    assert "2" in sink.pictures


def test_what_is_added_to_other_rows_too_is_never_put_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check at load finds it, and what it found is kept. Pictures are what they are alone all the same."""
    built = tiny.build("SD 1.x")
    net = controlnet(built._base.unet, CELL, seed=0)
    model = LoadedModel(built.plan, built._base, built.family, built.device, nets={"a": net})
    _mixing_denoiser(model, monkeypatch)
    check(model)
    assert model.shares
    shared = model._nets.shared_modules[id(net)]
    assert shared.apart
    denoiser = next(shared for shared in model.shared_modules.values() if shared.stage is Stage.DENOISE)
    assert not denoiser.fills
    kept = Verdict.of(model)
    denoiser.fills, shared.apart = True, False
    kept.give(model)
    assert shared.apart
    assert not denoiser.fills
    monkeypatch.undo()
    drawings = [drawing(model, n, "a cat", controls=(Control("a", ONE),)) for n in (1, 2)] + [drawing(model, 3, "b")]
    alone = {one.job_id: draw(model, [one]).pictures[one.job_id] for one in drawings}
    together = draw(model, drawings)
    for one in drawings:
        assert float((together.pictures[one.job_id] - alone[one.job_id]).abs().max()) < SAME


def _mixing_denoiser(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows to which something is added change all others."""
    denoiser = next(shared for shared in model.shared_modules.values() if shared.stage is Stage.DENOISE)
    real = denoiser.function

    def function(*args: Any, **kwargs: Any) -> Any:
        added = kwargs.get("mid_block_additional_residual")
        output = real(*args, **kwargs)
        return output if added is None else (output[0] + added.mean(), *output[1:])

    monkeypatch.setattr(denoiser, "function", function)


def test_what_was_found_is_believed_again(model: LoadedModel) -> None:
    known = Verdict.of(model)
    assert known.fits(model)
    calls = 0

    def alive() -> None:
        nonlocal calls
        calls += 1

    selfcheck.check(model, known, alive)
    believed, calls = calls, 0
    selfcheck.check(model, None, alive)
    assert believed < calls
    check(model)


def test_a_check_that_fails_says_so_and_serves(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    built = tiny.build("SD 1.x")
    net = controlnet(built._base.unet, CELL, seed=0)
    broken = LoadedModel(built.plan, built._base, built.family, built.device, nets={"a": net})

    def function(*args: Any, **kwargs: Any) -> Any:
        raise DrawError("it computes nothing")

    monkeypatch.setattr(broken._nets.shared_modules[id(net)], "function", function)
    check(broken)
    assert broken.shares
    assert draw(broken, [drawing(broken, 1, "a cat")]).pictures


def test_a_model_s_weights_count_its_controlnets(model: LoadedModel) -> None:
    nets = sum(parameter.nbytes for net in model._nets.modules.values() for parameter in net.parameters())
    assert model.weight_bytes() == tiny.build("SD 1.x").weight_bytes() + nets
    assert nets > 0


def test_adapters_of_the_denoiser_change_a_steered_picture(tmp_path: Any) -> None:
    from pipelines.engine import adapters
    from pipelines.plan import AdapterFile
    from tests.loras import write_lora

    path = write_lora(tiny.build("SD 1.x")._base, tmp_path, seed=1, parts=["unet"])
    built = tiny.build("SD 1.x")
    net = controlnet(built._base.unet, CELL, seed=0)
    loaded = adapters.load(built._base, [AdapterFile("ink", str(path))])
    model = LoadedModel(built.plan, built._base, built.family, built.device, loaded, nets={"a": net})
    check(model)
    controls = (Control("a", ONE),)
    drawings = [
        drawing(model, 1, "a cat", controls=controls),
        drawing(model, 2, "a cat", controls=controls, adapters=(Adapter("ink", 1.0),)),
        drawing(model, 3, "a cat", adapters=(Adapter("ink", 1.0),)),
    ]
    alone = {one.job_id: draw(model, [one]).pictures[one.job_id] for one in drawings}
    assert float((alone["1"] - alone["2"]).abs().max()) > SAME
    sink = KeepingSink()
    assert run(model, drawings, sink).counts["unet_forwards"] == STEPS
    for one in drawings:
        assert float((sink.pictures[one.job_id] - alone[one.job_id]).abs().max()) < SAME


def test_edges_are_those_of_the_picture_at_the_size_to_draw(model: LoadedModel) -> None:
    photograph = picture(96, 48, 3)
    edges = canny(to_pil(photograph).resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    made = drawing(model, 1, "a cat", controls=(Control("a", photograph, preprocess="canny"),))
    sent = drawing(model, 1, "a cat", controls=(Control("a", to_pixels(edges)),))
    assert torch.equal(draw(model, [made]).pictures["1"], draw(model, [sent]).pictures["1"])
