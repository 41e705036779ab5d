"""Which devices this server draws on: the setting, read against what is there. One worker is made for each.

Knows the setting, the files of the system that show a card, and the censuses, processes that ask for the cards; imports
no torch. NVIDIA's driver is asked rather than NVML or nvidia-smi, as its numbers are torch's: both obey
CUDA_VISIBLE_DEVICES and order alike. A worker is then shown one device by its UUID, which no order changes. Of AMD's
cards torch's own build for ROCm is asked, and a worker is shown one by its number.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from server import interpreter
from server.errors import ConfigError
from server.settings import ENV_PREFIX, Settings
from server.worker import cores

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_HIP_VISIBLE = "HIP_VISIBLE_DEVICES"  # AMD's: the first of the two that is set counts
_CARDS = ("dev/nvidiactl", "dev/nvidia0", "dev/dxg", "dev/nvmap")  # Linux, WSL, Jetson
_AMD = "dev/kfd"
_TIMEOUT_S = 60.0  # of a driver that has to wake eight cards
_CENSUS, _ROCM_CENSUS = "server.worker.census", "server.worker.child.rocm_census"


@dataclass(frozen=True)
class Card:
    """One device that this process could see, and that torch calls cuda: NVIDIA's or AMD's."""

    uuid: str  # empty: AMD's
    name: str
    total_bytes: int
    usable: bool = True  # has torch kernels for it? Of AMD's: a processor's own graphics are cards, too


@dataclass(frozen=True)
class WorkerDevice:
    """One device, and what its worker is to be told."""

    name: str = ""  # among the devices of this server; empty: the only one, and its worker says what it is
    setting: str = "auto"  # for pipelines.models.device: auto, cpu, cuda, mps or xpu
    visible: str = ""  # the value of this variable for its worker; empty: ours
    visible_by: str = _VISIBLE
    threads: int | None = None  # None: torch's choice, or what OMP_NUM_THREADS says
    share: int = 1  # so many workers share the host's memory and cores
    optional: bool = False  # left out where it cannot be used or is full
    refuses_full: bool = False
    other_names: Collection[str] = field(default=(), compare=False)

    @property
    def kind(self) -> str:
        """cpu, cuda, mps or xpu; empty where only the worker can say."""
        return "" if self.setting == "auto" else self.setting

    def answers_to(self, word: str) -> bool:
        """May it be named so, in models.yaml or by an admin? A kind stands for all devices of that kind."""
        if not self.name and not self.kind:
            return word in ("cpu", "cuda", "cuda:0", *self.other_names)
        return word in (self.name, self.kind, *self.other_names)


Census = Callable[[str], tuple[Card, ...] | str]
"""Asked with a value of CUDA_VISIBLE_DEVICES (empty: ours), it tells the cards, or why it cannot."""


def find(
    settings: Settings,
    census: Census | None = None,
    root: Path = Path("/"),
    rocm_census: Callable[[], tuple[Card, ...] | str] | None = None,
) -> tuple[WorkerDevice, ...]:
    """The devices that the setting stands for on this machine. Raises ConfigError naming the setting and a remedy.

    A machine with one device has it without a name, and its worker chooses as the setting says.
    """
    words = settings.device_words
    finder = _Finder(settings, census or ask, rocm_census or ask_torch, root)
    if words in (("auto",), ("cuda",)):
        found = finder.all_cards(words[0])
    else:
        found = finder.named(words)
    threads = threads_of(settings, sum(device.setting == "cpu" for device in found), root)
    return tuple(
        replace(device, share=len(found), threads=threads if device.setting in ("cpu", "auto") else None)
        for device in found
    )


def threads_of(settings: Settings, workers: int = 1, root: Path = Path("/")) -> int | None:
    """How many threads each of so many workers on the CPU has; None where the environment says it."""
    if isinstance(settings.threads, int):
        return settings.threads
    return None if cores.OWN_THREADS in os.environ else cores.read(root).threads(workers)


class _Finder:
    """One reading of the setting."""

    def __init__(
        self, settings: Settings, census: Census, rocm_census: Callable[[], tuple[Card, ...] | str], root: Path
    ) -> None:
        self._settings = settings
        self._census = census
        self._rocm_census = rocm_census
        self._root = root
        self._cards: tuple[Card, ...] | str | None = None  # asked once

    def all_cards(self, word: str) -> list[WorkerDevice]:
        """A device for every card; one that the worker is to choose where there are not several."""
        asked = self._ask()
        cards = () if isinstance(asked, str) else asked
        found = [_of_card(card, number, optional=True) for number, card in enumerate(cards) if card.usable]
        if len(found) > 1:
            return found
        names = tuple(card.uuid for card in cards if card.uuid)
        alone = WorkerDevice(setting=word, other_names=("cuda:0", *names) if word == "cuda" else names)
        if len(cards) > 1 and found:  # torch itself would take the first of them
            alone = replace(alone, visible=found[0].visible, visible_by=found[0].visible_by)
        return [alone]

    def named(self, words: tuple[str, ...]) -> list[WorkerDevice]:
        found: list[WorkerDevice] = []
        taken: dict[str, str] = {}
        cpus = words.count("cpu")
        for word in words:
            if word == "cpu":
                number = sum(device.setting == "cpu" for device in found)
                found.append(WorkerDevice("cpu" if cpus == 1 else f"cpu:{number}", "cpu"))
                continue
            device = WorkerDevice(word, word) if word in ("mps", "xpu") else self._card(word)
            identity = device.visible or word
            if identity in taken:
                same = "" if taken[identity] == word else f" ({taken[identity]} is the same)"
                raise self._error(f"{word} is named twice{same}; name each device once")
            taken[identity] = word
            found.append(device)
        return found

    def _card(self, word: str) -> WorkerDevice:
        if word.startswith("MIG-"):  # a process is shown one part at most unless it names another
            there = self._census(word) if self._has_card() else self._nothing()
            if isinstance(there, str) or len(there) != 1:
                raise self._error(f"{word} is not there; `nvidia-smi -L` lists the MIG parts of this machine")
            return WorkerDevice(word, "cuda", word, refuses_full=True)
        cards = self._ask()
        if isinstance(cards, str):
            if self._has_amd() and word.startswith("cuda:"):
                visible = _visible_number(int(word.partition(":")[2]))
                return WorkerDevice(word, "cuda", visible, _HIP_VISIBLE, refuses_full=True)
            raise self._error(f"{word} is not there: {cards}")
        for number, card in enumerate(cards):
            if word == f"cuda:{number}" or (word.startswith("GPU-") and card.uuid.lower().startswith(word.lower())):
                return replace(_of_card(card, number), name=word, refuses_full=True)
        there = ", ".join(
            f"cuda:{number} ({', '.join(filter(None, (card.name, card.uuid)))})" for number, card in enumerate(cards)
        )
        hiding = next((name for name in (_HIP_VISIBLE, _VISIBLE) if name in os.environ), None)
        hidden = f"; {hiding} is set and may hide it" if hiding else ""
        raise self._error(f"{word} is not there; this machine shows {there or 'no CUDA device'}{hidden}")

    def _ask(self) -> tuple[Card, ...] | str:
        if self._cards is None:
            if self._has_card():
                self._cards = self._census("")
            else:
                self._cards = self._rocm_census() if self._has_amd() else self._nothing()
        return self._cards

    def _has_card(self) -> bool:
        return any((self._root / node).exists() for node in _CARDS)

    def _has_amd(self) -> bool:
        return (self._root / _AMD).exists() and not self._has_card()

    def _nothing(self) -> str:
        return "this machine shows no NVIDIA device; leave it out, or see that the driver is there"

    def _error(self, message: str) -> ConfigError:
        return ConfigError(f"{self._settings.devices_as_set}: {message}")


def _of_card(card: Card, number: int, *, optional: bool = False) -> WorkerDevice:
    return WorkerDevice(
        f"cuda:{number}",
        "cuda",
        card.uuid or _visible_number(number),
        _VISIBLE if card.uuid else _HIP_VISIBLE,
        optional=optional,
        refuses_full=optional,
        other_names=tuple(filter(None, (card.uuid, f"cuda:{number}"))),
    )


def _visible_number(number: int) -> str:
    """AMD's device that torch calls cuda:N here, as HIP_VISIBLE_DEVICES calls it."""
    set_ = os.environ.get(_HIP_VISIBLE) or os.environ.get(_VISIBLE, "")
    shown = [each for each in set_.split(",") if each]
    return shown[number] if number < len(shown) else str(number)


def ask(visible: str = "") -> tuple[Card, ...] | str:
    """The cards that a process sees which has this value of CUDA_VISIBLE_DEVICES, ours if empty; or why nobody says."""
    return _ask(_CENSUS, {_VISIBLE: visible} if visible else {})


def ask_torch() -> tuple[Card, ...] | str:
    """AMD's cards that torch sees, which has to be its build for ROCm; or why nobody says. Takes as long as torch takes
    to be imported."""
    return _ask(_ROCM_CENSUS, {})


def _ask(module: str, more: Mapping[str, str]) -> tuple[Card, ...] | str:
    outer = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    try:
        done = subprocess.run(  # noqa: S603, our own module
            interpreter.python(module),
            capture_output=True,
            text=True,
            env=interpreter.environment({**outer, **more}),
            timeout=_TIMEOUT_S,
            check=False,
        )
        if done.returncode == 0:
            return tuple(Card(**each) for each in json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        return f"the driver did not answer within {_TIMEOUT_S:.0f} s"
    except (OSError, ValueError, TypeError) as error:
        return f"the driver cannot be asked: {type(error).__name__}"
    return (done.stderr.strip().splitlines() or ["the driver cannot be asked"])[-1]
