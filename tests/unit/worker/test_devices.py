"""Which devices the setting stands for, on machines that are described."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from server.errors import ConfigError
from server.settings import Settings, read_settings
from server.worker import cores, devices, launch
from server.worker.cores import Cores
from server.worker.devices import Card, WorkerDevice, find

ONE, TWO = "GPU-11111111-aaaa-0000-0000-000000000001", "GPU-22222222-bbbb-0000-0000-000000000002"
PART = "MIG-33333333-cccc-0000-0000-000000000003"
RADEONS = (Card("", "Radeon RX 7900 XTX", 24 << 30), Card("", "Radeon PRO W7800", 32 << 30))
GRAPHICS = Card("", "AMD Radeon Graphics", 512 << 20, usable=False)  # in the processor
CARDS = (Card(ONE, "RTX 4090", 24 << 30), Card(TWO, "RTX 3060", 12 << 30))

Find = Callable[..., tuple[WorkerDevice, ...]]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Find:
    """Reads the setting on a machine with these cards."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("HIP_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(cores, "read", lambda root: Cores(16, 8))

    def look(
        words: str, cards: tuple[Card, ...] | str = CARDS, amd: tuple[Card, ...] | str | None = None, **settings: object
    ) -> tuple[WorkerDevice, ...]:
        (tmp_path / "dev").mkdir(exist_ok=True)
        if cards:
            (tmp_path / "dev/nvidiactl").touch()
        if amd is not None:
            (tmp_path / "dev/kfd").touch()

        def rocm() -> tuple[Card, ...] | str:
            assert amd is not None, "no torch is imported where there is no such card"
            assert not cards, "nor where there is NVIDIA's"
            return amd

        def census(visible: str) -> tuple[Card, ...] | str:
            if visible:
                return (Card(visible, "A100 MIG 1g", 5 << 30),) if visible == PART else "the driver shows no device"
            return cards

        return find(Settings(devices=words, **settings), census, tmp_path, rocm)  # type: ignore[arg-type]

    return look


def told(found: tuple[WorkerDevice, ...]) -> list[tuple[str, str, str]]:
    return [(device.name, device.setting, device.visible) for device in found]


@pytest.mark.parametrize("word", ["auto", "cuda"])
def test_every_card_has_a_worker_that_sees_it_alone(machine: Find, word: str) -> None:
    """Each child made a context on the first card, too."""
    found = machine(word)
    assert told(found) == [("cuda:0", "cuda", ONE), ("cuda:1", "cuda", TWO)]
    assert all(device.optional and device.refuses_full and device.share == 2 for device in found)


@pytest.mark.parametrize("word", ["auto", "cuda"])
@pytest.mark.parametrize("cards", [(), CARDS[:1], "the driver did not answer within 60 s"])
def test_a_machine_with_one_device_is_left_to_its_worker(machine: Find, word: str, cards: tuple[Card, ...]) -> None:
    (found,) = machine(word, cards)
    assert found == WorkerDevice(setting=word, threads=8 if word == "auto" else None), "auto may be the CPU"
    assert all(map(found.answers_to, ("cuda", "cuda:0"))), "models.yaml may bind a model to it by the same words"
    assert found.answers_to(ONE) == (cards == CARDS[:1])


def test_named_devices_are_those_and_in_that_order(machine: Find) -> None:
    assert told(machine("cuda:1")) == [("cuda:1", "cuda", TWO)]
    found = machine(f" {TWO[:12].lower()}, cuda:0".replace("gpu", "GPU"))
    assert [(device.setting, device.visible) for device in found] == [("cuda", TWO), ("cuda", ONE)]
    assert all(device.refuses_full and not device.optional for device in found)
    assert told(machine(PART)) == [(PART, "cuda", PART)]
    assert found[0].answers_to(TWO)
    assert found[0].answers_to("cuda:1")
    assert found[0].answers_to("cuda")
    assert not found[0].answers_to("cuda:0")


