"""How many threads a worker has, on machines that are described."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from server.worker import cores
from server.worker.cores import Cores

Machine = Callable[..., Cores]


def nothing(cpu: int) -> str:
    """Of a kernel that does not say whose core a processor shares."""
    raise NotImplementedError


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Reads a machine where a process may use these processors, whose cores are told as the kernel does, and has these
    files of control groups."""

    def look(allowed: Iterable[int], siblings: Callable[[int], str] = nothing, **files: str) -> Cores:
        monkeypatch.setattr("os.sched_getaffinity", lambda process: set(allowed), raising=False)
        for cpu in range(128) if siblings is not nothing else ():
            write(f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", siblings(cpu) + "\n")
        for name, text in files.items():
            write(name.replace("__", "/"), text + "\n")
        return cores.read(tmp_path)

    def write(name: str, text: str) -> None:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    return look


def alone(cpu: int) -> str:
    return f"{cpu}"


def in_pairs(cpu: int) -> str:
    """As most kernels number the threads of 64 cores: the second ones behind all first ones."""
    return f"{cpu % 64},{cpu % 64 + 64}"


def beside(cpu: int) -> str:
    return f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}"


def test_a_container_of_two_processors_on_a_large_machine_has_two_threads(machine: Machine) -> None:
    """It had 64, which waited for each other while the quota stopped them: a picture took twenty times as long."""
    found = machine(range(64), alone, **{"proc__self__cgroup": "0::/", "sys__fs__cgroup__cpu.max": "200000 100000"})
    assert (found.cpus, found.physical, found.quota, found.threads()) == (64, 64, 2.0, 2)
    assert str(found) == "64 cores for this process, of which its control group grants 2"


def test_the_affinity_bounds_them(machine: Machine) -> None:
    assert machine({3, 5, 40}, alone).threads() == 3
    assert str(machine({3}, alone)) == "1 core for this process"


@pytest.mark.parametrize("siblings", [in_pairs, beside])
def test_two_hardware_threads_are_one_core(machine: Machine, siblings: Callable[[int], str]) -> None:
    """Both would compute with the same units, and wait for each other."""
    found = machine(range(128), siblings)
    assert (found.cpus, found.physical, found.threads()) == (128, 64, 64)
    assert str(found) == "64 cores for this process (128 hardware threads)"


def test_a_core_of_which_one_hardware_thread_is_allowed_is_a_core(machine: Machine) -> None:
    assert machine({0, 64, 1, 2}, in_pairs).threads() == 3


def test_without_topology_and_control_groups_every_processor_counts(machine: Machine) -> None:
    found = machine(range(6))
    assert (found.threads(), found.quota) == (6, None)


@pytest.mark.parametrize(("quota", "threads"), [("50000", 1), ("150000", 1), ("390000", 3), ("max", 8)])
def test_no_thread_is_more_than_the_quota_grants(machine: Machine, quota: str, threads: int) -> None:
    """A part of a processor more would be a thread that is stopped in every period, with all others waiting."""
    files = {"proc__self__cgroup": "0::/box", "sys__fs__cgroup__box__cpu.max": f"{quota} 100000"}
    assert machine(range(8), alone, **files).threads() == threads


def test_the_groups_around_the_own_one_bound_it_too(machine: Machine) -> None:
    found = machine(
        range(16),
        alone,
        **{
            "proc__self__cgroup": "1:name=systemd:/x\n0::/pod/box",
            "sys__fs__cgroup__pod__box__cpu.max": "max 100000",
            "sys__fs__cgroup__pod__cpu.max": "400000 100000",
            "sys__fs__cgroup__cpu.max": "600000 100000",
        },
    )
    assert found.quota == 4.0


@pytest.mark.parametrize("mounted", ["cpu,cpuacct", "cpu"])
@pytest.mark.parametrize("folder", ["/docker/abc", ""])
def test_version_1_is_read_on_the_host_and_in_a_container(machine: Machine, mounted: str, folder: str) -> None:
    """In a container the group has its path on the host, and only the end of that is mounted."""
    found = machine(
        range(16),
        alone,
        **{
            "proc__self__cgroup": "7:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/",
            f"sys__fs__cgroup__{mounted}{folder}__cpu.cfs_quota_us": "300000",
            f"sys__fs__cgroup__{mounted}{folder}__cpu.cfs_period_us": "100000",
        },
    )
    assert found.threads() == 3


def test_version_1_without_a_limit_has_none(machine: Machine) -> None:
    found = machine(
        range(4),
        **{
            "proc__self__cgroup": "4:cpu,cpuacct:/",
            "sys__fs__cgroup__cpu__cpu.cfs_quota_us": "-1",
            "sys__fs__cgroup__cpu__cpu.cfs_period_us": "100000",
        },
    )
    assert found.quota is None


@pytest.mark.parametrize("text", ["", "max", "x y", "100000 0", "1 2 3"])
def test_a_quota_that_cannot_be_read_is_none(machine: Machine, text: str) -> None:
    found = machine(range(4), **{"proc__self__cgroup": "0::/", "sys__fs__cgroup__cpu.max": text})
    assert found.quota is None


@pytest.mark.parametrize(("workers", "threads"), [(1, 8), (2, 4), (3, 2), (8, 1), (9, 1)])
def test_workers_share_them_out(workers: int, threads: int) -> None:
    assert Cores(8, 8).threads(workers) == threads
