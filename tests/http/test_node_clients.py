"""The Node clients that people use, as they are published, against a running server: pictures, edits, errors.

Each client is one program of tests/clients, run once over all its cases.
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.errors import ModelUnavailable, WorkerLost
from tests import node
from tests.paper import PaperServers
from tests.pictures import opened, pixels, png, right_half, scene
from tests.running import Running, eventually, start

pytestmark = pytest.mark.timeout(600)  # the first to run installs the packages

Reports = dict[str, dict[str, dict[str, Any]]]
CLIENTS = {
    "openai": "gpt-image-1",
    "aigne-hub": "aignehub/openai/gpt-image-1",
    "aigne-openai": "gpt-image-1",
    "aigne-doubao": "doubao-seedream-4-0-250828",
    "blocklet": "openai/gpt-image-1",
    "ai-sdk": "dall-e-2",
}
SIZE = {"ai-sdk": "256x256"}  # the smallest of dall-e-2's
EXTRA = {
    "openai": ["mask", "models"],
    "aigne-hub": ["edit by url", "models"],
    "blocklet": ["helper", "status", "user"],
}
# Its own list of models is checked before anything is sent.
NOT_SENT = {("aigne-doubao", "no model")}


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The server that draws, with a key."""
    node.install(node.CLIENTS)
    with start(tmp_path_factory.mktemp("data"), keys=True) as running:
        yield running


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """The addresses and keys of servers that cannot draw: one is full, one has no model."""
    with PaperServers(tmp_path_factory.mktemp("servers")) as paper_servers:
        full, broken = paper_servers.open(keys=True, queue_size=1), paper_servers.open(keys=True)
        full.worker.gate.clear()
        broken.worker.failure = ModelUnavailable("gpt-image-1 cannot be served: its folder is missing.")
        waiting = threading.Thread(target=full.post, args=({"prompt": "x"},), kwargs={"timeout": 300})
        waiting.start()
        eventually(lambda: full.worker.drawings)
        yield {
            "busy": {"url": full.url, "key": full.key},
            "broken": {"url": broken.url, "key": broken.key},
            "open": {"url": paper_servers.open().url, "key": "any"},
        }
        full.worker.gate.set()
        waiting.join(30)


@pytest.fixture(scope="module")
def reports(keyed: Running, troubled: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Reports:
    """What each client reported. A client is run when it is first asked for."""
    return _Lazily(keyed, troubled, tmp_path_factory)


class _Lazily(dict[str, dict[str, dict[str, Any]]]):
    def __init__(self, keyed: Running, troubled: dict[str, dict[str, Any]], folders: pytest.TempPathFactory) -> None:
        super().__init__()
        self._keyed, self._troubled, self._folders = keyed, troubled, folders

    def __missing__(self, client: str) -> dict[str, dict[str, Any]]:
        folder = self._folders.mktemp(client)
        sources = {"SOURCE": folder / "source.png", "MASK": folder / "mask.png"}
        sources["SOURCE"].write_bytes(png(scene(96, 96)))
        sources["MASK"].write_bytes(png(right_half(96, 96)))
        environment = {name: str(path) for name, path in sources.items()}
        self[client] = node.report(f"{client}.mjs", self._cases(client), folder, **environment)
        return self[client]

    def _cases(self, client: str) -> list[dict[str, Any]]:
        usual = {"url": self._keyed.url, "key": self._keyed.key, "model": CLIENTS[client]}
        usual["size"] = SIZE.get(client, "64x64")
        cases = [{"name": task, "task": task} for task in ("draw", "edit", *EXTRA.get(client, ()))]
        cases += [
            *([{"name": "open models", "task": "models", **self._troubled["open"]}] if client == "aigne-hub" else []),
            {"name": "wrong key", "key": "dr-nobody"},
            {"name": "no model", "model": "aignehub/openai/no-such" if client == "aigne-hub" else "openai/no-such"},
            {"name": "bad size", "size": "7x7x7"},
            *({"name": name, **self._troubled[name]} for name in ("busy", "broken")),
        ]
        return [{**usual, **case} for case in cases]


@pytest.mark.parametrize("task", ["draw", "edit"])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_picture_and_an_edit_arrive_whole(reports: Reports, client: str, task: str) -> None:
    _assert_pictures(client, reports[client][task], 2 if task == "draw" and client in ("openai", "aigne-hub") else 1)


@pytest.mark.parametrize(("client", "task"), [("openai", "mask"), ("aigne-hub", "edit by url"), ("blocklet", "helper")])
def test_other_ways_to_a_picture(reports: Reports, client: str, task: str) -> None:
    _assert_pictures(client, reports[client][task], 1)


def _assert_pictures(client: str, line: dict[str, Any], count: int) -> None:
    assert "error" not in line, line
    assert len(line["pictures"]) == count
    width, height = (int(side) for side in SIZE.get(client, "64x64").split("x"))
    for picture in line["pictures"]:
        image = opened(Path(picture["file"]).read_bytes())
        assert (image.format, image.size, picture["mime"]) == ("PNG", (width, height), "image/png")
        assert pixels(Path(picture["file"]).read_bytes()).std() > 5  # not one flat colour


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("case", "status", "says"),
    [
        ("wrong key", 401, "This API key is not known here."),
        ("no model", 404, "No such model. This server has: dall-e-2"),
        ("bad size", 400, "size"),
        ("busy", 429, "queue"),
        ("broken", 503, "its folder is missing"),
    ],
)
def test_the_reason_of_a_failure_reaches_the_user(
    reports: Reports, client: str, case: str, status: int, says: str
) -> None:
    error = reports[client][case]["error"]
    if (client, case) in NOT_SENT:
        assert "only support" in error["message"]
        return
    assert says in error["message"], error
    if client in ("openai", "aigne-openai"):
        assert error["status"] == status, error


