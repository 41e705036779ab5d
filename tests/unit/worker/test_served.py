"""models.yaml that changes while the server runs: what is served then, and what is said of a file that is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any, cast

import pytest

from pipelines.plan import ModelPlan
from server.catalog import watch
from server.catalog.catalog import Catalog
from server.catalog.load import load_catalog
from server.errors import ConfigError, ModelNotFound
from server.worker import served
from server.worker.fleet import Fleet
from server.worker.served import Changes, ServedCatalog
from server.worker.status import ModelState, ModelStatus
from tests import upscalers
from tests.running import ROOT
from tests.unit.pipelines.facts.test_checkpoint import sd, write

pytestmark = pytest.mark.anyio

TEXT = """\
default: mini
models:
  mini: { path: %(weights)s, aliases: [two] }
"""
MORE = TEXT + "  other: { path: nowhere, preload: true }\n"


class Told:
    """Stands in for the worker: keeps what it was told to serve."""

    def __init__(self) -> None:
        self.models: dict[str, ModelStatus] = {"mini": ModelStatus(ModelState.READY)}
        self.served: list[set[str]] = []
        self.preloads: list[set[str]] = []

    def serve(self, plans: Iterable[ModelPlan], preload: Iterable[ModelPlan]) -> None:
        self.served.append({plan.key for plan in plans})
        self.preloads.append({plan.key for plan in preload})


class Place:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "models.yaml"
        self.worker = Told()

    def write(self, text: str) -> None:
        self.file.write_text(text % {"weights": ROOT / "weights/darkroom-mini"})

    def replace(self, text: str) -> None:
        new = self.folder / "new"
        new.write_text(text % {"weights": ROOT / "weights/darkroom-mini"})
        new.replace(self.file)

    def open(self) -> ServedCatalog:
        return ServedCatalog(self.file, load_catalog(self.file), cast(Fleet, self.worker))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    made.write(TEXT)
    return made


@contextlib.asynccontextmanager
async def watched(place: Place, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ServedCatalog]:
    monkeypatch.setattr(served, "POLL_S", 0.02)
    catalog = place.open()
    watching = asyncio.create_task(catalog.watch())
    try:
        async with asyncio.timeout(20):
            yield catalog
    finally:
        watching.cancel()


async def until(fact: Callable[[], Any]) -> None:
    while not fact():  # noqa: ASYNC110, no event tells of it
        await asyncio.sleep(0.005)


async def _more_than(count: int, caplog: pytest.LogCaptureFixture) -> None:
    await until(lambda: len(caplog.records) > count)


def ids(catalog: ServedCatalog) -> set[str]:
    return set(catalog.current.models)


async def test_what_is_added_changed_and_removed_counts_from_the_next_look(place: Place) -> None:
    catalog = place.open()
    before = catalog.current
    place.write(MORE.replace("[two]", "[three]"))
    assert await catalog.reload() == Changes(("other",), ("mini",), ())
    assert catalog.current.resolve("three").id == "mini"
    with pytest.raises(ModelNotFound):
        catalog.current.resolve("two")
    assert before.resolve("two").plan == catalog.current.resolve("three").plan, "its weights are the same"
    assert place.worker.served == [{"mini", "other"}]
    assert place.worker.preloads == [{"other"}]
    assert place.worker.models["other"].state is ModelState.BROKEN, "its folder is missing: said before it is asked for"
    assert place.worker.models["mini"].state is ModelState.READY, "nothing is forgotten of what has not changed"
    place.write(TEXT)
    assert (await catalog.reload()).removed == ("other",)


async def test_names_alone_do_not_trouble_the_worker(place: Place) -> None:
    catalog = place.open()
    place.write(TEXT.replace("two", "three"))
    assert await catalog.reload()
    assert place.worker.served == []
    assert not await catalog.reload(), "it has not changed"


async def test_a_wrong_file_changes_nothing_and_says_why(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    catalog = place.open()
    before = catalog.current
    place.write(TEXT + "    steeps: 3\n")
    with pytest.raises(ConfigError):
        await catalog.reload()
    assert catalog.current is before
    assert catalog.problem.startswith("models.yaml, line 4")
    assert str(place.folder) not in catalog.problem, "anybody may read it"
    place.write(TEXT)
    await catalog.reload()
    assert catalog.problem == ""


async def test_a_wrong_file_is_logged_once_for_each_change(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with watched(place, monkeypatch) as catalog:
        for text in ("[", "]"):
            place.write(text)
            os.utime(place.file, ns=(len(caplog.records), len(caplog.records)))
            before = len(caplog.records)
            await _more_than(before, caplog)
            await asyncio.sleep(0.1)
        place.file.unlink()
        await until(lambda: "No such file" in catalog.problem)
        await asyncio.sleep(0.1)
    assert len([record for record in caplog.records if "is wrong" in record.message]) == 3


async def test_a_file_is_read_when_it_was_replaced_turned_away_or_written(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watched(place, monkeypatch) as catalog:
        place.replace(MORE)
        await until(lambda: "other" in ids(catalog))
        place.write(TEXT)
        await until(lambda: "other" not in ids(catalog))
        aside = place.folder / "aside"
        place.file.rename(aside)
        await until(lambda: catalog.problem)
        assert ids(catalog) == {"mini"}
        aside.rename(place.file)
        await until(lambda: not catalog.problem)


async def test_a_config_map_that_is_swapped_is_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """models.yaml was resolved once, to a folder that Kubernetes takes away when it swaps the link to it."""
    for name, text in (("..1", TEXT), ("..2", MORE)):
        (place.folder / name).mkdir()
        (place.folder / name / "models.yaml").write_text(text % {"weights": ROOT / "weights/darkroom-mini"})
    place.file.unlink()
    (place.folder / "..data").symlink_to("..1")
    place.file.symlink_to("..data/models.yaml")
    async with watched(place, monkeypatch) as catalog:
        (place.folder / "..new").symlink_to("..2")
        (place.folder / "..new").replace(place.folder / "..data")
        shutil.rmtree(place.folder / "..1")
        await until(lambda: "other" in ids(catalog))
        assert not catalog.problem


async def test_a_file_that_is_still_being_written_is_not_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first half is a models.yaml too, with fewer models."""
    place.write(MORE)
    async with watched(place, monkeypatch) as catalog:
        counts = set()
        for number in range(60):
            place.write(TEXT + "#" * number)
            counts.add(len(ids(catalog)))
            await asyncio.sleep(0.005)
        place.write(MORE + "#")
        await asyncio.sleep(0.2)
        assert counts == {2}
        assert ids(catalog) == {"mini", "other"}


