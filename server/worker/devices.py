"""Which devices this server draws on: the setting, read against what is there. One worker is made for each.

Knows the setting, the files of the system that show a card, and the census, a process that asks the driver; imports no
torch. The driver is asked rather than NVML or nvidia-smi, as its numbers are torch's: both obey CUDA_VISIBLE_DEVICES
and order alike. A worker is then shown one device by its UUID, which no order changes.
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
_CARDS = ("dev/nvidiactl", "dev/nvidia0", "dev/dxg", "dev/nvmap")  # Linux, WSL, Jetson
_AMD = "dev/kfd"  # their driver is asked by no census
_TIMEOUT_S = 60.0  # of a driver that has to wake eight cards


@dataclass(frozen=True)
class Card:
    """One CUDA device that this process could see."""

    uuid: str
    name: str
    total_bytes: int


@dataclass(frozen=True)
class WorkerDevice:
    """One device, and what its worker is to be told."""

    name: str = ""  # among the devices of this server; empty: the only one, and its worker says what it is
    setting: str = "auto"  # for pipelines.models.device: auto, cpu, cuda, mps or xpu
    visible: str = ""  # the value of CUDA_VISIBLE_DEVICES for its worker; empty: ours
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


def find(settings: Settings, census: Census | None = None, root: Path = Path("/")) -> tuple[WorkerDevice, ...]:
    """The devices that the setting stands for on this machine. Raises ConfigError naming the setting and a remedy.

    A machine with one device has it without a name, and its worker chooses as the setting says.
    """
    words = settings.device_words
    finder = _Finder(settings, census or ask, root)
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

    def __init__(self, settings: Settings, census: Census, root: Path) -> None:
        self._settings = settings
        self._census = census
        self._root = root
        self._cards: tuple[Card, ...] | str | None = None  # asked once

    def all_cards(self, word: str) -> list[WorkerDevice]:
        """A device for every card; one that the worker is to choose where there are not several."""
        cards = self._ask()
        if isinstance(cards, str) or len(cards) < 2:
            uuids = () if isinstance(cards, str) else tuple(card.uuid for card in cards)
            return [WorkerDevice(setting=word, other_names=("cuda:0", *uuids) if word == "cuda" else uuids)]
        return [_of_card(card, number, optional=True) for number, card in enumerate(cards)]

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
            if (self._root / _AMD).exists() and not self._has_card() and word.startswith("cuda:"):
                return WorkerDevice(word, "cuda", _visible_number(word), refuses_full=True)
            raise self._error(f"{word} is not there: {cards}")
        for number, card in enumerate(cards):
            if word == f"cuda:{number}" or (word.startswith("GPU-") and card.uuid.lower().startswith(word.lower())):
                return replace(_of_card(card, number), name=word, refuses_full=True)
        there = ", ".join(f"cuda:{number} ({card.name}, {card.uuid})" for number, card in enumerate(cards))
        hidden = f"; {_VISIBLE} is set and may hide it" if _VISIBLE in os.environ else ""
        raise self._error(f"{word} is not there; this machine shows {there or 'no CUDA device'}{hidden}")

    def _ask(self) -> tuple[Card, ...] | str:
        if self._cards is None:
            self._cards = self._census("") if self._has_card() else self._nothing()
        return self._cards

    def _has_card(self) -> bool:
        return any((self._root / node).exists() for node in _CARDS)

    def _nothing(self) -> str:
        return "this machine shows no NVIDIA device; leave it out, or see that the driver is there"

    def _error(self, message: str) -> ConfigError:
        return ConfigError(f"{self._settings.devices_as_set}: {message}")


def _of_card(card: Card, number: int, *, optional: bool = False) -> WorkerDevice:
    return WorkerDevice(
        f"cuda:{number}",
        "cuda",
        card.uuid,
        optional=optional,
        refuses_full=optional,
        other_names=(card.uuid, f"cuda:{number}"),
    )


def _visible_number(word: str) -> str:
    """The device that torch calls cuda:N here, as CUDA_VISIBLE_DEVICES calls it."""
    number = int(word.partition(":")[2])
    shown = [each for each in os.environ.get(_VISIBLE, "").split(",") if each]
    return shown[number] if number < len(shown) else str(number)


def ask(visible: str = "") -> tuple[Card, ...] | str:
    """The cards that a process sees which has this value of CUDA_VISIBLE_DEVICES, ours if empty; or why nobody says."""
    outer: Mapping[str, str] = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    if visible:
        outer = {**outer, _VISIBLE: visible}
    try:
        done = subprocess.run(  # noqa: S603, our own module
            interpreter.python("server.worker.census"),
            capture_output=True,
            text=True,
            env=interpreter.environment(outer),
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
