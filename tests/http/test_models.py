"""What /v1/models says of a model is what a request for it gets."""

from __future__ import annotations

import shutil
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from pipelines.facts import folder as model_folder
from pipelines.facts import seal
from pipelines.facts.presets import QUALITIES, Preset
from server.api import seals
from server.catalog.catalog import Catalog, Model
from server.storage.verified import VerifiedFolders
from server.worker.status import ModelState, ModelStatus
from tests.assertions import assert_api_error
from tests.paper import Paper, PaperServers
from tests.running import ROOT


def test_the_listed_presets_are_those_that_are_drawn_with(paper: Paper) -> None:
    """They were those of the style vivid, whatever the style."""
    with paper.client() as client:
        row = client.get("/v1/models/darkroom-mini").json()
    assert row["presets"] == row["style_presets"]["vivid"]
    assert row["style_presets"]["natural"]["hd"] == {"steps": 16, "guidance": 1}
    for style, quality in product(("vivid", "natural"), QUALITIES):
        fields = {"prompt": "a cat", "model": "darkroom-mini", "style": style, "quality": quality}
        assert paper.post(fields).status_code == 200
        spec = paper.worker.drawings[-1].spec
        listed = row["style_presets"][style][quality]
        assert (spec.steps, spec.guidance) == (listed["steps"], listed["guidance"]), (style, quality)


def test_aliases_have_rows_of_their_own(paper: Paper, shipped: Catalog) -> None:
    """Programs that look for the name that they send in the list did not find it."""
    with paper.client() as client:
        rows = client.get("/v1/models").json()["data"]
        assert rows == client.get("/api/models").json()["data"]
        found = {row["id"]: row["alias_of"] for row in rows}
        assert len(found) == len(rows)
        assert found == {
            name: None if name == model.id else model.id
            for model in shipped
            for name in (model.id, *model.entry.aliases)
        }
        assert [row["id"] for row in rows if row["default"]] == [shipped.default]
        assert {row["weights"] for row in rows} == {"darkroom-mini"}
        for row in rows:
            for name in (row["id"], f"openai/{row['id']}"):
                assert client.get(f"/v1/models/{name}").json() == row
        hub = client.get("/api/ai/models").json()
        assert {row["model"]: row["alias_of"] for row in hub} == found


def test_what_a_broken_model_cannot_tell_of_itself_is_no_fault_of_the_request(
    paper_servers: PaperServers, tmp_path: Path
) -> None:
    """A folder that is missing has no traits: edits of it were refused with 400 once it might be tried again."""
    file = tmp_path / "models.yaml"
    file.write_text("default: gone\nmodels:\n  gone: { path: gone }\n")
    paper = paper_servers.open(models=file)
    paper.worker.broken = set(paper.worker.models)
    assert_api_error(paper.post({"prompt": "x", "scheduler": "euler"}), 503, "model_unavailable")
    with paper.client() as client:
        assert client.get("/api/v2/status").json()["available"] is False
        shutil.copytree(ROOT / "weights" / "darkroom-mini", tmp_path / "gone")
        assert client.get("/api/v2/status").json() == {"available": True}
    assert paper.post({"prompt": "x"}).status_code == 200  # it is tried again


def test_the_last_result_of_verifying_is_shown(
    paper_servers: PaperServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seals, "LOOK_S", 0.0)
    file, folder = tmp_path / "models.yaml", tmp_path / "model"
    shutil.copytree(ROOT / "weights" / "darkroom-mini", folder)
    file.write_text("default: a\nmodels:\n  a: { path: model, aliases: [b] }\n")
    paper = paper_servers.open(models=file)
    kept = VerifiedFolders(paper.app.state.services.settings.data_dir)

    def shown() -> Any:
        with paper.client() as client:
            rows = client.get("/v1/models").json()["data"]
            assert [row["seal"] for row in rows] == [client.get(f"/v1/models/{name}").json()["seal"] for name in "ab"]
        return rows[0]["seal"]

    assert shown() is None
    (folder / seal.NAME).write_bytes(seal.make(folder, model_folder.files_read(folder), lambda read: None))
    assert shown() == {"state": "unknown", "verified_at": None}
    sealed = seal.read(folder)
    assert sealed is not None
    for intact, state in ((True, "intact"), (False, "damaged")):
        kept.note(str(folder), sealed.sha256, intact=intact)
        assert shown()["state"] == state
        assert shown()["verified_at"] > 1_700_000_000
    (folder / seal.NAME).write_text("{")
    assert shown() == {"state": "damaged", "verified_at": None}


def test_the_list_is_made_once_for_each_change_of_what_it_tells(
    paper_servers: PaperServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All presets of all styles were worked out for every row of every request: 20 times what another request costs."""
    file = tmp_path / "models.yaml"
    weights = ROOT / "weights" / "darkroom-mini"
    file.write_text(f"default: a\nmodels:\n  a: {{ path: {weights}, aliases: [b] }}\n  c: {{ path: {weights} }}\n")
    paper = paper_servers.open(models=file)
    asked: list[str] = []
    preset = Model.preset

    def watched(model: Model, quality: str, style: str) -> Preset:
        asked.append(model.id)
        return preset(model, quality, style)

    monkeypatch.setattr(Model, "preset", watched)

    def shown() -> dict[str, Any]:
        with paper.client() as client:
            rows = {row["id"]: row for row in client.get("/v1/models").json()["data"]}
            assert rows == {name: client.get(f"/v1/models/{name}").json() for name in rows}
        return rows

    first = shown()
    assert set(asked) == {"a", "c"}
    asked.clear()
    assert shown() == first
    assert not asked
    paper.worker.models["a"] = ModelStatus(ModelState.LOADING)
    moved = shown()
    assert (moved["b"]["state"], moved["b"]["devices"]) == ("loading", {"paper": "loading"})
    assert moved["c"] == first["c"]
    assert not asked
    file.write_text(file.read_text().replace("c: {", "d: { max_steps: 7, "))
    with paper.client() as client:
        client.post("/v1/admin/reload").raise_for_status()
    changed = shown()
    assert changed.keys() == {"a", "b", "d"}
    assert changed["d"]["max_steps"] == 7
    assert changed["d"]["presets"]["hd"]["steps"] == 7
    assert set(asked) == {"a", "d"}
