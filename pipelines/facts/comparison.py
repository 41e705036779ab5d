"""What ``darkroom models compare`` draws and what it finds: the nouns that the command and its process share.

Plain frozen data, and the judgement of it; no torch. What a model draws alone is held against what it draws in company,
and against what it draws with steps left out.
"""

from __future__ import annotations

import statistics
from enum import StrEnum
from itertools import islice, product

import msgspec

from pipelines.plan import ModelPlan
from pipelines.spec import Adapter, ImageSpec

MIN_PROMPTS, MAX_PROMPTS = 2, 32  # one has no company
CONVERGED = 4  # times the steps: what they draw is taken for the converged picture
MAX_CONVERGED_STEPS = 1000  # diffusers' schedules have no more
MIN_CLEAR_DB = 2.0  # between medians of a few prompts, less says nothing

_THINGS = (
    "a red apple",
    "a cat on a chair",
    "a castle above a lake, seen from far away",
    "a bowl of soup",
    "an old man with a hat and a long white beard",
    "a red car in a street full of people",
    "two dogs on a beach",
    "a blue bird on a branch, a mountain behind it",
)  # of several lengths, as prompts are
_PLACES = ("", " at sunset", " in the snow", ", drawn with a pencil")

# Levels of 255, by the dtype of the weights: docs/models.md tells what they come from.
_TOLERANCE_EXACT, _TOLERANCE_HALF = 1.0, 4.0


class Company(StrEnum):
    """What a picture that was drawn alone is held against: itself drawn beside others."""

    PLAIN = "beside others"
    ADAPTED = "beside some with LoRAs"
    WITHOUT = "with LoRAs, beside others without"
    CACHED = "beside some with the step cache"


class Comparison(msgspec.Struct, frozen=True):
    """What is to be drawn: for each prompt one picture, of as many steps, and other ways to draw it."""

    plan: ModelPlan
    specs: tuple[ImageSpec, ...]  # one a prompt, without adapters and step cache
    adapters: tuple[Adapter, ...] = ()  # taken in turn
    step_cache: float = 0.0  # the strength to compare; 0: it cannot act

    @property
    def steps(self) -> int:
        return self.specs[0].steps


class Difference(msgspec.Struct, frozen=True):
    """The absolute differences of pictures from others, in levels of 255, before they are rounded to bytes."""

    max: float
    mean: float
    p99: float  # of the picture where it is largest


class Likeness(msgspec.Struct, frozen=True):
    """How near pictures are to others, by prompt."""

    psnr: tuple[float, ...]  # dB
    ssim: tuple[float, ...]


class Shared(msgspec.Struct, frozen=True):
    """Pictures that were drawn in company, against the same drawn alone."""

    company: Company
    difference: Difference
    rows: float  # a forward of the denoiser


class LeftOut(msgspec.Struct, frozen=True):
    """Pictures with steps left out, and those of as many plain steps; ``computed`` has the former's by prompt."""

    computed: tuple[int, ...]
    cached: Difference  # from all steps, as the two below
    plain: Difference
    cached_to_full: Likeness
    plain_to_full: Likeness
    converged_steps: int
    full: Likeness  # to the converged pictures, as the two below
    cached_near: Likeness
    plain_near: Likeness


class Found(msgspec.Struct, frozen=True):
    """All that was found of a model."""

    device: str
    dtype: str
    rows_alone: float  # a forward
    shared: tuple[Shared, ...]
    left_out: LeftOut | None = None  # None: not asked for, or no step was
    adapters: tuple[Adapter, ...] = ()  # that were drawn with
    broken: dict[str, str] = {}  # adapters that could not be, and why
    mixed: bool = True  # do runs with different adapters share steps?
    retried: int = 0  # shared steps that failed and were tried again alone
    out_of_memory: int = 0

    def within(self, tolerance: float) -> bool:
        """Are all pictures that were drawn in company as near to those drawn alone? Judged by the 99th percentile of
        the worst picture: where rounding moves an edge, a few pixels differ by many levels."""
        return all(each.difference.p99 <= tolerance for each in self.shared)


class Nearer(StrEnum):
    """Which of two ways to spend as many forwards comes nearer to the converged pictures."""

    CACHED = "the step cache"
    PLAIN = "fewer plain steps"
    UNCLEAR = "neither, clearly"


def prompts(count: int) -> tuple[str, ...]:
    """So many different prompts, always the same; no more than MAX_PROMPTS."""
    return tuple(thing + place for place, thing in islice(product(_PLACES, _THINGS), count))


def tolerance(dtype: str) -> float:
    """How far apart pictures alone and in company may be, in levels of 255, if nobody says otherwise."""
    return _TOLERANCE_EXACT if dtype in ("float32", "float64") else _TOLERANCE_HALF


def nearer(left_out: LeftOut) -> Nearer:
    """Judged by the median PSNR and by how many prompts, in PSNR and in SSIM: where these disagree, it is unclear."""
    cached, plain = left_out.cached_near, left_out.plain_near
    gap = median(cached.psnr) - median(plain.psnr)
    half = len(cached.psnr) / 2
    votes = (wins(cached.psnr, plain.psnr), wins(cached.ssim, plain.ssim))
    if gap >= MIN_CLEAR_DB and min(votes) > half:
        return Nearer.CACHED
    lost = (wins(plain.psnr, cached.psnr), wins(plain.ssim, cached.ssim))
    return Nearer.PLAIN if gap <= -MIN_CLEAR_DB and min(lost) > half else Nearer.UNCLEAR


def wins(ours: tuple[float, ...], theirs: tuple[float, ...]) -> int:
    """For how many prompts ours are nearer."""
    return sum(mine > other for mine, other in zip(ours, theirs, strict=True))


def median(values: tuple[float, ...]) -> float:
    """Of an even number, the lower of the two in the middle."""
    return statistics.median_low(values)
