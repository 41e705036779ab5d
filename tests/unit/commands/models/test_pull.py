"""``darkroom models pull``: what it takes of a hub on loopback, and what becomes of the folder meanwhile."""

from __future__ import annotations

import errno
import json
import mmap
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import pytest

from pipelines.facts import folder as model_folder
from pipelines.facts import seal
from server.commands.models import hub as hubs
from server.commands.models.hub import Download
from server.commands.models.placing import ModelFolder
from tests.running import ROOT
from tests.unit.commands.command_line import run
from tests.unit.commands.models.hub import Hub, open_hub
from tests.unit.pipelines.facts.test_component import ADDED
from tests.unit.pipelines.facts.test_folder import weights

DIFFUSERS = "diffusion_pytorch_model"
SHARD = "transformer/part-[1].safetensors"
ENCODER = "text_encoder/model.safetensors"
READ: Mapping[str, bytes] = {
    "model_index.json": json.dumps(
        {
            "_class_name": "ZImagePipeline",
            "transformer": ["diffusers", "ZImageTransformer2DModel"],
            "text_encoder": ["transformers", "Qwen3Model"],
            "tokenizer": ["transformers", "Qwen2Tokenizer"],
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "safety_checker": [None, None],
        }
    ).encode(),
    "transformer/config.json": b"{}",
    f"transformer/{DIFFUSERS}.safetensors.index.json": b'{"weight_map": {"w": "part-[1].safetensors"}}',
    SHARD: weights(),
    "text_encoder/config.json": b"{}",
    "text_encoder/generation_config.json": b"{}",
    ENCODER: weights(),
    "tokenizer/tokenizer_config.json": b"{}",
    "tokenizer/vocab.json": b'{"a": 1}',
    "tokenizer/merges.txt": b"a b",
    "tokenizer/chat_template.jinja": b"{{ messages }}",
    "tokenizer/additional_chat_templates/tool.jinja": b"{{ tools }}",
    "scheduler/scheduler_config.json": b"{}",
}
BESIDE = (
    *(f"transformer/{name}" for name in ADDED),
    *(f"text_encoder/{name}" for name in ADDED),
    *("z-image.safetensors", "README.md", "LICENSE", "assets/picture.json", "safety_checker/model.safetensors"),
    *("None.py", "transformer/part-1.safetensors", "text_encoder/model.safetensors.index.json"),
)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    folder = tmp_path / "hub"
    for name, content in {**dict.fromkeys(BESIDE, b"torn"), **READ}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (tmp_path / "models.yaml").write_text("default: z\nmodels:\n  z: { path: model, hub: org/z-image }\n")
    monkeypatch.setattr(hubs, "pause", lambda tries: None)
    with open_hub(folder) as opened:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", opened.url)
        yield opened


@pytest.fixture
def model(hub: Hub, tmp_path: Path) -> Path:
    """The folder after a pull."""
    assert pull(tmp_path) == 0
    hub.asked.clear()
    return tmp_path / "model"


def pull(folder: Path) -> int:
    return run("models", "--models", str(folder / "models.yaml"), "pull", "z")