def test_lists_and_states_are_read(reports: Reports) -> None:
    assert {"dall-e-2", "dall-e-3", "gpt-image-1"} <= set(reports["openai"]["models"]["result"])
    rows = {row["model"]: row for row in reports["aigne-hub"]["open models"]["result"]}
    assert rows["dall-e-3"]["provider"] == "openai"
    assert rows["dall-e-3"]["status"] == {"available": True}
    assert reports["blocklet"]["status"]["result"] == {"available": True}
    user = reports["blocklet"]["user"]["result"]
    assert user["user"]["fullName"] == "tester"
    assert user["enableCredit"] is False


def test_the_hubs_own_list_of_models_needs_a_server_without_keys(reports: Reports) -> None:
    """models() of @aigne/aigne-hub sends no key, and names of models are not told to strangers."""
    assert "401" in reports["aigne-hub"]["models"]["error"]["message"]


@pytest.mark.parametrize("fails", [False, True], ids=["drawn", "failed"])
def test_a_hub_client_is_not_made_to_ask_again(tmp_path: Path, fails: bool) -> None:
    """@aigne/aigne-hub repeats a request that has no headers after its timeout, here 4 s instead of 60."""
    node.install(node.CLIENTS)
    with PaperServers(tmp_path / "servers") as paper_servers:
        paper = paper_servers.open(hub_headers_s=1)
        paper.worker.gate.clear()
        paper.worker.failure = WorkerLost("The worker ended in mid-picture.") if fails else None

        def finish() -> None:
            eventually(lambda: paper.worker.drawings)
            threading.Timer(7, paper.worker.gate.set).start()

        threading.Thread(target=finish).start()
        cases = [{"name": "slow", "url": paper.url, "key": "any", "model": CLIENTS["aigne-hub"], "size": "64x64"}]
        line = node.report("aigne-hub.mjs", cases, tmp_path, TIMEOUT="4000")["slow"]
        assert len(paper.worker.drawings) == 1
    if fails:
        assert "The worker ended in mid-picture." in line["error"]["message"]
    else:
        assert all(opened(Path(picture["file"]).read_bytes()) for picture in line["pictures"])


@pytest.mark.long
class TestAigneRun:
    """`aigne run`, on the agents of tests/clients/cli."""

    def test_a_picture_and_an_edit(self, keyed: Running, tmp_path: Path) -> None:
        node.install(node.CLI)
        source, given = tmp_path / "source.png", tmp_path / "given.json"
        source.write_bytes(png(scene(96, 96)))
        given.write_text(json.dumps({"picture": [{"type": "local", "path": str(source)}]}), encoding="utf-8")
        assert keyed.key is not None
        for agent, more in (("painter", []), ("editor", ["--input", f"@{given}", "--format", "json"])):
            out = tmp_path / f"{agent}.json"
            done = self._run(tmp_path, keyed.url, keyed.key, agent, "-o", str(out), *more)
            assert done.returncode == 0, done.stderr
            (image,) = json.loads(out.read_text(encoding="utf-8"))["images"]
            assert (image["type"], image["mimeType"]) == ("local", "image/png")
            assert opened(Path(image["path"]).read_bytes()).size == (64, 64)

    def test_the_reason_of_a_failure(self, keyed: Running, tmp_path: Path) -> None:
        node.install(node.CLI)
        done = self._run(tmp_path, keyed.url, "dr-nobody", "painter")
        assert done.returncode != 0
        assert "This API key is not known here." in done.stdout + done.stderr

    def _run(self, folder: Path, url: str, key: str, agent: str, *more: str) -> subprocess.CompletedProcess[str]:
        command = ["cli/node_modules/@aigne/cli/dist/cli.js", "run", "cli/agents", agent, "--subject", "a red apple"]
        return node.run([*command, *more], folder, AIGNE_HUB_API_URL=url, AIGNE_HUB_API_KEY=key, TMPDIR=str(folder))
