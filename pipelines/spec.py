"""The nouns that the front and the worker share: what to draw, and what was drawn.

Plain frozen data (msgspec structs, so that they cross a pipe as they are); no torch, no HTTP.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

LANCZOS = "lanczos"  # what pictures are brought to their size by where no network does it
_GREY = 160  # of 255


class Task(StrEnum):
    """What a run makes its picture from."""

    TEXT_TO_IMAGE = "text-to-image"
    IMAGE_TO_IMAGE = "image-to-image"
    INPAINTING = "inpainting"


class Pixels(msgspec.Struct, frozen=True):
    """A decoded picture: rows from the top, 8 bits a channel, not padded.

    ``data`` holds width × height × channels bytes; ``mode`` is "RGB", "RGBA" or "L" (a mask: 255 = repaint, 0 = keep).
    """

    width: int  # pixels
    height: int  # pixels
    mode: str
    data: bytes

    @classmethod
    def grey(cls, width: int, height: int, mode: str) -> Pixels:
        """An even grey, for a source or a mask whose content does not matter."""
        return cls(width, height, mode, bytes([_GREY]) * (width * height * len(mode)))


class Encoding(msgspec.Struct, frozen=True):
    """How finished pixels become bytes."""

    format: str = "png"  # png, jpeg or webp
    quality: int = 90  # 0..100, jpeg and webp only
    metadata: bool = True  # write the parameters into the picture
    texts: tuple[str, ...] = ()  # what a PNG says in their place, one text a picture; empty: they are written as JSON
    provenance: bool = True  # and that a model made it
    of_ours: bool = False  # its sources were drawn for it: nothing of another's is in it


class Window(msgspec.Struct, frozen=True):
    """The part of a larger picture that alone is drawn, in that picture's pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom."""
        return self.left, self.top, self.left + self.width, self.top + self.height


class Adapter(msgspec.Struct, frozen=True, order=True):
    """A LoRA, by its name in models.yaml, and how much of it: 1 is what it was trained to be."""

    name: str
    weight: float


class Control(msgspec.Struct, frozen=True):
    """A ControlNet by its name in models.yaml, the picture that it steers by, and how much and when it does."""

    name: str
    image: Pixels  # RGB
    weight: float = 1.0  # 0..2, what it adds is multiplied by; 1 is what it was trained to be
    start: float = 0.0  # 0..1, the share of the steps after which it begins
    end: float = 1.0  # 0..1, and after which it ends; more than start
    preprocess: str = "none"  # what is made of the image first: a name of pipelines.facts.controls.PREPROCESSORS


class ImageSpec(msgspec.Struct, frozen=True):
    """The frozen parameters of the pictures of one request; their seeds stand beside it.

    Everything is decided: nothing is None that a preset could fill.
    """

    model: str  # the canonical ID in models.yaml
    prompt: str  # with the preset's suffix
    width: int  # pixels of the picture that the client asked for
    height: int
    draw_width: int  # pixels that the pipeline draws, before resampling to width × height
    draw_height: int
    steps: int
    guidance: float
    negative_prompt: str | None = None
    scheduler: str | None = None  # a name of pipelines.facts.schedulers; None: the model's own
    strength: float = 0.8  # 0..1, image-to-image and inpainting: how much of the source is drawn anew
    sources: tuple[Pixels, ...] = ()
    mask: Pixels | None = None
    adapters: tuple[Adapter, ...] = ()  # by name, none twice, none of weight 0
    controls: tuple[Control, ...] = ()  # in the request's order, none of weight 0
    kept: Pixels | None = None  # width × height, shown untouched where the mask is 0; None: the first source
    matting: str | None = None  # what cuts the object from its ground (pipelines.pictures.matting); None: nothing does
    prompt_weights: bool = False  # are the prompts read by pipelines.facts.prompt_weights?
    spacing: str = "default"  # a name of pipelines.facts.spacing
    sigmas: str = "default"  # a name of pipelines.facts.schedulers.SIGMAS; default: the scheduler's own
    window: Window | None = None  # of kept: sources and mask are this part of it, and the rest of it is shown untouched
    step_cache: float = 0.0  # 0..1: how many steps are told from others (pipelines.facts.step_cache)
    upscaler: str | None = None  # by name: what enlarges what is drawn, in place of Lanczos
    only_enlarges: bool = False  # nothing is drawn: the source itself is enlarged

    @property
    def task(self) -> Task:
        if not self.sources:
            return Task.TEXT_TO_IMAGE
        return Task.INPAINTING if self.mask is not None else Task.IMAGE_TO_IMAGE


class Picture(msgspec.Struct, frozen=True):
    """One finished image, encoded."""

    index: int  # which of the drawing's specs
    data: bytes
    mime: str  # image/png, image/jpeg or image/webp
    width: int  # pixels
    height: int
    seed: int
    transparent: bool = False  # anywhere
    upscaler: str | None = None  # by name: what enlarged it; None: Lanczos, or nothing
