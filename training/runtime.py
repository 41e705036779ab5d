"""How the long runs behave: threads, seeds, checkpoints, progress.

Knows torch and files; knows nothing of pictures or words. A checkpoint is a dictionary: `average` holds the EMA
weights, `samples` says how many samples they have learnt from, and a network that trains on has `net` and `optimizer`.
"""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("DARKROOM_BUILD", ROOT / "build"))  # everything that can be made again
ART = Path(os.environ.get("DARKROOM_ART", ROOT / ".art"))  # where `npm install` put the art
CHECKPOINTS = ROOT / "checkpoints"


def set_up(seed: int) -> None:
    """One thread unless `OMP_NUM_THREADS` says otherwise, no denormals, a fixed seed, and the folders."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.set_flush_denormal(True)
    torch.manual_seed(seed)
    BUILD.mkdir(exist_ok=True)
    CHECKPOINTS.mkdir(exist_ok=True)


def autocast() -> torch.autocast:
    """bfloat16 where the processor multiplies it faster than float32; elsewhere it is many times slower."""
    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast("cpu", torch.bfloat16, enabled=fast)


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint so that a crash leaves the old one or the new one, never half of one."""
    part = path.with_suffix(".part")
    torch.save(dict(state), part)
    part.replace(path)


def restore(path: Path) -> dict[str, Any] | None:
    """The state in a checkpoint; None if there is no such file."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def samples_of(path: Path) -> int:
    """How many samples the network of a checkpoint has learnt from."""
    state = restore(path)
    return int(state["samples"]) if state else 0


def half(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights at half their size, for the disk."""
    return {key: t.half() if t.is_floating_point() else t for key, t in state.items()}


class EMA:
    """Exponential moving average of a network's weights."""

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.weights = {k: v.detach().float().clone() for k, v in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Move the average towards the network's weights; the first updates move it further."""
        self.updates += 1
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        new = net.state_dict()  # in another order than weights that came from a file
        torch._foreach_lerp_(list(self.weights.values()), [new[key] for key in self.weights], 1 - keep)


class TrainingSchedule:
    """How far a training has come, and the learning rate there.

    Progress is counted in samples: a clock would count pauses. SIGTERM ends the training after its step, so that the
    loop saves what it has.
    """

    def __init__(self, target: int, seen: int, decay_from: float = 0.6) -> None:
        self.target, self.seen, self.decay_from = target, seen, decay_from
        self.began, self.first, self.asked_to_stop = time.monotonic(), seen, False
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.asked_to_stop = True

    @property
    def going(self) -> bool:
        """Whether another step is due."""
        return self.seen < self.target and not self.asked_to_stop

    @property
    def done(self) -> float:
        """Share of the target: 0 at the start, 1 at the target."""
        return self.seen / self.target

    @property
    def pace(self) -> float:
        """Samples a second since this process began."""
        return (self.seen - self.first) / (time.monotonic() - self.began)

    def rate(self, peak: float) -> float:
        """Learning rate: a short linear warm-up after every start, a plateau, a linear decay to zero."""
        rise = min(1.0, 0.02 + (self.seen - self.first) / (0.01 * self.target))
        return peak * rise * min(1.0, max(0.0, (1 - self.done) / (1 - self.decay_from)))
