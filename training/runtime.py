"""How the long runs behave: threads, seeds, precision, the clock, averages of weights.

Knows torch, files and time; knows nothing of pictures or words.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("DARKROOM_BUILD", ROOT / "build"))  # everything that can be made again
ART = Path(os.environ.get("DARKROOM_ART", ROOT / ".art"))  # where `npm install` put the art
MAX_DECAY = 0.999  # of the average of weights


def set_up(seed: int) -> None:
    """One thread unless `OMP_NUM_THREADS` says otherwise, no denormals, a fixed seed, and the folder."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(seed)
    BUILD.mkdir(exist_ok=True)


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where the device multiplies it faster than float32; elsewhere it is many times slower."""
    fast = device.type != "cpu" or torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state so that a crash leaves the old file or the new one, never half of one."""
    part = path.with_suffix(".part")
    torch.save(dict(state), part)
    part.replace(path)


def restore(path: Path) -> dict[str, Any] | None:
    """The state in a file; None if there is no such file."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


class EMA:
    """Exponential moving average of a network's weights, on the network's device."""

    def __init__(self, net: nn.Module, decay: float = MAX_DECAY) -> None:
        self.decay, self.updates = decay, 0
        self.weights = {k: v.detach().float().clone() for k, v in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Move the average towards the network's weights; the first updates move it further."""
        self.updates += 1
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        new = net.state_dict()  # in another order than weights that came from a file
        torch._foreach_lerp_(list(self.weights.values()), [new[key].float() for key in self.weights], 1 - keep)


class Clock:
    """What is left of the time that a whole run may take.

    SIGTERM ends the run as the clock does: after the step, so that what there is gets saved.
    """

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self.now, self.ends, self.asked_to_stop = now, now() + seconds, False

    def listen(self) -> None:
        """Take SIGTERM."""
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.asked_to_stop = True

    @property
    def left(self) -> float:
        """Seconds."""
        return 0.0 if self.asked_to_stop else max(0.0, self.ends - self.now())

    def shown(self) -> str:
        """The time left, as minutes and seconds."""
        minutes, seconds = divmod(round(self.left), 60)
        return f"{minutes}:{seconds:02} left"


class Span:
    """A stage's share of the clock, and the learning rate in it.

    Progress is counted in time: the run must end on its minute, however fast the machine turns out to be.
    """

    def __init__(self, clock: Clock, seconds: float, decay_from: float = 0.4) -> None:
        self.clock, self.seconds, self.decay_from = clock, seconds, decay_from
        self.began = self.last = clock.now()
        self.longest_s = 0.0  # of a step

    def step(self) -> None:
        """Note that a step has ended."""
        now = self.clock.now()
        self.longest_s, self.last = max(0.9 * self.longest_s, now - self.last), now

    def rest(self) -> None:
        """Note that something else than a step has ended."""
        self.last = self.clock.now()

    @property
    def passed(self) -> float:
        """Seconds since the beginning."""
        return self.clock.now() - self.began

    @property
    def going(self) -> bool:
        """Whether there is time for another step."""
        return not self.clock.asked_to_stop and self.passed + self.longest_s < self.seconds

    @property
    def done(self) -> float:
        """Share of the time: 0 at the start, 1 at the end."""
        return min(1.0, self.passed / self.seconds) if self.seconds > 0 else 1.0

    def rate(self, peak: float, done: float | None = None) -> float:
        """Learning rate after this share of the time: a short linear warm-up, a plateau, a linear decay to zero."""
        done = self.done if done is None else done
        rise = min(1.0, 0.02 + done / 0.02)
        return peak * rise * min(1.0, max(0.0, (1 - done) / (1 - self.decay_from)))


def finite(weights: Mapping[str, Tensor]) -> bool:
    """Whether no weight is infinite or not a number."""
    return all(bool(weight.isfinite().all()) for weight in weights.values())
