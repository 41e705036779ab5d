"""The command ``darkroom doctor``: exit codes, text and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from server.commands.doctor import inquiry
from server.commands.doctor.machine import GIB, has_cuda_device, read_host
from server.worker.child.inspection import Sizes
from tests.running import ROOT
from tests.unit.commands.command_line import run
from tests.unit.commands.doctor.machines import RTX_4090, on


def test_what_ships_fits_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    """With torch, in a process of its own: the sizes are those that serving decides by."""
    assert run("doctor", "--models", str(ROOT / "models.yaml"), "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["fits"] is True
    assert document["torch"]["versions"]["torch"]
    (sizes,) = document["torch"]["models"].values()
    assert sizes["as_it_is"] > 1 << 20
    assert sizes["denoiser_elements"] > 1_000_000


def test_something_that_does_not_fit_is_exit_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = on(RTX_4090, Sizes())
    monkeypatch.setattr(
        inquiry,
        "ask",
        lambda catalog, settings: type(said)(
            **{name: getattr(said, name) for name in said.__struct_fields__ if name != "models"},
            models=dict.fromkeys(catalog.plans, Sizes("bfloat16", 99 * GIB)),
        ),
    )
    assert run("doctor", "--models", str(ROOT / "models.yaml")) == 1
    said_out = capsys.readouterr().out
    assert "BAD  its weights take 99.0 GiB" in said_out
    assert said_out.endswith("\n1 problem\n")


def test_a_configuration_that_is_wrong_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("default: a\nmodels: {}\n")
    assert run("doctor", "--models", str(file)) == 2
    assert str(file) in capsys.readouterr().err


def test_the_host_is_read_from_the_kernels_files(tmp_path: Path) -> None:
    files = {
        "proc/cpuinfo": "processor : 0\nmodel name\t: A Fast One\n",
        "proc/meminfo": "MemTotal:       33554432 kB\n",
        "proc/self/cgroup": "0::/box\n",
        "sys/fs/cgroup/memory.max": "max\n",
        "sys/fs/cgroup/box/memory.max": f"{4 * GIB}\n",
        "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep\n",
        "dev/nvidiactl": "",
    }
    for name, content in files.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    host = read_host(tmp_path / "not" / "yet", tmp_path / "root")
    assert (host.processor, host.memory_bytes, host.memory_limit_bytes) == ("A Fast One", 32 * GIB, 4 * GIB)
    assert (host.driver, host.data_dir_problem) == ("580.95.05", None)
    assert has_cuda_device(tmp_path / "root")
    assert not has_cuda_device(tmp_path)


def test_a_machine_that_tells_nothing_is_described_all_the_same(tmp_path: Path) -> None:
    """macOS has no /proc."""
    host = read_host(tmp_path, tmp_path / "nothing")
    assert (host.memory_bytes, host.memory_limit_bytes, host.driver) == (0, None, None)
