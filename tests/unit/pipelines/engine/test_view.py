"""A run's own view of a pipeline: stand-ins that pass for the real thing, and the guards against bad pictures."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    UNet2DConditionModel,
)

from pipelines.engine.shared import SharedModule, find_shared_modules
from pipelines.engine.view import bind, stand_in
from pipelines.errors import BadPicture, Cancelled
from pipelines.facts import schedulers
from pipelines.pictures.images import Array, to_frames


class Turnstile:
    """Does every call at once, as an engine with one run does."""

    width = height = 64

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []
        self.stop = False

    def share(
        self,
        shared: SharedModule,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        known: Callable[[], Any] | None = None,
    ) -> Any:
        if self.stop:
            raise Cancelled("told to")
        return shared.function(*args, **kwargs)

    def alone(self, work: Callable[[], Any], module: torch.nn.Module | None = None) -> Any:
        return work()

    def adapters(self, module: torch.nn.Module) -> tuple[()]:
        return ()

    def wants_preview(self, done: int, of: int) -> bool:
        return False

    def previewed(self, done: int, of: int, picture: torch.Tensor) -> None:
        raise AssertionError("nobody asked")

    def stepped(self, done: int, of: int) -> None:
        self.told.append((done, of))


class Parts(SimpleNamespace):
    """As much of a pipeline as a view reads."""

    @property
    def components(self) -> dict[str, Any]:
        return dict(vars(self))


def view_of(pipeline: Parts, rendezvous: Turnstile, scheduler: str | None = None) -> Any:
    return bind(pipeline, rendezvous, modules=find_shared_modules(pipeline.components), scheduler=scheduler)


def to_uint8(drawn: torch.Tensor) -> Array:
    return to_frames(drawn).arrays()


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
    )


def test_a_stand_in_passes_for_its_module(unet: UNet2DConditionModel) -> None:
    calls: list[str] = []

    def forward(*args: Any, **kwargs: Any) -> Any:
        calls.append("stood in")
        return unet.forward(*args, **kwargs)

    clone: Any = stand_in(unet, forward=forward)
    assert isinstance(clone, UNet2DConditionModel)
    assert clone.config is unet.config
    assert (clone.dtype, clone.device) == (unet.dtype, unet.device)
    assert clone.conv_in.weight is unet.conv_in.weight  # no second copy of the weights
    given = (torch.zeros(1, 4, 8, 8), torch.tensor(1), torch.zeros(1, 3, 8))
    with torch.no_grad():
        assert torch.equal(clone(*given).sample, unet(*given).sample)
    assert calls == ["stood in"]  # and the module itself is as it was


def test_a_view_leaves_the_pipeline_as_it_was_and_can_be_stopped(unet: UNet2DConditionModel) -> None:
    pipeline = Parts(unet=unet, scheduler=DDIMScheduler(), vae=None)
    before = dict(vars(pipeline))
    rendezvous = Turnstile()
    view = view_of(pipeline, rendezvous)
    assert vars(pipeline) == before
    assert view.scheduler is not pipeline.scheduler
    view.scheduler.set_timesteps(3)
    latents = torch.zeros(1, 4, 8, 8)
    with torch.no_grad():
        for step in view.scheduler.timesteps:
            noise = view.unet(latents, step, torch.zeros(1, 3, 8)).sample
            latents = view.scheduler.step(noise, step, latents).prev_sample
    assert rendezvous.told == [(1, 3), (2, 3), (3, 3)]
    rendezvous.stop = True
    with pytest.raises(Cancelled):
        view.unet(latents, 1, torch.zeros(1, 3, 8))
    assert pipeline.scheduler.num_inference_steps is None


def test_a_named_scheduler_has_the_models_own_configuration(unet: UNet2DConditionModel) -> None:
    own = DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    view = view_of(Parts(unet=unet, scheduler=own, vae=None), Turnstile(), "euler")
    assert type(view.scheduler).__name__ == "EulerDiscreteScheduler"
    assert view.scheduler.config.prediction_type == "v_prediction"
    assert view.scheduler.config.timestep_spacing == "trailing"


@pytest.mark.parametrize("sigmas", list(schedulers.SIGMAS))
@pytest.mark.parametrize("name", [*schedulers.DISCRETE, "flow_euler"])
def test_noise_levels_lie_as_is_asked_where_the_scheduler_can(
    unet: UNet2DConditionModel, name: str, sigmas: str
) -> None:
    """All steps are drawn, also where levels are so close that their timesteps are the same."""
    own: Any = FlowMatchEulerDiscreteScheduler() if name == "flow_euler" else DDIMScheduler()
    parts = Parts(unet=unet, scheduler=own, vae=None)
    plain, view = (bind(parts, Turnstile(), modules={}, scheduler=name, sigmas=each) for each in ("default", sigmas))
    takes = schedulers.takes_sigmas(type(view.scheduler).__name__, view.scheduler.config, sigmas)
    for each in (plain, view):
        each.scheduler.set_timesteps(20)
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        for timestep in each.scheduler.timesteps:
            latents = each.scheduler.step(torch.zeros_like(latents), timestep, latents).prev_sample
        assert torch.isfinite(latents).all()
    levels = [getattr(each.scheduler, "sigmas", each.scheduler.timesteps) for each in (plain, view)]
    assert torch.equal(*levels) is not takes


def test_another_curve_takes_the_place_of_the_models_own(unet: UNet2DConditionModel) -> None:
    """diffusers refuses a configuration with two of them."""
    own = EulerDiscreteScheduler(use_karras_sigmas=True)
    view = bind(Parts(unet=unet, scheduler=own, vae=None), Turnstile(), modules={}, sigmas="exponential")
    assert (view.scheduler.config.use_karras_sigmas, view.scheduler.config.use_exponential_sigmas) == (False, True)


class OverflowingVae(torch.nn.Module):
    """In half precision it decodes to NaN, as SDXL's does (diffusers#5803)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float16))

    def decode(self, latents: torch.Tensor, return_dict: bool = True) -> Any:
        sample = latents.to(self.weight.dtype) * self.weight * 60000.0 * 2 / 120000.0
        return SimpleNamespace(sample=sample) if return_dict else (sample,)