async def test_two_readings_at_once_end_alike(place: Place) -> None:
    catalog = place.open()
    place.write(MORE)
    found = list(await asyncio.gather(*(catalog.reload() for _ in range(3))))
    assert found == [Changes(("other",)), Changes(), Changes()]
    assert len(place.worker.served) == 1


async def test_checkpoints_that_are_put_into_their_folder_are_models(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A half-copied one is told in the log, takes nothing down, and is a model once it is whole."""
    folder = place.folder / "files"
    folder.mkdir()
    place.write(TEXT + "checkpoints: files\n")
    whole = write(place.folder / "whole.safetensors", sd()).read_bytes()
    async with watched(place, monkeypatch) as catalog:
        (folder / "some.safetensors").write_bytes(whole[:2000])
        await until(lambda: "checkpoint cannot be served" in caplog.text)
        assert ids(catalog) == {"mini"}
        (folder / "some.safetensors").write_bytes(whole)
        await until(lambda: ids(catalog) == {"mini", "some"})
        assert catalog.current.refused_checkpoints == {}
        before = catalog.current.resolve("some").plan
        write(folder / "some.safetensors", sd() | {"more": (4,)})
        await until(lambda: catalog.current.resolve("some").plan != before)
        (folder / "some.safetensors").unlink()
        await until(lambda: ids(catalog) == {"mini"})
    assert place.worker.served[-1] == {"mini"}


async def test_a_folder_that_comes_later_is_the_model_that_it_is(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was served as a model of no family: without edits, and at 1024x1024 whatever it draws."""
    place.write(TEXT + "  late: { path: late }\n  told: { path: late, family: stable-diffusion }\n")
    kept: list[Catalog] = []  # so that no id is given twice
    async with watched(place, monkeypatch) as catalog:
        assert catalog.current.models["late"].family.name == "other"
        states = [place.worker.models["told"].state]
        shutil.copytree(ROOT / "weights/darkroom-mini", place.folder / "late")
        await until(lambda: catalog.current.models["late"].weight_bytes is not None)
        late = catalog.current.models["late"]
        assert late.family.name == "stable-diffusion"
        assert late.own_scheduler is not None
        assert place.worker.served[-1] == {"mini", "late", "told"}
        states.append(place.worker.models["told"].state)
        assert states == [ModelState.BROKEN, ModelState.UNLOADED], "its plan is as it was"
        assert catalog.current.awaited == ()
        seen = set()
        for _ in range(25):
            await asyncio.sleep(0.02)
            seen.add(id(catalog.current))
            kept.append(catalog.current)
        assert len(seen) <= 3, "it is not read again and again"


async def test_files_that_come_later_are_told_from_their_headers(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint was refused as one of no known base until models.yaml was touched."""
    place.write("upscalers: { x2: x2.safetensors }\n" + TEXT + "  late: { checkpoint: late.safetensors }\n")
    async with watched(place, monkeypatch) as catalog:
        assert catalog.current.upscalers["x2"].problem is not None
        write(place.folder / "late.safetensors", sd())
        await until(lambda: catalog.current.models["late"].problem() is None)
        assert Path(catalog.current.models["late"].plan.folder).name == "sd15"
        upscalers.write(place.folder / "x2.safetensors", upscalers.compact())
        await until(lambda: catalog.current.upscalers["x2"].problem is None)
        assert catalog.current.awaited == ()


def test_a_folder_that_is_no_model_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_MAX_AWAITED", 5)
    for number in range(9):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "photo.jpg").touch()
    assert len(watch.stamps(tmp_path / "models.yaml", (), [tmp_path])) <= 6
