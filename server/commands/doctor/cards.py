"""What a card should do, from its maker's data sheet: the base of an estimate, never of a decision.

Knows cards and the work of a step; nothing here was measured by this project.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.facts.families import Family

# Share of the data sheet's rate that a diffusion step reaches: SDXL's kernels reached 0.29 on an H200 (docs/gpu.md),
# large transformers reach about twice that.
_REACHED = (0.25, 0.6)
_TFLOP_A_ROW = {"stable-diffusion": 0.8, "stable-diffusion-xl": 6.0}  # a forward at the native size, published counts
# Transformers with 16 pixels a token each way: two operations a parameter and token.
_TRANSFORMERS = frozenset({"stable-diffusion-3", "flux", "flux-kontext", "flux2", "qwen-image", "z-image", "chroma"})
_PIXELS_A_TOKEN = 16 * 16
_TEXT_TOKENS = 512


@dataclass(frozen=True)
class Card:
    """A data sheet: dense half-precision matrix rate with float32 sums, and the bandwidth of the memory."""

    name: str  # as the driver spells it, in part
    tflops: float
    gb_per_s: float
    source: str


CARDS = (
    Card("H200", 989, 4800, "NVIDIA H200 data sheet, SXM, half of the rate with sparsity"),
    Card("H100 PCIe", 756, 2000, "NVIDIA H100 data sheet, PCIe, half of the rate with sparsity"),
    Card("H100", 989, 3350, "NVIDIA H100 data sheet, SXM, half of the rate with sparsity"),
    Card("A100", 312, 2039, "NVIDIA A100 data sheet, 80 GB SXM"),
    Card("L40S", 362, 864, "NVIDIA L40S data sheet, half of the rate with sparsity"),
    Card("L4", 121, 300, "NVIDIA L4 data sheet, half of the rate with sparsity"),
    Card("A10", 125, 600, "NVIDIA A10 data sheet"),
    Card("T4", 65, 320, "NVIDIA T4 data sheet, float16"),
    Card("RTX 5090", 209, 1792, "NVIDIA RTX Blackwell whitepaper"),
    Card("RTX 4090", 165, 1008, "NVIDIA Ada whitepaper"),
    Card("RTX 3090", 71, 936, "NVIDIA Ampere GA102 whitepaper"),
)


def find(name: str) -> Card | None:
    """The data sheet of a device; None where it is not known. L40 is no L4, and RTX 4090 Laptop no RTX 4090."""
    if "laptop" in name.lower():
        return None
    words = name.split()
    for card in CARDS:
        wanted = card.name.split()
        parts = (words[start : start + len(wanted)] for start in range(len(words)))
        if any(len(part) == len(wanted) and all(map(_same, wanted, part)) for part in parts):
            return card
    return None


def _same(wanted: str, word: str) -> bool:
    return word == wanted or word.startswith(f"{wanted}-")  # "A100-SXM4-80GB"


def seconds_a_step(card: Card, family: Family, elements: int, pixels: int) -> tuple[float, float] | None:
    """Least and most that a step of one picture should take; None where the work of a step is not known."""
    rows = 2 if family.negative_above <= 1 and family.guidance > 1 else 1
    if family.name in _TFLOP_A_ROW:
        work = _TFLOP_A_ROW[family.name] * pixels / family.native**2
    elif family.name in _TRANSFORMERS:
        work = 2 * elements * (pixels / _PIXELS_A_TOKEN + _TEXT_TOKENS) / 1e12
    else:
        return None
    slow, fast = _REACHED
    return rows * work / card.tflops / fast, rows * work / card.tflops / slow