@pytest.mark.parametrize("return_dict", [True, False])
def test_nan_from_a_half_precision_vae_is_decoded_again_in_float32(return_dict: bool) -> None:
    vae = OverflowingVae()
    latents = torch.full((1, 3, 4, 4), 1.5, dtype=torch.float16)
    raw = vae.decode(latents).sample
    assert not torch.isfinite(raw).all()
    view = view_of(Parts(vae=vae, scheduler=DDIMScheduler()), Turnstile())
    decoded = view.vae.decode(latents, return_dict=return_dict)
    sample = decoded.sample if return_dict else decoded[0]
    assert sample.dtype == torch.float32
    assert torch.allclose(sample, torch.full_like(sample, 1.5))
    assert vae.weight.dtype == torch.float16  # the shared weights stay as they were


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_latents_are_a_bad_picture(value: float) -> None:
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), upsampling_scaling_factor=2,
    )  # fmt: skip
    view = view_of(Parts(vae=vae, scheduler=DDIMScheduler()), Turnstile())
    latents = torch.zeros(2, 4, 4, 4)
    with torch.no_grad():
        assert torch.isfinite(view.vae.decode(latents).sample).all()
        latents[1, 0, 0, 0] = value
        with pytest.raises(BadPicture):
            view.vae.decode(latents)


def test_nan_and_black_pixels_are_a_bad_picture_and_dark_ones_are_not() -> None:
    pictures = torch.full((2, 3, 4, 4), 0.5)
    assert to_uint8(pictures).shape == (2, 4, 4, 3)
    assert (to_uint8(pictures) == 128).all()
    for value in (float("nan"), float("inf")):
        bad = pictures.clone()
        bad[1, 0, 0, 0] = value
        with pytest.raises(BadPicture, match="NaN"):
            to_uint8(bad)
    black = pictures.clone()
    black[1] = 0.001
    with pytest.raises(BadPicture, match="black all over"):
        to_uint8(black)
    black[1, 0, 0, 0] = 0.01
    assert to_uint8(black)[1].max() == 3


def test_pixels_are_rounded_as_diffusers_rounds() -> None:
    from diffusers.image_processor import VaeImageProcessor

    ramp = torch.linspace(-0.1, 1.1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    wanted = VaeImageProcessor.numpy_to_pil(VaeImageProcessor.pt_to_numpy(ramp.clamp(0, 1)))
    assert np.array_equal(to_uint8(ramp)[0], np.asarray(wanted[0]))


def test_a_view_passes_its_schedulers_signature_on() -> None:
    """Pipelines look there for ``generator``; without it their noise came from the global generator."""
    view = view_of(Parts(scheduler=DDIMScheduler()), Turnstile())
    assert "generator" in inspect.signature(view.scheduler.step).parameters


class Elsewhere(torch.nn.Module):
    """A denoiser whose device is not the CPU, as far as shapes go."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1, device="meta"))
        self.seen: list[Any] = []

    def forward(self, sample: torch.Tensor, timestep: Any, scale: Any = None) -> tuple[torch.Tensor]:
        self.seen.append((timestep, scale))
        return (sample,)


class OnDevice:
    """Timesteps that a pipeline asked for on a device."""

    def to(self, device: torch.device) -> torch.Tensor:
        return torch.tensor([2, 1, 0], device=device)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("ddim", DDIMScheduler), ("lcm", LCMScheduler), ("euler", None)],
)
def test_schedulers_that_look_their_numbers_up_keep_timesteps_on_the_cpu(
    name: str, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look with a timestep on the device made the host wait for it, four or five times a step."""

    def set_timesteps(scheduler: Any, num_inference_steps: int, device: Any = None) -> None:
        scheduler.timesteps = OnDevice()

    kind = kind or EulerDiscreteScheduler
    monkeypatch.setattr(kind, "set_timesteps", set_timesteps)
    view = view_of(Parts(scheduler=DDIMScheduler()), Turnstile(), name)
    view.scheduler.set_timesteps(3, device="cuda")
    if name == "euler":  # it looks nothing up on the CPU
        assert isinstance(view.scheduler.timesteps, OnDevice)
    else:
        assert view.scheduler.timesteps.device.type == "cpu"
    assert next(iter(inspect.signature(view.scheduler.set_timesteps).parameters)) == "num_inference_steps"


def test_a_timestep_of_the_cpu_is_brought_to_where_the_denoiser_computes() -> None:
    unet = Elsewhere()
    view = view_of(Parts(unet=unet, scheduler=DDIMScheduler(), vae=None), Turnstile())
    latents = torch.zeros(1, 4, 8, 8, device="meta")
    view.unet(latents, torch.tensor(7), scale=torch.ones(1))
    view.unet(latents, 7)
    ((timestep, scale), (plain, _)) = unet.seen
    assert (timestep.device.type, scale.device.type) == ("meta", "meta")
    assert plain == 7
