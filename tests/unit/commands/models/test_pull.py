"""``darkroom models pull``: what it takes of a hub on loopback, and what becomes of the folder meanwhile."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from pipelines.facts import folder as model_folder
from pipelines.facts import seal
from tests.running import ROOT
from tests.unit.commands.command_line import run
from tests.unit.commands.models.hub import Hub
from tests.unit.commands.models.repository import ENCODER, READ, SHARD, files, pull
from tests.unit.pipelines.facts.test_folder import weights


def test_pull_without_a_hub_name_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "--models", str(ROOT / "models.yaml"), "pull", "dall-e-2") == 2
    assert "no hub key" in capsys.readouterr().err
    assert run("models", "--models", str(ROOT / "models.yaml"), "pull", "nonsense") == 1


def test_pull_takes_what_loading_reads_and_nothing_else(hub: Hub, tmp_path: Path) -> None:
    """It left chat templates behind, so that every request was a 503, and took every variant and twin."""
    assert pull(tmp_path) == 0
    assert files(tmp_path / "model") == READ
    assert {name for name, _ in hub.asked} == set(READ)
    assert [path.name for path in (tmp_path / "model" / ".pull").iterdir()] == ["pulled.json"]


@pytest.mark.parametrize(
    ("lost", "says"),
    [
        ("model_index.json", "diffusers' format"),
        (SHARD, "missing"),
        (ENCODER, "missing"),
        ("tokenizer/vocab.json", "vocabulary"),
    ],
)
def test_pull_says_what_a_repository_lacks_before_it_fetches_weights(
    hub: Hub, tmp_path: Path, lost: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (hub.folder / lost).unlink()
    (hub.folder / "text_encoder/model.safetensors.index.json").write_text('{"weight_map": {"w": "gone.safetensors"}}')
    assert pull(tmp_path) == 2
    assert says in capsys.readouterr().err
    assert not [name for name, _ in hub.asked if name.endswith(".safetensors")]


def test_a_pull_never_changes_a_mapped_file(hub: Hub, model: Path) -> None:
    """A file that came out of the hub's cache was copied onto the mapped one: the worker ended with SIGBUS."""
    before = (model / SHARD).read_bytes()
    with (model / SHARD).open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        (hub.folder / SHARD).write_bytes(weights(b"\1" * 16))
        assert pull(model.parent) == 0
        assert (model / SHARD).read_bytes() == weights(b"\1" * 16)
        assert mapped[:] == before
        assert os.fstat(opened.fileno()).st_nlink == 0, "another file has the name now"


def test_a_second_pull_asks_for_what_has_changed_alone(hub: Hub, model: Path) -> None:
    kept = {name: (model / name).stat().st_ino for name in READ}
    (hub.folder / ENCODER).write_bytes(weights(b"\2" * 16))
    (model / "tokenizer/vocab.json").write_bytes(b'{"b": 1}')  # as long, and not the hub's
    assert pull(model.parent) == 0
    assert sorted({name for name, _ in hub.asked}) == [ENCODER, "tokenizer/vocab.json"]
    assert files(model) == {**READ, ENCODER: weights(b"\2" * 16)}
    assert {name for name in READ if (model / name).stat().st_ino != kept[name]} == {ENCODER, "tokenizer/vocab.json"}


def test_nothing_is_changed_where_nothing_has_changed(
    hub: Hub, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert pull(model.parent) == 0
    assert hub.asked == []
    assert "as it was" in capsys.readouterr().out


def test_a_shard_that_the_hub_has_no_more_does_not_stay(
    hub: Hub, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The old one stayed beside the new, and transformers takes a whole file before the shards of an index."""
    (hub.folder / ENCODER).unlink()
    index = "text_encoder/model.safetensors.index.json"
    (hub.folder / index).write_text('{"weight_map": {"w": "new.safetensors"}}')
    (hub.folder / "text_encoder/new.safetensors").write_bytes(weights(b"\3" * 16))
    (model / "notes.txt").write_text("the owner's own")
    assert pull(model.parent) == 0
    assert f"removed, as the hub has it no more: {ENCODER}" in capsys.readouterr().out
    found = files(model)
    assert found.pop("notes.txt") == b"the owner's own"
    assert ENCODER not in found
    assert {index, "text_encoder/new.safetensors"} < set(found)
    part = next(part for part in model_folder.parts(model) if part.component.name == "text_encoder")
    assert part.files.weights == ("new.safetensors",)


def test_what_the_hubs_own_tool_has_fetched_goes_with_the_hub_alone(hub: Hub, model: Path) -> None:
    """Earlier pulls, and hf download, note what they fetched; nobody else's notes may lead out of the folder."""
    (model / ".pull" / "pulled.json").unlink()
    notes = model / ".cache" / "huggingface" / "download"
    for name in ("transformer/old.safetensors", "README.md", "../outside"):
        (notes / f"{name}.metadata").parent.mkdir(parents=True, exist_ok=True)
        (notes / f"{name}.metadata").touch()
        (model / name).write_bytes(b"x")
    assert pull(model.parent) == 0
    assert not (model / "transformer/old.safetensors").exists()
    assert (model / "README.md").exists(), "the hub has it still"
    assert (model.parent / "outside").exists()


def test_a_file_of_nobody_that_loading_would_read_is_put_aside(
    hub: Hub, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model / "tokenizer" / "tokenizer.json").write_text('{"model": {}}')
    assert pull(model.parent) == 0
    assert files(model) == READ
    assert (model / ".pull/aside/tokenizer/tokenizer.json").read_text() == '{"model": {}}'
    assert "put aside" in capsys.readouterr().out


def test_a_seal_of_the_files_before_a_pull_is_put_aside(
    hub: Hub, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("models", "--models", str(model.parent / "models.yaml"), "seal", "z") == 0
    assert pull(model.parent) == 0
    assert (model / seal.NAME).exists(), "nothing has changed"
    (hub.folder / SHARD).write_bytes(weights(b"\1" * 16))
    assert pull(model.parent) == 0
    assert "`darkroom models seal z` seals it as it is now" in capsys.readouterr().out
    assert not (model / seal.NAME).exists()
