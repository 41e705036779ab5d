"""``darkroom models load`` and ``unload``, against a server whose worker is made of paper."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.plan import ModelPlan
from server.commands.models import command
from server.edge.keys import Keyring
from server.worker import failures
from server.worker.status import ModelState
from tests.paper import Paper, PaperServers
from tests.running import eventually
from tests.unit.commands.command_line import run


def moved(paper: Paper, action: str, name: str, *more: str) -> int:
    return run("models", "--server", paper.url, *more, action, name)


def state(paper: Paper) -> ModelState:
    [status] = paper.worker.models.values()
    return status.state


def test_a_model_is_loaded_and_unloaded(paper_servers: PaperServers, capsys: pytest.CaptureFixture[str]) -> None:
    paper = paper_servers.open()
    assert moved(paper, "unload", "dall-e-3") == 0
    assert state(paper) is ModelState.UNLOADED
    assert capsys.readouterr().out == "dall-e-3: unloaded\n"
    assert moved(paper, "load", "openai/dall-e-3") == 0  # the name's slash is part of the path
    assert state(paper) is ModelState.READY
    assert capsys.readouterr().out == "dall-e-3: loaded\n"


@pytest.mark.parametrize(
    ("device", "states", "says"),
    [
        (None, None, "leaves once nothing is drawn with it"),
        ("cuda:1", {"cuda:0": "ready", "cuda:1": "unloaded"}, "unloaded"),
        ("cuda:0", {"cuda:0": "ready", "cuda:1": "unloaded"}, "leaves once nothing is drawn with it"),
        ("GPU-2", {"cuda:0": "ready", "cuda:1": "unloaded"}, "ready on cuda:0, unloaded on cuda:1"),
        ("cuda", {"cuda:0": "unloaded", "cuda:1": "unloaded"}, "unloaded"),
    ],
)
def test_what_is_said_of_an_unload_is_what_the_server_answers(
    device: str | None, states: dict[str, str] | None, says: str
) -> None:
    """It said that the model leaves, whether it had left or was being drawn with."""
    answer = {"id": "sdxl", "state": "ready"} if states is None else {"id": "sdxl", "state": "ready", "devices": states}
    assert command._left(answer, device) == says


def test_a_model_that_cannot_be_loaded_says_why(
    paper_servers: PaperServers, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paper = paper_servers.open()

    async def load(plan: ModelPlan, model: str) -> None:
        raise failures.unavailable(model)

    monkeypatch.setattr(paper.worker, "load", load)
    assert moved(paper, "load", "dall-e-3") == 1
    assert "cannot be loaded" in capsys.readouterr().err
    for name in ("nonsense", "non sense?x=1"):
        assert moved(paper, "unload", name) == 1
        assert "No such model" in capsys.readouterr().err


def test_it_takes_an_admins_key(
    paper_servers: PaperServers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paper = paper_servers.open(keys=True)
    keyring = Keyring(paper.app.state.services.settings.data_dir / "keys.json")
    for name, admin in (("other", False), ("owner", True)):
        (tmp_path / name).write_text(keyring.create(name, admin=admin))
        (tmp_path / name).chmod(0o600)

    def load(key: str) -> int:
        return moved(paper, "load", "dall-e-3", "--key-file", str(tmp_path / key))

    assert moved(paper, "load", "dall-e-3") == 1
    assert "No API key" in capsys.readouterr().err
    eventually(lambda: load("owner") == 0, within_s=10)  # the server looks at the keys file now and then
    capsys.readouterr()
    assert load("other") == 1
    assert "admin" in capsys.readouterr().err


def test_no_server_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    for action in ("load", "unload"):
        assert run("models", "--server", "http://127.0.0.1:9", action, "dall-e-3") == 1
        assert "no server answers at http://127.0.0.1:9" in capsys.readouterr().err
