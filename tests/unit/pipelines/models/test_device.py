"""Which device and type a worker takes, and the sentence where it cannot take the one that is asked for."""

from __future__ import annotations

import pytest
import torch

from pipelines.models.device import DeviceRefused, Machine, choose, choose_dtype, has_kernels

CU130 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
OLD_DRIVER = "The NVIDIA driver on your system is too old (found version 12040)."


class Fake(Machine):
    """A machine with one card. Names one change for each case."""

    torch_version = "2.13.0+cu130"

    def __init__(
        self,
        *,
        built: str = "cuda",
        available: str = "cuda",
        card: bool = True,
        capability: tuple[int, int] = (8, 9),
        bfloat16: bool = True,
    ) -> None:
        self.built, self.available, self.card = built, available, card
        self._capability, self._bfloat16 = capability, bfloat16

    def built_for_cuda(self) -> bool:
        return self.built != "cpu"

    def built_for_rocm(self) -> bool:
        return self.built == "rocm"

    def is_available(self, kind: str) -> bool:
        return kind == self.available

    def has_card(self) -> bool:
        return self.card

    def why_no_cuda(self) -> str:
        return OLD_DRIVER

    def name(self) -> str:
        return "NVIDIA GeForce RTX 4090"

    def capability(self) -> tuple[int, int]:
        return self._capability

    def architectures(self) -> list[str]:
        return ["gfx942"] if self.built == "rocm" else CU130

    def has_bfloat16(self) -> bool:
        return self._bfloat16


@pytest.mark.parametrize("setting", ["auto", "cuda"])
@pytest.mark.parametrize("built", ["cuda", "rocm"])
def test_a_card_that_can_be_used_is_taken(setting: str, built: str) -> None:
    choice = choose(setting, Fake(built=built))
    assert (choice.device.type, choice.name, choice.problem) == ("cuda", "NVIDIA GeForce RTX 4090", "")


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        (Fake(built="cpu"), r"torch 2\.13\.0\+cu130 is a build without CUDA"),
        (Fake(available=""), "driver on your system is too old"),
        (Fake(capability=(6, 1)), r"RTX 4090 has compute capability 6\.1; torch .* has kernels for sm_75, "),
    ],
    ids=["build", "driver", "kernels"],
)
def test_a_card_that_cannot_be_used_is_said_to_be(machine: Machine, reason: str) -> None:
    """FLUX.1 was loaded in float32 on the CPU, or every model was broken by "no kernel image", without a word."""
    with pytest.raises(DeviceRefused, match=reason):
        choose("cuda", machine)
    choice = choose("auto", machine)
    assert choice.device.type == "cpu"
    with pytest.raises(DeviceRefused) as refused:
        choose("cuda", machine)
    assert choice.problem == str(refused.value)


def test_a_machine_without_a_card_has_no_problem() -> None:
    assert choose("auto", Fake(available="", card=False)).problem == ""
    assert choose("cpu", Fake()).device.type == "cpu"


def test_a_device_that_is_hidden_by_the_environment_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert "CUDA_VISIBLE_DEVICES is set" in choose("auto", Fake(available="")).problem


@pytest.mark.parametrize("kind", ["mps", "xpu"])
def test_other_devices_are_taken_where_torch_has_them(kind: str) -> None:
    assert choose(kind, Fake(available=kind)).device.type == kind
    with pytest.raises(DeviceRefused, match=f"has no {kind} device"):
        choose(kind, Fake(available="cuda"))


@pytest.mark.parametrize(
    ("capability", "architectures", "run"),
    [
        ((7, 0), CU130, False),
        ((7, 5), CU130, True),
        ((8, 9), CU130, True),  # an RTX 4090 runs what was made for 8.6
        ((10, 3), CU130, True),
        ((11, 0), CU130, False),
        ((12, 1), CU130, True),
        ((13, 0), CU130, True),  # translated by the driver
        ((13, 0), CU130[:-1], False),
        ((9, 0), ["sm_90a"], True),
        ((9, 1), ["sm_90a"], False),
        ((10, 3), ["sm_100f"], True),
        ((6, 1), [], True),
    ],
)
def test_kernels_run_on_cards_of_their_generation(
    capability: tuple[int, int], architectures: list[str], run: bool
) -> None:
    assert has_kernels(capability, architectures) is run


@pytest.mark.parametrize(
    ("kind", "bfloat16", "expected"),
    [
        ("cuda", True, torch.bfloat16),
        ("cuda", False, torch.float16),
        ("cpu", True, torch.float32),
        ("mps", True, torch.float16),
        ("xpu", True, torch.bfloat16),
    ],
)
def test_bfloat16_is_for_cards_that_have_it(kind: str, bfloat16: bool, expected: torch.dtype) -> None:
    """A T4 or an RTX 20xx emulated it, without tensor cores."""
    machine = Fake(bfloat16=bfloat16)
    assert choose_dtype("auto", torch.device(kind), machine) is expected
    assert choose_dtype("float32", torch.device(kind), machine) is torch.float32


def test_this_machine_answers_every_question() -> None:
    """Whatever it is: a question that fails would end every worker's start."""
    machine = Machine()
    assert isinstance(machine.has_card(), bool)
    if not machine.is_available("cuda"):
        assert machine.why_no_cuda()
    assert choose("auto").device.type in ("cpu", "cuda")
    assert not machine.is_available("mps") or not machine.is_available("xpu")


@pytest.mark.parametrize(
    ("stored", "has", "expected"),
    [
        (2 << 30, True, torch.bfloat16),
        (2 << 30, False, torch.float32),
        (1 << 30, True, torch.float32),
        (0, True, torch.float32),
    ],
)
def test_auto_on_a_cpu_with_bfloat16_for_models_of_real_size(stored: int, has: bool, expected: torch.dtype) -> None:
    """SDXL took 13.5 GB in float32, and twice the time."""

    class Here(Machine):
        def has_cpu_bfloat16(self) -> bool:
            return has

    cpu = torch.device("cpu")
    assert choose_dtype("auto", cpu, Here(), stored_bytes=stored) is expected
    assert choose_dtype("float32", cpu, Here(), stored_bytes=stored) is torch.float32
    assert choose_dtype("float16", cpu, Here(), stored_bytes=stored) is torch.float16


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"avx512_bf16": False, "avx2": True}, False),
        ({}, False),
    ],
)
def test_what_torch_says_of_the_cpu(
    capabilities: dict[str, object], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert Machine().has_cpu_bfloat16() is expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert Machine().has_cpu_bfloat16() is False
