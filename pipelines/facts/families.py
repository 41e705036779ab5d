"""What each family of diffusers pipelines can do, told from a model folder's JSON without loading it.

Knows pipeline class names, tasks and sizes; knows neither torch nor HTTP. The front refuses with these
facts what a model cannot do, before any work; a class that is not listed here may still draw from text.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.facts import schedulers
from pipelines.spec import Task

_ALL = frozenset(Task)
_FLOW = tuple(schedulers.FLOW)
_NEVER = math.inf
_TEXT = frozenset({Task.TEXT_TO_IMAGE})
_TEXT_AND_IMAGE = frozenset({Task.TEXT_TO_IMAGE, Task.IMAGE_TO_IMAGE})


@dataclass(frozen=True)
class Family:
    """The traits shared by all models whose model_index.json names one of ``classes``.

    ``references`` is how many source pictures one request may carry. Where ``by_instruction`` is true the
    sources condition the whole picture ("make it snow") and ``strength`` means nothing; else the first is
    noised and drawn anew. ``multiple`` is what width and height must be divisible by, in pixels. A negative prompt has
    an effect where the guidance is more than ``negative_above``.
    """

    name: str
    classes: tuple[str, ...]
    tasks: frozenset[Task] = _ALL
    references: int = 1
    by_instruction: bool = False
    multiple: int = 16  # pixels
    native: int = 1024  # pixels a side
    flow: bool = True  # flow matching: its schedulers are not those of noise prediction
    schedulers: tuple[str, ...] = ()  # that its pipelines take, by our names; none: those that fit its kind
    guidance_argument: str = "guidance_scale"
    steps: int = 28
    guidance: float = 4.0
    negative_above: float = 1.0  # infinite: a negative prompt never has an effect
    forward_waits: bool = False  # its denoiser reads numbers of the device: such a step cannot be a CUDA graph

    @property
    def scheduler_names(self) -> tuple[str, ...]:
        """What a request may ask for, in the order to show them."""
        return self.schedulers or schedulers.names(flow=self.flow)


FAMILIES: tuple[Family, ...] = (
    Family(
        "stable-diffusion",
        ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"),
        multiple=8,
        native=512,
        flow=False,
        guidance=7.5,
    ),
    Family(  # nine channels: latents, mask and masked source; it cannot draw without them
        "stable-diffusion-inpainting",
        ("StableDiffusionInpaintPipeline",),
        tasks=frozenset({Task.INPAINTING}),
        multiple=8,
        native=512,
        flow=False,
        guidance=7.5,
    ),
    Family(
        "lcm",
        ("LatentConsistencyModelPipeline",),
        tasks=_TEXT_AND_IMAGE,
        multiple=8,
        native=512,
        flow=False,
        schedulers=("lcm",),
        steps=4,
        guidance=8.5,
        negative_above=_NEVER,
    ),
    Family(
        "stable-diffusion-xl",
        ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"),
        multiple=8,
        flow=False,
        guidance=5.0,
    ),
    Family(  # its UNet takes an aesthetic score, which text alone does not come with
        "stable-diffusion-xl-refiner",
        (),
        tasks=frozenset({Task.IMAGE_TO_IMAGE, Task.INPAINTING}),
        multiple=8,
        flow=False,
        guidance=5.0,
    ),
    Family(
        "stable-diffusion-xl-inpainting",
        ("StableDiffusionXLInpaintPipeline",),
        tasks=frozenset({Task.INPAINTING}),
        multiple=8,
        flow=False,
        guidance=7.5,
    ),
    Family(
        "stable-diffusion-3",
        ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline"),
        schedulers=_FLOW,
        guidance=4.5,
    ),
    Family("flux", ("FluxPipeline", "FluxImg2ImgPipeline"), guidance=3.5, negative_above=_NEVER),
    Family(
        "flux-kontext",
        ("FluxKontextPipeline",),
        tasks=_TEXT_AND_IMAGE,
        by_instruction=True,
        guidance=2.5,
        negative_above=_NEVER,
    ),
    Family(
        "flux2",
        ("Flux2Pipeline", "Flux2KleinPipeline"),
        tasks=_TEXT_AND_IMAGE,
        references=8,
        by_instruction=True,
        steps=4,
        guidance=1.0,
        negative_above=_NEVER,
    ),
    Family("qwen-image", ("QwenImagePipeline",), guidance_argument="true_cfg_scale", steps=30),
    Family(
        "qwen-image-edit",
        ("QwenImageEditPipeline",),
        tasks=frozenset({Task.IMAGE_TO_IMAGE, Task.INPAINTING}),
        by_instruction=True,
        guidance_argument="true_cfg_scale",
        steps=30,
    ),
    Family(
        "qwen-image-edit-plus",
        ("QwenImageEditPlusPipeline",),
        tasks=frozenset({Task.IMAGE_TO_IMAGE}),
        references=3,
        by_instruction=True,
        guidance_argument="true_cfg_scale",
        steps=30,
    ),
    Family("z-image", ("ZImagePipeline",), steps=9, guidance=0.0, negative_above=0.0),
    Family("sana", ("SanaPipeline",), tasks=_TEXT, multiple=32, schedulers=_FLOW, steps=20, guidance=4.5),
    Family(
        "pixart",
        ("PixArtSigmaPipeline", "PixArtAlphaPipeline"),
        tasks=_TEXT,
        flow=False,
        steps=20,
        guidance=4.5,
    ),
    Family("lumina2", ("Lumina2Pipeline",), tasks=_TEXT, forward_waits=True),
    Family("auraflow", ("AuraFlowPipeline",), tasks=_TEXT, schedulers=_FLOW, guidance=3.5),
    Family("chroma", ("ChromaPipeline",), tasks=_TEXT, guidance=5.0, forward_waits=True),
)

_REFINERS = ("StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline")
_UNKNOWN = Family("other", (), tasks=_TEXT, negative_above=-1.0, forward_waits=True)  # what cannot be told is not


@dataclass(frozen=True)
class FamilyTable:
    """Look-up by pipeline class name, and by the family's own name as models.yaml may give it."""

    families: tuple[Family, ...] = FAMILIES
    by_class: dict[str, Family] = field(init=False)
    by_name: dict[str, Family] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_class", {name: f for f in self.families for name in f.classes})
        object.__setattr__(self, "by_name", {f.name: f for f in self.families})

    def detect(self, folder: Path) -> Family:
        """The family of the model in ``folder``; "other" when it cannot be told."""
        try:
            index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
            name = index["_class_name"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return _UNKNOWN
        if name in _REFINERS and index.get("requires_aesthetics_score") is True:
            return self.by_name["stable-diffusion-xl-refiner"]
        return self.by_class.get(name, _UNKNOWN) if isinstance(name, str) else _UNKNOWN
