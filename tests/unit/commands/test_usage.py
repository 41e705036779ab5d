"""The command ``darkroom usage``: the server's rows as a table, or as they are."""

from __future__ import annotations

import json

import pytest

from server.jobs.limits import Limits, Payer
from tests.paper import Paper, PaperServers
from tests.unit.commands.command_line import run


@pytest.fixture
def used(paper_servers: PaperServers, monkeypatch: pytest.MonkeyPatch) -> Paper:
    """A server that something was used of."""
    paper = paper_servers.open()
    monkeypatch.setenv("DARKROOM_URL", paper.url)
    accounts = paper.app.state.services.accounts
    accounts.book(Payer("1", "ada"), "sdxl", pictures=12, megapixel_steps=378.25, device_s=91.5, day="2026-11-29")
    accounts.book(Payer("2", "bob", Limits()), "sdxl", device_s=0.5, day="2026-11-30")
    return paper


def test_a_table_with_its_sum(used: Paper, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("usage", "--until", "2026-11-30", "--days", "2") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["2026-11-29", "to", "2026-11-30", "(UTC)"]
    assert ["2026-11-29", "ada", "sdxl", "12", "378.2", "91.5"] in lines
    assert ["2026-11-30", "bob", "sdxl", "0", "0.0", "0.5"] in lines
    assert lines[-1] == ["total", "12", "378.2", "92.0"]
    assert run("usage", "--until", "2026-11-30", "--days", "1") == 0
    assert "ada" not in capsys.readouterr().out


def test_names_are_whole_where_a_program_reads(used: Paper, capsys: pytest.CaptureFixture[str]) -> None:
    """They were cut to what a terminal of 80 columns holds."""
    key, model = "pictures-of-the-newsletter@example.com", "stable-diffusion-xl-base-1.0-with-a-long-name"
    accounts = used.app.state.services.accounts
    accounts.book(Payer("3", key), model, pictures=1, device_s=0.5, day="2026-11-30")
    assert run("usage", "--until", "2026-11-30") == 0
    said = capsys.readouterr().out
    assert f"{key}  {model}" in said
    assert "megapixel-steps" in said


def test_the_servers_own_answer(used: Paper, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("usage", "--until", "2026-11-30", "--key", "ada", "--json") == 0
    body = json.loads(capsys.readouterr().out)
    assert [row["key"] for row in body["data"]] == ["ada"]
    assert body["total"] == {"pictures": 12, "megapixel_steps": 378.25, "device_s": 91.5}


@pytest.mark.parametrize(("flag", "why"), [("--days=0", "1 to 366"), ("--days=x", "1 to 366"), ("--until=x", "a date")])
def test_what_cannot_be_asked_for(capsys: pytest.CaptureFixture[str], flag: str, why: str) -> None:
    assert run("usage", flag) == 2
    assert why in capsys.readouterr().err


def test_without_a_server_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_URL", "http://127.0.0.1:9")
    assert run("usage") == 1
    assert "no server answers at http://127.0.0.1:9" in capsys.readouterr().err


def test_a_key_that_may_not_is_told_so(
    paper_servers: PaperServers, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paper = paper_servers.open(keys=True)
    monkeypatch.setenv("DARKROOM_URL", paper.url)
    monkeypatch.setenv("DARKROOM_API_KEY", paper.key or "")
    assert run("usage", "--key", "ada") == 1
    assert "Only an admin key" in capsys.readouterr().err
    assert run("usage") == 0
