"""``darkroom models pull`` where the hub, the disk or somebody breaks it off: it goes on, or nothing is changed."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import pytest

from pipelines.facts import folder as model_folder
from server.commands.models import hub as hubs
from server.commands.models.hub import Download
from server.commands.models.placing import ModelFolder
from tests.running import ROOT
from tests.unit.commands.models.hub import Hub
from tests.unit.commands.models.repository import ENCODER, READ, SHARD, files, pull
from tests.unit.pipelines.facts.test_folder import weights


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
        try:
            hub.wait_asked(SHARD)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()  # or leaving the block waits for it
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