def test_workers_on_the_cpu_share_its_cores(machine: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [(device.name, device.threads, device.share) for device in machine("cpu,cpu", ())] == [
        ("cpu:0", 4, 2),
        ("cpu:1", 4, 2),
    ]
    assert [device.threads for device in machine("cpu,cpu", (), threads=1)] == [1, 1]
    assert [(device.name, device.threads) for device in machine("cpu", ())] == [("cpu", 8)]
    assert [(device.name, device.threads) for device in machine("cpu,cuda:0")] == [("cpu", 8), ("cuda:0", None)]
    assert [device.threads for device in machine("cpu,cuda:0", threads=3)] == [3, None]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert [device.threads for device in machine("cpu,cpu", ())] == [None, None], "the owner's own word"
    assert [device.threads for device in machine("cpu,cpu", (), threads=3)] == [3, 3], "unless there is a nearer one"


@pytest.mark.parametrize(
    ("words", "cards", "says"),
    [
        ("cuda:2", CARDS, "cuda:2 is not there; this machine shows cuda:0 (RTX 4090, "),
        ("cuda:0,cuda:0", CARDS, "cuda:0 is named twice; name each device once"),
        (f"cuda:1,{TWO}", CARDS, f"{TWO} is named twice (cuda:1 is the same)"),
        ("GPU-99", CARDS, "GPU-99 is not there"),
        ("MIG-99", CARDS, "MIG-99 is not there; `nvidia-smi -L` lists"),
        ("cuda:0", (), "cuda:0 is not there: this machine shows no NVIDIA device"),
        ("cuda:0", "cuInit of the driver failed with code 803", "cuda:0 is not there: cuInit of the driver failed"),
        ("mps,mps", (), "mps is named twice"),
    ],
)
def test_a_device_that_cannot_be_meant_stops_the_start(
    machine: Find, words: str, cards: tuple[Card, ...] | str, says: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        machine(words, cards)
    assert str(raised.value).startswith(f"DARKROOM_DEVICES (--devices) = {words}: ")
    assert says in str(raised.value)


def test_a_device_that_is_hidden_is_told_so(machine: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES is set and may hide it"):
        machine("cuda:1", CARDS[:1])


@pytest.mark.parametrize("word", ["auto", "cuda"])
def test_every_amd_card_has_a_worker_that_sees_it_alone(
    machine: Find, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first was taken alone, as nobody asked how many there are."""
    found = machine(word, (), RADEONS)
    assert told(found) == [("cuda:0", "cuda", "0"), ("cuda:1", "cuda", "1")]
    assert all(device.optional and device.visible_by == "HIP_VISIBLE_DEVICES" for device in found)
    assert not found[0].answers_to(""), "it has no UUID"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,2")
    assert told(machine("cuda:1", (), RADEONS)) == [("cuda:1", "cuda", "2")]
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "5,7")  # the runtime heeds it alone
    assert told(machine("cuda:1", (), RADEONS)) == [("cuda:1", "cuda", "7")]


def test_the_worker_of_an_amd_card_is_shown_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA_VISIBLE_DEVICES was set, which the runtime passes by where the owner has set HIP_VISIBLE_DEVICES."""
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "5,7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    seen = launch.environment(WorkerDevice("cuda:1", "cuda", "7", "HIP_VISIBLE_DEVICES"))
    assert (seen["HIP_VISIBLE_DEVICES"], seen.get("CUDA_VISIBLE_DEVICES")) == ("7", None)
    assert launch.environment(WorkerDevice("cuda:0", "cuda", ONE))["CUDA_VISIBLE_DEVICES"] == ONE


def test_a_processors_graphics_are_no_card_to_draw_on(machine: Find) -> None:
    """torch has no kernels for them, and a worker there would die at its first picture."""
    assert told(machine("auto", (), (GRAPHICS, *RADEONS))) == [("cuda:1", "cuda", "1"), ("cuda:2", "cuda", "2")]
    assert told(machine("auto", (), (GRAPHICS, RADEONS[0]))) == [("", "auto", "1")]
    assert told(machine("auto", (), (GRAPHICS,))) == [("", "auto", "")], "its worker says why not"
    assert told(machine("auto", (), RADEONS[:1])) == [("", "auto", "")]


def test_amds_cards_are_taken_by_number_where_torch_does_not_tell_them(
    machine: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = "torch is no build for ROCm, which AMD's cards need"
    assert told(machine("auto", (), silent)) == [("", "auto", "")]
    found = machine("cuda:1,cuda:0", (), silent)
    assert [(device.visible, device.visible_by) for device in found] == [
        ("1", "HIP_VISIBLE_DEVICES"),
        ("0", "HIP_VISIBLE_DEVICES"),
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,2")
    assert told(machine("cuda:1", (), silent)) == [("cuda:1", "cuda", "2")]
    with pytest.raises(ConfigError, match=r"GPU-99 is not there: torch is no build for ROCm"):
        machine("GPU-99", (), silent)


def test_an_amd_card_that_is_not_there_stops_the_start(machine: Find) -> None:
    with pytest.raises(ConfigError, match=r"this machine shows cuda:0 \(Radeon RX 7900 XTX\), cuda:1 \("):
        machine("cuda:2", (), RADEONS)


@pytest.mark.parametrize("words", ["gpu", "cuda:x", "auto,cpu", "cpu,", "cuda,cuda:0", "", "cuda:0;cuda:1"])
def test_words_that_name_no_device_are_refused(words: str) -> None:
    with pytest.raises(ConfigError, match=r"DARKROOM_DEVICES \(--devices\) = '[^']*': must be auto, cpu, cuda"):
        read_settings(devices=words)


def test_the_old_name_stands_for_the_new_one() -> None:
    settings = read_settings(device="cpu")
    assert (settings.device_words, settings.device_kind) == (("cpu",), "cpu")
    assert settings.devices_as_set == "DARKROOM_DEVICE (--device) = cpu"
    with pytest.raises(ConfigError, match="is the old name of DARKROOM_DEVICES"):
        read_settings(device="cpu", devices="cpu,cpu")


def test_who_asks_the_driver_outlives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that hangs, or is not there, is a sentence and no crash: it is asked by a process of its own."""
    monkeypatch.setenv("DARKROOM_SIGNING_KEY", "x" * 20)
    given: list[dict[str, str]] = []
    run: Callable[..., object] = subprocess.run

    def watched(*args: object, env: dict[str, str], **how: object) -> object:
        given.append(env)
        return run(*args, env=env, **how)

    monkeypatch.setattr(subprocess, "run", watched)
    said = devices.ask()
    assert isinstance(said, str) or all(card.uuid.startswith(("GPU-", "MIG-")) for card in said)
    assert devices.ask_torch() == "torch is no build for ROCm, which AMD's cards need" or torch.version.hip
    monkeypatch.setattr(devices, "_TIMEOUT_S", 0.0)
    assert devices.ask() == "the driver did not answer within 0 s"
    assert given
    assert not [name for env in given for name in env if name.startswith("DARKROOM_")]
