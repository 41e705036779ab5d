"""Cards that the fake device can be. Knows what a program asks a card for; knows nothing of how fast it is."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True)
class Card:
    """What torch.cuda tells of a card."""

    name: str
    total: int  # bytes
    free: int  # bytes, once a process has its context
    capability: tuple[int, int]


RTX_4090 = Card("NVIDIA GeForce RTX 4090", 25_250_627_584, 24_750_000_000, (8, 9))  # 24 GB
H100 = Card("NVIDIA H100 80GB HBM3", 85_029_158_912, 84_400_000_000, (9, 0))  # 80 GB


def small(mib: int) -> Card:
    """A card with ``mib`` MiB of memory, for tests in which it has to fill up."""
    return Card(f"a card of {mib} MiB", mib * MIB, mib * MIB, (8, 9))
