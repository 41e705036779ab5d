"""The command ``darkroom jobs``, against a server whose worker draws blank paper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.paper import Paper, PaperServers
from tests.running import eventually
from tests.unit.commands.command_line import run


def ask(paper: Paper, path: str = "/v1/images/generations", **fields: Any) -> str:
    answer = paper.post({"prompt": "x", **fields}, path, headers={"prefer": "respond-async"})
    assert answer.status_code == 202
    return str(answer.json()["id"])


def done(paper: Paper, job: str) -> None:
    with paper.client() as client:
        eventually(lambda: client.get(f"/v1/images/jobs/{job}").json()["status"] == "done")


def test_listed_cancelled_and_fetched(
    paper_servers: PaperServers, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    paper = paper_servers.open(queue_size=2)
    server = ("--server", paper.url)
    paper.worker.gate.clear()
    drawn, waiting = ask(paper, n=2, seed=5), ask(paper)
    eventually(lambda: paper.worker.drawings)
    assert run("jobs", *server) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["ID", "state", "age", "model", "pictures"]
    assert first.split()[:3] == [drawn, "running", "1/2"]
    assert first.split()[-1] == "2"
    assert second.split()[:3] == [waiting, "queued", "1"]

    assert run("jobs", *server, "cancel", waiting) == 0
    assert capsys.readouterr().out == "cancelled\n"
    assert run("jobs", *server, "result", drawn) == 1
    assert "running; ask again later" in capsys.readouterr().err
    paper.worker.gate.set()
    done(paper, drawn)
    assert run("jobs", *server, "result", drawn, "--out", str(tmp_path / "pictures")) == 0
    paths = capsys.readouterr().out.split()
    assert [Path(path).read_bytes()[:4] for path in paths] == [b"\x89PNG"] * 2
    assert [path.rpartition("-")[2] for path in paths] == ["seed5.png", "seed6.png"]

    assert run("jobs", "--json", *server) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["status"] for row in rows] == ["done", "cancelled"]
    assert run("jobs", *server, "result", waiting) == 1
    assert "was cancelled" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/images/generations", {"response_format": "b64_json", "output_format": "jpeg"}),
        ("/api/v2/image/generations", {"response_format": "b64_json", "output_format": "webp"}),
        ("/api/v2/image", {"input": {"prompt": "x"}, "outputFileType": "file", "output_format": "jpeg"}),
    ],
)
def test_results_of_every_shape(
    paper: Paper, capsys: pytest.CaptureFixture[str], path: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    job = ask(paper, path, **fields)
    done(paper, job)
    assert run("jobs", "--server", paper.url, "result", job, "-o", str(tmp_path / "kept")) == 0
    (written,) = capsys.readouterr().out.split()
    ending = {"jpeg": ".jpg", "webp": ".webp"}[fields["output_format"]]
    assert Path(written).suffix == ending
    assert run("jobs", "--json", "--server", paper.url, "result", job) == 0
    assert json.loads(capsys.readouterr().out)


def test_what_fails_is_a_sentence(paper: Paper, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("jobs", "--server", "http://127.0.0.1:9") == 1
    assert "no server answers" in capsys.readouterr().err
    assert run("jobs", "--server", paper.url, "cancel", "no-such-job") == 1
    assert "no such job" in capsys.readouterr().err
    answer = paper.post({"prompt": "x"})
    assert run("jobs", "--server", paper.url, "result", answer.headers["x-job-id"]) == 1
    assert "Prefer: respond-async" in capsys.readouterr().err
