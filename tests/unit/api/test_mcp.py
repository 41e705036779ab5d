"""/mcp and `darkroom mcp` where agents are not served: each says why, and what helps."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from server import setting_values
from server.cli import build_parser
from server.errors import ConfigError
from server.settings import read_settings
from tests.paper import Paper, PaperServers
from tests.running import ROOT
from tests.unit.commands.command_line import run

EXTRA = "pip install 'darkroom[mcp]'"
INITIALIZE = {"jsonrpc": "2.0", "id": 1, "method": "initialize"}


@pytest.fixture
def without_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("server.setting_values", "server.api.mcp"):
        monkeypatch.setattr(f"{module}.has_mcp", lambda: False)


@pytest.mark.usefixtures("without_the_sdk")
def test_without_the_extra_the_route_names_it(paper: Paper) -> None:
    answer = paper.post(INITIALIZE, "/mcp")
    assert answer.status_code == 404
    assert EXTRA in answer.json()["error"]["message"]
    assert answer.json()["error"]["data"]["code"] == "not_found"


def test_switched_off_the_route_names_the_setting(paper_servers: PaperServers) -> None:
    answer = paper_servers.open(mcp=False).post(INITIALIZE, "/mcp")
    assert answer.status_code == 404
    assert "DARKROOM_MCP" in answer.json()["error"]["message"]


def test_a_stranger_learns_neither(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(keys=True)
    with paper.live.client() as client:
        assert client.post("/mcp", json=INITIALIZE).status_code == 401


@pytest.mark.usefixtures("without_the_sdk")
def test_the_setting_is_refused_without_the_extra_and_its_default_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings().mcp
    assert not read_settings(mcp=False).mcp
    monkeypatch.setenv("DARKROOM_MCP", "true")
    with pytest.raises(ConfigError) as refused:
        read_settings()
    assert str(refused.value).startswith("DARKROOM_MCP (--mcp) = true: ")
    assert EXTRA in str(refused.value)


@pytest.mark.usefixtures("without_the_sdk")
def test_the_command_names_the_extra(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("mcp") == 2
    assert EXTRA in capsys.readouterr().err


@pytest.mark.skipif(not setting_values.has_mcp(), reason=f"needs the SDK of MCP: {EXTRA}")
def test_the_command_says_what_is_wrong_with_its_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, says in (
        (("--folder", str(tmp_path / "gone")), "gone: is no folder"),
        (("--server", "ftp://x"), "must look like http://127.0.0.1:8000"),
        (("--key-file", str(tmp_path / "gone")), "--key-file"),
    ):
        assert run("mcp", *flags) == 2
        assert says in capsys.readouterr().err


def test_a_front_that_no_agent_asks_has_none_of_it(tmp_path: Path) -> None:
    """It is half a second and 25 MB."""
    code = f"""if True:
        import sys
        from pathlib import Path
        from server.app import create_app
        from server.settings import Settings
        create_app(Settings(data_dir=Path({str(tmp_path)!r}), models=Path("models.yaml"), devices="cpu"))
        print([name for name in sys.modules if name.split(".")[0] in ("mcp", "mcp_types", "httpx2", "sse_starlette")
               or name.startswith("server.agents.")])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_the_snippets_for_agents_can_be_pasted() -> None:
    """They are JSON, name flags that there are, and variables that a server reads."""
    text = (ROOT / "docs" / "mcp.md").read_text(encoding="utf-8")
    snippets = [json.loads(body) for body in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]
    servers = [each for snippet in snippets for (group,) in [snippet.values()] for each in group.values()]
    assert len(servers) == 3
    for server in servers:
        if "command" in server:
            assert build_parser().parse_args(server["args"]).command == "mcp"
            assert set(server["env"]) == {"DARKROOM_URL", "DARKROOM_API_KEY"}
        else:
            assert server["url"].endswith("/mcp")
