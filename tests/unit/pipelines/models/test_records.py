"""What was found of a model is believed of the same files, software and device alone; and is never in the way."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipelines.models import records
from pipelines.models.records import Records
from pipelines.plan import AdapterFile, ModelPlan
from server.catalog.load import load_catalog
from tests.running import ROOT


class Found(msgspec.Struct, frozen=True):
    seconds: float
    words: tuple[str, ...] = ()


FOUND = Found(1.5, ("unet", "vae"))


@pytest.fixture
def plan(tmp_path: Path) -> ModelPlan:
    """A copy of the model that ships, to be changed."""
    shipped = next(iter(load_catalog(ROOT / "models.yaml").plans.values()))
    shutil.copytree(shipped.folder, tmp_path / "model")
    return msgspec.structs.replace(shipped, folder=str(tmp_path / "model"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "checks"


def opened(folder: Path | None, *, darkroom: str = "1.0", device: str = "CPU") -> Records:
    """As a process that has just started has them."""
    return Records(folder, darkroom=darkroom, device=device)


def kept(folder: Path | None, plan: ModelPlan, **process: str) -> Found | None:
    return opened(folder, **process).of(plan).get("verdict", Found)


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_what_is_kept_is_there_after_a_restart(folder: Path, plan: ModelPlan) -> None:
    """A restart drew the whole check again: minutes, of a real-size model on the CPU."""
    assert kept(folder, plan) is None
    opened(folder).of(plan).keep("verdict", FOUND)
    assert kept(folder, plan) == FOUND
    path = only_file(folder)
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text())["model"] == plan.key


def weights(plan: ModelPlan) -> Path:
    return next(Path(plan.folder, "unet").glob("*.safetensors"))


def of_other_size(plan: ModelPlan) -> None:
    path = weights(plan)
    path.write_bytes(path.read_bytes() + b"\x00")


def changed_later(plan: ModelPlan) -> None:
    os.utime(weights(plan), (1, 1))


def of_other_header(plan: ModelPlan) -> None:
    """As long as before, and with its old time of change."""
    path = weights(plan)
    status, data = path.stat(), bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def of_other_configuration(plan: ModelPlan) -> None:
    path = Path(plan.folder, "vae", "config.json")
    path.write_text(path.read_text().replace("{", '{"force_upcast": true, ', 1))


def gone(plan: ModelPlan) -> None:
    weights(plan).unlink()


@pytest.mark.parametrize("change", [of_other_size, changed_later, of_other_header, of_other_configuration, gone])
def test_it_is_believed_of_the_same_files_alone(
    folder: Path, plan: ModelPlan, change: Callable[[ModelPlan], None]
) -> None:
    process = opened(folder)
    process.of(plan).keep("verdict", FOUND)
    change(plan)
    assert kept(folder, plan) is None
    assert process.of(plan).get("verdict", Found) is None, "nor by the process that found it"


def test_it_is_believed_of_the_same_software_device_and_plan_alone(
    folder: Path, plan: ModelPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(folder).of(plan).keep("verdict", FOUND)
    assert kept(folder, plan, darkroom="1.1") is None
    assert kept(folder, plan, device="NVIDIA H200") is None
    assert kept(folder, msgspec.structs.replace(plan, dtype="bfloat16")) is None
    for version in ("torch.__version__", "diffusers.__version__"):
        with monkeypatch.context() as other:
            other.setattr(version, "99.0")
            assert kept(folder, plan) is None
    monkeypatch.setattr(records, "_FORM", 99)
    assert kept(folder, plan) is None


def test_adapters_count_and_one_that_is_missing_is_no_fault(folder: Path, plan: ModelPlan, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    plan = msgspec.structs.replace(plan, adapters=(AdapterFile("a", str(file)),))
    opened(folder).of(plan).keep("verdict", FOUND)
    assert kept(folder, plan) == FOUND
    shutil.copy(weights(plan), file)
    assert kept(folder, plan) is None


def test_two_devices_that_share_a_data_folder_keep_both(folder: Path, plan: ModelPlan) -> None:
    for device, seconds in (("one", 1.0), ("two", 2.0)):
        opened(folder, device=device).of(plan).keep("verdict", Found(seconds))
    assert kept(folder, plan, device="one") == Found(1.0)
    assert kept(folder, plan, device="two") == Found(2.0)


def test_several_figures_are_kept_of_one_plan(folder: Path, plan: ModelPlan) -> None:
    opened(folder).of(plan).keep("verdict", FOUND)
    opened(folder).of(plan).keep("compile", {"seconds": 80})
    record = opened(folder).of(plan)
    assert record.get("verdict", Found) == FOUND
    assert record.get("compile", dict[str, int]) == {"seconds": 80}
    assert record.get("speed", dict[str, int]) is None
    changed_later(plan)
    opened(folder).of(plan).keep("compile", {"seconds": 90})
    assert opened(folder).of(plan).get("verdict", Found) is None, "which was found of other files"


def flipped(data: bytes) -> bytes:
    return data.replace(b"1.5", b"7.5")


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "no text": lambda data: b"\xff" * 100,
    "nested": lambda data: b"[" * 100_000,
    "another form": lambda data: b'{"model": 3}',
    "a number changed": flipped,
    "huge": lambda data: b" " * (8 << 20) + data,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_as_good_as_none(folder: Path, plan: ModelPlan, name: str) -> None:
    opened(folder).of(plan).keep("verdict", FOUND)
    path = only_file(folder)
    damaged = DAMAGE[name](path.read_bytes())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    assert kept(folder, plan) is None
    opened(folder).of(plan).keep("verdict", FOUND)
    assert kept(folder, plan) == FOUND


def test_what_is_of_another_kind_is_not_believed(folder: Path, plan: ModelPlan) -> None:
    opened(folder).of(plan).keep("verdict", {"seconds": "many"})
    assert kept(folder, plan) is None


@pytest.mark.parametrize("how", ["a file in its place", "not writable", "a folder in the file's place"])
def test_a_folder_that_takes_nothing_is_no_fault(
    folder: Path, plan: ModelPlan, how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if how == "a file in its place":
        folder.parent.mkdir()
        folder.write_text("")
    elif how == "not writable":  # or full; root may write anywhere

        def refuse(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", refuse)
    else:
        opened(folder).of(plan).keep("verdict", FOUND)
        path = only_file(folder)
        path.unlink()
        path.mkdir()
    process = opened(folder)
    process.of(plan).keep("verdict", FOUND)
    assert process.of(plan).get("verdict", Found) == FOUND, "for as long as it lives"
    assert kept(folder, plan) is None
    assert "record cannot be written" in {record.message for record in caplog.records}
    assert not {record.levelname for record in caplog.records} - {"WARNING"}
    assert not list(folder.parent.rglob("*.part"))


def test_without_a_folder_only_the_process_knows(plan: ModelPlan) -> None:
    process = opened(None)
    process.of(plan).keep("verdict", FOUND)
    assert process.of(plan).get("verdict", Found) == FOUND
    assert kept(None, plan) is None
    process.forget_all_but([])
    assert process.of(plan).get("verdict", Found) is None


def test_of_a_folder_that_cannot_be_loaded_nothing_is_kept(folder: Path, tmp_path: Path) -> None:
    plan = ModelPlan("m", str(tmp_path / "nowhere"), "other")
    opened(folder).of(plan).keep("verdict", FOUND)
    assert not folder.exists()


def test_records_of_plans_that_are_gone_do_not_pile_up(
    folder: Path, plan: ModelPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_MAX_FILES", 3)
    plans = [msgspec.structs.replace(plan, native_width=64 * number) for number in range(1, 5)]
    for age, each in enumerate(plans[:3]):
        before = set(folder.glob("*"))
        opened(folder).of(each).keep("verdict", FOUND)
        (new,) = set(folder.glob("*")) - before
        os.utime(new, (1000 + age, 1000 + age))
    leftover, fresh = folder / ".a.json.0123.part", folder / ".b.json.0123.part"
    for path in (leftover, fresh):
        path.write_text("{")
    os.utime(leftover, (1000, 1000))
    assert kept(folder, plans[0]) == FOUND  # and so it was used last
    opened(folder).of(plans[3]).keep("verdict", FOUND)
    assert [kept(folder, each) for each in plans] == [FOUND, None, FOUND, FOUND]
    assert not leftover.exists()
    assert fresh.exists(), "another process may be at it"


def test_a_file_that_another_worker_lets_go_of_meanwhile_is_no_failure(
    folder: Path, plan: ModelPlan, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two workers tidied one folder: what one renamed while the other looked was told of as a record not written."""
    opened(folder).of(plan).keep("verdict", FOUND)
    glob = Path.glob

    def late(path: Path, pattern: str) -> Any:
        return (*glob(path, pattern), path / f"gone{pattern.lstrip('.*')}")

    monkeypatch.setattr(Path, "glob", late)
    opened(folder).of(plan).keep("verdict", FOUND)
    assert not caplog.records
    assert kept(folder, plan) == FOUND


def test_two_workers_that_write_at_once_leave_one_whole_record(folder: Path, plan: ModelPlan) -> None:
    """On cards of one kind both have the same name for it."""
    start = threading.Barrier(2)

    def write(number: int) -> None:
        record = opened(folder).of(plan)
        start.wait(10)
        for _ in range(20):
            record.keep("verdict", Found(number))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, (1, 2)))
    assert kept(folder, plan) in (Found(1), Found(2))
    assert only_file(folder).suffix == ".json"
