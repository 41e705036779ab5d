"""The command ``darkroom keys``: what is shown, and what is kept."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.running import ROOT
from tests.unit.commands.command_line import run


def test_a_key_is_shown_once_and_kept_as_a_hash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("keys", "create", "alice") == 0
    key = capsys.readouterr().out.strip()
    stored = (tmp_path / "data" / "keys.json").read_text()
    assert len(key) >= 32
    assert key not in stored
    assert "alice" in json.dumps(json.loads(stored))
    assert run("keys", "list") == 0
    listed = capsys.readouterr().out
    assert "alice" in listed
    assert key not in listed
    assert run("keys", "revoke", "alice") == 0
    assert run("keys", "revoke", "alice") == 1


def sentence(text: str) -> str:
    """What the command said on standard error: one line."""
    (line,) = text.splitlines()
    assert line.startswith("darkroom: ")
    return line


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("call", ["open", "fsync", "mkdir"])
@pytest.mark.parametrize("action", [("create", "bob"), ("revoke", "alice")], ids=lambda action: str(action[0]))
def test_keys_that_cannot_be_written_are_a_sentence_and_as_they_were(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    call: str,
    action: tuple[str, str],
) -> None:
    """A full disk or a read-only data folder was 40 lines of traceback, and exit code 1."""
    assert run("keys", "create", "alice") == 0
    before = (tmp_path / "data" / "keys.json").read_bytes()
    capsys.readouterr()

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    if call == "mkdir":
        monkeypatch.setenv("DARKROOM_DATA_DIR", str(tmp_path / "elsewhere"))
    assert run("keys", *action) == 2
    monkeypatch.undo()
    said = capsys.readouterr()
    assert os.strerror(code) in sentence(said.err)
    assert said.out == ""
    assert (tmp_path / "data" / "keys.json").read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_key_that_could_not_be_shown_is_ended(tmp_path: Path) -> None:
    """It was kept, and nobody knew it: its name could not be had any more."""
    environment = {**os.environ, "DARKROOM_DATA_DIR": str(tmp_path / "data"), "PYTHONPATH": str(ROOT)}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "server", "keys", "create", "alice"],
            stdout=full, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((tmp_path / "data" / "keys.json").read_text())["keys"] == []


def test_an_admins_key_is_made_and_listed_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("keys", "create", "alice") == run("keys", "create", "owner", "--admin") == 0
    capsys.readouterr()
    assert run("keys", "list") == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [(row[0], row[2:]) for row in rows] == [("alice", []), ("owner", ["admin"])]


def test_a_webhook_secret_is_shown_once_kept_for_its_owner_alone_and_goes_with_its_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("keys", "create", "alice") == 0
    capsys.readouterr()
    for name in ("alice", "local"):
        assert run("keys", "webhook-secret", name) == 0
        first = capsys.readouterr().out.strip()
        assert first.startswith("whsec_")
        assert run("keys", "webhook-secret", name) == 0
        assert capsys.readouterr().out.strip() != first
    folder = tmp_path / "data" / "webhook_secrets"
    kept = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert len(kept) == 2
    assert set(kept.values()) == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert run("keys", "webhook-secret", "bob") == 1
    assert "no key is named bob" in capsys.readouterr().err
    assert run("keys", "revoke", "alice") == 0
    assert [path.name for path in folder.iterdir()] == ["local"]


def listed(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    capsys.readouterr()
    assert run("keys", "list") == 0
    return [line.split("\t") for line in capsys.readouterr().out.splitlines()]


def test_limits_are_given_shown_changed_and_lifted(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--pictures-per-day", "100", "--megapixel-steps-per-day", "2.5", "--jobs", "1", "--models", "sdxl, b,sdxl")
    assert run("keys", "create", "alice", *flags, "--expires", "2099-01-31") == 0
    words = ["100 pictures a day", "2.5 megapixel-steps a day", "1 job at once", "models sdxl,b"]
    (row,) = listed(capsys)
    assert row[2:] == [*words, "expires 2099-01-31T00:00:00+00:00"]
    changes = ("--pictures-per-day", "0", "--models", "none", "--expires", "none", "--megapixel-steps-per-day", "1e6")
    assert run("keys", "change", "alice", *changes) == 0
    (row,) = listed(capsys)
    assert row[2:] == ["0 pictures a day", "1000000 megapixel-steps a day", "1 job at once"]
    assert run("keys", "change", "alice", "--jobs", "none") == 0
    (row,) = listed(capsys)
    assert row[2:] == ["0 pictures a day", "1000000 megapixel-steps a day"]
    assert run("keys", "change", "bob", "--jobs", "1") == 1
    assert "no key is named bob" in sentence(capsys.readouterr().err)


def test_a_key_may_end_after_a_while(capsys: pytest.CaptureFixture[str]) -> None:
    for name, span, days in (("a", "12h", 0.5), ("b", "30d", 30), ("c", "8w", 56)):
        assert run("keys", "create", name, "--expires", span) == 0
        *_, words = listed(capsys)[-1]
        ends = datetime.fromisoformat(words.removeprefix("expires "))
        assert abs((ends - datetime.now(UTC)) / timedelta(days=days) - 1) < 0.001


@pytest.mark.parametrize(
    ("flag", "value", "why"),
    [
        ("--pictures-per-day", "-1", "pictures_per_day must be a whole number from 0"),
        ("--pictures-per-day", "1.5", "must be a whole number"),
        ("--pictures-per-day", "none", "must be a whole number"),
        ("--megapixel-steps-per-day", "nan", "must be a number from 0"),
        ("--megapixel-steps-per-day", "inf", "must be a number from 0"),
        ("--jobs", "1000000", "jobs must be a whole number from 0 to 100000"),
        ("--models", "", "names of models"),
        ("--models", "a,,b", "names of models"),
        ("--expires", "30", "12h, 30d or 8w, or a date"),
        ("--expires", "0d", "must be from 1h"),
        ("--expires", "99999w", "must be from 1h to 36500d"),
        ("--expires", "2020-01-31", "must be a day to come"),
        ("--expires", "2027-02-31", "12h, 30d or 8w, or a date"),
    ],
)
def test_a_limit_that_means_nothing_is_said_and_no_key_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, value: str, why: str
) -> None:
    assert run("keys", "create", "alice", f"{flag}={value}") == 2
    said = capsys.readouterr().err
    assert f"argument {flag}: " in said
    assert why in said
    assert not (tmp_path / "data" / "keys.json").exists()