def files(folder: Path) -> dict[str, bytes]:
    """The files of a model folder but for those that a pull keeps for itself."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if not name.startswith(".pull/")}


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


@pytest.mark.parametrize("cut", [0, 1, 40])
def test_an_answer_that_breaks_off_is_gone_on_with(hub: Hub, tmp_path: Path, cut: int) -> None:
    hub.cut[SHARD] = cut
    assert pull(tmp_path) == 0
    assert [where for name, where in hub.asked if name == SHARD] == ["", f"bytes={cut}-" if cut else ""]
    assert files(tmp_path / "model") == READ


def test_large_files_may_come_from_elsewhere(hub: Hub, tmp_path: Path) -> None:
    hub.cdn = True
    hub.cut[SHARD] = 7
    assert pull(tmp_path) == 0
    assert files(tmp_path / "model") == READ


def test_the_hubs_key_goes_to_the_hub_alone(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.cdn = True
    assert pull(tmp_path) == 0
    assert hub.keys == {"api": {"Bearer hf_secret"}, "file": {"Bearer hf_secret"}, "cdn": {None}}


def test_a_hub_that_is_busy_is_asked_again_and_one_that_stays_so_is_given_up(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.statuses[SHARD] = [503, 429]
    assert pull(tmp_path) == 0
    (hub.folder / SHARD).write_bytes(weights(b"\1" * 16))
    hub.statuses[SHARD] = [500] * 50
    assert pull(tmp_path) == 1
    assert "what has come is kept: run it again" in capsys.readouterr().err
    assert files(tmp_path / "model") == READ


@pytest.mark.parametrize("takes_ranges", [True, False])
def test_an_interrupted_pull_goes_on_where_it_stopped(
    hub: Hub, tmp_path: Path, takes_ranges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It began anew."""
    hub.cut[SHARD] = 40
    hub.takes_ranges = takes_ranges

    def interrupt(tries: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(hubs, "pause", interrupt)
        assert pull(tmp_path) == 130
    assert not (tmp_path / "model" / "model_index.json").exists()
    hub.asked.clear()
    assert pull(tmp_path) == 0
    assert (SHARD, "bytes=40-") in hub.asked
    assert len([name for name, _ in hub.asked if name == "transformer/config.json"]) == 0, "it was whole"
    assert files(tmp_path / "model") == READ


def test_what_is_left_of_another_revision_is_not_gone_on_with(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.cut[SHARD] = 40
    with monkeypatch.context() as patch:
        patch.setattr(hubs, "_MAX_TRIES", 1)
        hub.statuses[SHARD] = []
        patch.setattr(hubs, "pause", lambda tries: hub.statuses[SHARD].append(500))
        pull(tmp_path)
    (hub.folder / SHARD).write_bytes(weights(b"\1" * 16))
    hub.asked.clear()
    assert pull(tmp_path) == 0
    assert [where for name, where in hub.asked if name == SHARD] == [""]
    assert (tmp_path / "model" / SHARD).read_bytes() == weights(b"\1" * 16)


def test_a_part_that_was_damaged_since_is_fetched_anew(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.cut[SHARD] = 40

    def interrupt(tries: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(hubs, "pause", interrupt)
        pull(tmp_path)
    [part] = (tmp_path / "model" / ".pull" / "downloads").glob("*.part")
    part.write_bytes(b"X" * 40)
    assert pull(tmp_path) == 0
    assert files(tmp_path / "model") == READ


@pytest.mark.parametrize(("name", "digest"), [(SHARD, "SHA-256"), ("tokenizer/merges.txt", "Git's SHA-1")])
def test_bytes_that_are_not_those_that_the_hub_names_change_nothing(
    hub: Hub, model: Path, name: str, digest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (hub.folder / name).read_bytes()
    (hub.folder / name).write_bytes(b"\1" * len(whole))
    hub.instead[name] = b"\2" * len(whole)
    assert pull(model.parent) == 1, digest
    assert f"{name}: the bytes that came are not those that the hub names" in capsys.readouterr().err
    assert files(model) == READ


def test_more_than_the_hub_names_is_not_taken(hub: Hub, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (hub.folder / SHARD).write_bytes(b"\1" * 50)
    hub.instead[SHARD] = b"\1" * 100
    assert pull(model.parent) == 1
    assert "more came than the 50 bytes" in capsys.readouterr().err
    assert files(model) == READ


def test_a_hub_without_digests_is_taken_at_its_sizes(hub: Hub, tmp_path: Path) -> None:
    hub.tells_digests = False
    hub.cut[SHARD] = 40
    assert pull(tmp_path) == 0
    assert files(tmp_path / "model") == READ


@pytest.mark.parametrize("status", [401, 403, 404, 418])
def test_a_refusal_says_what_helps(hub: Hub, tmp_path: Path, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    hub.statuses[SHARD] = [status]
    assert pull(tmp_path) == 1
    said = capsys.readouterr().err
    assert {401: "HF_TOKEN", 403: "HF_TOKEN", 404: "no such repository", 418: "the hub says 418"}[status] in said


def test_a_hub_that_cannot_be_reached(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert pull(tmp_path) == 1
    assert "org/z-image could not be asked for" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_a_disk_that_is_full_in_the_middle_changes_nothing(
    hub: Hub, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (hub.folder / SHARD).write_bytes(weights(b"\1" * 16))
    (hub.folder / ENCODER).write_bytes(weights(b"\1" * 16))
    fetch = Download.fetch

    def full(self: Download, file: Any, report: Any) -> Path:
        if file.name == ENCODER:
            raise OSError(errno.ENOSPC, "No space left on device")
        return fetch(self, file, report)

    with monkeypatch.context() as patch:
        patch.setattr(Download, "fetch", full)
        assert pull(model.parent) == 1
    assert "the disk is full" in capsys.readouterr().err
    assert files(model) == READ
    hub.asked.clear()
    assert pull(model.parent) == 0
    assert [name for name, _ in hub.asked] == [ENCODER], "what came before is kept"


def test_a_disk_that_has_no_room_is_told_of_before_anything_comes(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100))
    assert pull(tmp_path) == 1
    assert "GB are to come" in capsys.readouterr().err
    assert not [name for name, _ in hub.asked if name.endswith(".safetensors")]


def test_of_two_pulls_at_once_one_is_told_so(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ModelFolder(tmp_path / "model")
    with folder.locked():
        assert pull(tmp_path) == 1
    assert "another pull is fetching this model" in capsys.readouterr().err
    assert hub.asked == []
    assert pull(tmp_path) == 0


def test_ctrl_c_leaves_the_folder_as_it_was(hub: Hub, model: Path) -> None:
    (hub.folder / SHARD).write_bytes(weights(b"\1" * 16))
    hub.hold[SHARD] = threading.Event()
    command = [sys.executable, "-m", "server", "models", "--models", str(model.parent / "models.yaml"), "pull", "z"]
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        hub.wait_asked(SHARD)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run it again to go on" in said.replace("\n", " ")
    assert "Traceback" not in said
    hub.hold[SHARD].set()
    assert files(model) == READ
    assert pull(model.parent) == 0
    assert (model / SHARD).read_bytes() == weights(b"\1" * 16)


@pytest.mark.parametrize("name", ["../x/config.json", "/x/config.json", "x/../../y.json"])
def test_a_hub_that_names_files_outside_of_the_folder_is_refused(
    hub: Hub, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    index = json.loads(READ["model_index.json"])
    component = name.rsplit("/", 1)[0]
    (hub.folder / "model_index.json").write_text(json.dumps({**index, component: ["diffusers", "XScheduler"]}))
    hub.extra = [name, f"{component}/scheduler_config.json"]
    assert pull(tmp_path) == 1
    assert "outside of its own folder" in capsys.readouterr().err


def test_nothing_is_written_through_a_link(hub: Hub, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model / "transformer").rename(model.parent / "elsewhere")
    (model / "transformer").symlink_to(model.parent / "elsewhere")
    (hub.folder / SHARD).write_bytes(weights(b"\1" * 16))
    assert pull(model.parent) == 1
    assert "is a link" in capsys.readouterr().err
    assert (model / SHARD).read_bytes() == READ[SHARD]


def test_a_folder_that_was_half_placed_is_none_that_can_be_loaded(
    hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old and new files would be loaded together, in silence."""
    for name in (SHARD, ENCODER):
        (hub.folder / name).write_bytes(weights(b"\1" * 16))

    def fail(self: ModelFolder, path: Path, target: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(ModelFolder, "_rename", fail)
        assert pull(model.parent) == 2
    assert "model_index.json is missing" in str(model_folder.problem(model))
    assert pull(model.parent) == 0
    assert files(model) == {**READ, **dict.fromkeys((SHARD, ENCODER), weights(b"\1" * 16))}
