"""The official MCP client against this server: over stdio, where it starts `darkroom mcp`, and at /mcp, in the protocol
of the handshake versions and in the later one that has none.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.edge.keys import Keyring
from tests.assertions import assert_api_error
from tests.paper import Paper, PaperServers
from tests.pictures import opened, pixels, png, scene
from tests.running import ROOT, Running, start

pytest.importorskip("mcp_types", reason="needs the SDK of MCP: pip install 'darkroom[mcp]'")

import httpx2  # the SDK's
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

pytestmark = pytest.mark.anyio

WAYS = ("http legacy", "http auto", "stdio legacy", "stdio auto")
HTTP = WAYS[:2]
Progress = list[tuple[float, float | None, str | None]]
QUICK = {"model": "darkroom-mini", "size": "64x64", "steps": 2, "seed": 7}


@contextlib.asynccontextmanager
async def connected(way: str, url: str, key: str | None = None, *flags: str) -> AsyncIterator[Any]:
    """A client of the server at ``url``."""
    transport, mode = way.split()
    if transport == "stdio":
        environment = {"PYTHONPATH": str(ROOT), "DARKROOM_URL": url, **({"DARKROOM_API_KEY": key} if key else {})}
        command = StdioServerParameters(command=sys.executable, args=["-m", "server", "mcp", *flags], env=environment)
        async with Client(command, mode=mode) as client:
            yield client
        return
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False, verify=False) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


async def called(client: Any, tool: str, progress: Progress | None = None, **arguments: Any) -> tuple[str, list[bytes]]:
    """The words and pictures of a call that succeeds."""

    async def hear(done: float, total: float | None, words: str | None) -> None:
        assert progress is not None
        progress.append((done, total, words))

    result = await client.call_tool(tool, arguments, progress_callback=None if progress is None else hear)
    first, *others = result.content
    assert not result.is_error, first.text
    assert [(other.type, other.mime_type) for other in others] == [("image", "image/png")] * len(others)
    return first.text, [base64.b64decode(other.data, validate=True) for other in others]


async def refused(client: Any, tool: str, **arguments: Any) -> str:
    """The words of a call that fails."""
    result = await client.call_tool(tool, arguments)
    (text,) = result.content
    assert result.is_error, text
    assert "Traceback" not in text.text
    return str(text.text)


async def until(probe: Any, within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not probe():  # noqa: ASYNC110, set from another thread
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("way", WAYS)
async def test_a_picture_and_its_edit(server: Running, tmp_path: Path, way: str) -> None:
    """Each is decoded, is what its URL leads to, and what the API draws of the same fields."""
    (tmp_path / "source.png").write_bytes(png(scene(64, 64)))
    flags = ("--folder", str(tmp_path)) if way.startswith("stdio") else ()
    async with connected(way, server.url, None, *flags) as client:
        progress: Progress = []
        text, (picture,) = await called(client, "generate_image", progress, prompt="a red apple", **QUICK)
        url, _, facts = text.removeprefix("1. ").partition(" ")
        assert facts == "(64x64, png, seed 7)"
        assert await asyncio.to_thread(fetched, url) == picture
        assert opened(picture).size == (64, 64)
        assert pixels(picture).std() > 5  # not one flat colour
        assert [done for done, _, _ in progress] == sorted({done for done, _, _ in progress})
        assert progress[-1] == (2, 2, "drawing, step 2 of 2")
        source: dict[str, Any] = (
            {"image_paths": ["source.png"]} if flags else {"images": [f"data:image/png;base64,{b64(tmp_path)}"]}
        )
        for images in ({"images": [url]}, source):
            fields: dict[str, Any] = {
                "prompt": "a green apple",
                "model": "darkroom-mini",
                "steps": 4,
                "strength": 0.5,
                "seed": 7,
            }
            _, (edited,) = await called(client, "edit_image", **fields, **images)
            assert opened(edited).size == (64, 64)  # kept
            assert (pixels(edited) != pixels(picture)).any()
    direct = (await asyncio.to_thread(server.draw, prompt="a red apple", response_format="b64_json", **QUICK)).json()
    assert base64.b64decode(direct["data"][0]["b64_json"]) == picture


def fetched(url: str) -> bytes:
    return httpx.get(url, trust_env=False, verify=False).content


def b64(folder: Path) -> str:
    return base64.b64encode((folder / "source.png").read_bytes()).decode()


@pytest.mark.parametrize("way", WAYS)
async def test_what_there_is_and_what_there_is_not(paper: Paper, way: str) -> None:
    async with connected(way, paper.url) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert list(tools) == ["generate_image", "edit_image", "list_models", "list_jobs", "cancel_job"]
        assert ("image_paths" in tools["edit_image"].input_schema["properties"]) == way.startswith("stdio")
        models = json.loads((await called(client, "list_models"))[0])
        assert {"dall-e-2", "dall-e-3"} <= {model["id"] for model in models}
        text, pictures = await called(client, "generate_image", prompt="x", n=3, seed=5)
        assert len(pictures) == 3
        assert re.findall(r"seed (\d+)", text) == ["5", "6", "7"]
        jobs = json.loads((await called(client, "list_jobs"))[0])
        assert jobs[-1]["status"] == "done"
        assert json.loads((await called(client, "cancel_job", job_id=jobs[-1]["id"]))[0])["status"] == "done"
        for arguments, says in (
            ({"model": "nope"}, "No such model. This server has: dall-e-2"),
            ({"size": "7x7x7"}, "size is not one that dall-e-2 makes."),
            ({"steps": 100_000}, "steps must be less than or equal to 500"),
            ({"n": 11}, "n must be an integer from 1 to 10."),
            ({"colour": "red"}, "generate_image does not take one of these arguments."),
        ):
            assert (await refused(client, "generate_image", prompt="x", **arguments)).startswith(says)
        assert "no such job" in await refused(client, "cancel_job", job_id="job_gone")
        assert "images" in await refused(client, "edit_image", prompt="x", images=["not a picture"])
        assert "There is no such tool" in await refused(client, "paint")


@pytest.mark.parametrize("way", ["stdio legacy", "stdio auto"])
async def test_without_a_server_the_tools_are_listed_and_a_call_says_what_to_start(way: str) -> None:
    async with connected(way, "http://127.0.0.1:9") as client:
        assert len((await client.list_tools()).tools) == 5
        said = await refused(client, "generate_image", prompt="x")
    assert said.startswith("No server answers at http://127.0.0.1:9. Start one on this machine with `darkroom serve`")
    assert "DARKROOM_URL" in said


async def test_a_key_is_asked_for_and_tells_whose_jobs_are_seen(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(keys=True, key_jobs=1)
    other = await second_key(paper)
    async with connected("stdio legacy", paper.url, "dr-wrong") as client:
        said = await refused(client, "list_models")
        assert said.startswith("This API key is not known here.")
        assert "DARKROOM_API_KEY" in said
    for way in HTTP:
        with pytest.raises(Exception) as raised:  # noqa: PT011, whatever the client makes of it
            async with connected(way, paper.url, "dr-wrong") as client:
                await client.list_tools()
        assert "This API key is not known here." in "".join(traceback.format_exception(raised.value))
    async with connected("http auto", paper.url, paper.key) as mine, connected("http auto", paper.url, other) as theirs:
        await called(mine, "generate_image", prompt="x")
        assert len(json.loads((await called(mine, "list_jobs"))[0])) == 1
        assert json.loads((await called(theirs, "list_jobs"))[0]) == []
        paper.worker.gate.clear()
        waiting = asyncio.create_task(called(mine, "generate_image", prompt="y"))
        await until(lambda: len(paper.worker.drawings) == 2)
        said = await refused(mine, "generate_image", prompt="z")  # the limit is one for all ways in
        job = json.loads((await called(mine, "list_jobs"))[0])[-1]["id"]
        assert "no such job" in await refused(theirs, "cancel_job", job_id=job)
        paper.worker.gate.set()
        await waiting
    assert "Try again in" in said


async def second_key(paper: Paper) -> str:
    """Another key of this server, once that knows it."""
    keyring = paper.app.state.keyring
    key = Keyring(paper.app.state.services.settings.data_dir / "keys.json").create("other")
    await until(lambda: keyring.principal_of(key))
    return key


@pytest.mark.parametrize("way", WAYS)
async def test_a_cancelled_call_cancels_its_job(paper: Paper, way: str) -> None:
    async with connected(way, paper.url) as client:
        paper.worker.gate.clear()
        call = asyncio.create_task(client.call_tool("generate_image", {"prompt": "x"}))
        await until(lambda: paper.worker.drawings)
        call.cancel()
        await until(lambda: paper.worker.cancelled)
        paper.worker.gate.set()
        await until(lambda: paper.app.state.services.queue.held == 0)
        await called(client, "generate_image", prompt="y")  # the session goes on
    await until(lambda: paper.app.state.services.budget.held == 0)


async def test_a_client_that_leaves_cancels_its_job(paper: Paper) -> None:
    """Without a word, as a program that is killed does."""
    paper.worker.gate.clear()
    message = call_of("generate_image", {"prompt": "x"})
    async with httpx.AsyncClient(base_url=paper.url, timeout=20, trust_env=False, verify=False) as client:
        call = asyncio.create_task(client.post("/mcp", json=message, headers=READS_BOTH))
        await until(lambda: paper.worker.drawings)
        call.cancel()
    await until(lambda: paper.worker.cancelled)


async def test_nobody_cancels_the_call_of_another_client(paper_servers: PaperServers) -> None:
    """Clients count their messages each for itself: two have the same id at any time."""
    paper = paper_servers.open(keys=True)
    other = await second_key(paper)
    paper.worker.gate.clear()
    mine = {**READS_BOTH, "authorization": f"Bearer {paper.key}", "mcp-session-id": "a"}
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    async with httpx.AsyncClient(base_url=paper.url, timeout=20, trust_env=False, verify=False) as client:
        call = asyncio.create_task(client.post("/mcp", json=call_of("generate_image", {"prompt": "x"}), headers=mine))
        await until(lambda: paper.worker.drawings)
        for change in ({"authorization": f"Bearer {other}"}, {"mcp-session-id": "b"}):
            answer = await client.post("/mcp", json=cancel, headers={**mine, **change})
            assert answer.status_code == 202
        assert not call.done()
        assert paper.worker.cancelled == []
        assert (await client.post("/mcp", json=cancel, headers=mine)).status_code == 202
        assert "cancelled" in (await call).text
    await until(lambda: paper.worker.cancelled)


READS_BOTH = {"accept": "application/json, text/event-stream"}


def call_of(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}


def assert_rpc_error(response: httpx.Response, status: int, code: str) -> None:
    """The one shape of failure, in that of JSON-RPC: its message is what clients show."""
    body = response.json()
    assert (body.pop("jsonrpc"), body.pop("id")) == ("2.0", None)
    error = body["error"]
    assert error["code"] == (-32603 if status >= 500 else -32600)
    plain = json.dumps({"error": {"message": error["message"], **error["data"]}})
    assert_api_error(httpx.Response(response.status_code, headers=response.headers, text=plain), status, code)


def test_json_for_who_reads_json_alone_and_no_session_is_needed(paper: Paper) -> None:
    message = call_of("generate_image", {"prompt": "x"})
    answer = paper.post(message, "/mcp", headers={"accept": "application/json"})
    assert answer.headers["content-type"] == "application/json"
    assert [item["type"] for item in answer.json()["result"]["content"]] == ["text", "image"]
    streamed = paper.post(message, "/mcp", headers=READS_BOTH)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert paper.post(message, "/mcp", headers={**READS_BOTH, "mcp-session-id": "of-a-server-before"}).is_success


def test_what_is_no_message_is_refused(paper: Paper) -> None:
    for body, status in (
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'{"jsonrpc": "2.0"}', 400),
        (b'{"a": [' + b"[]," * 600_000 + b"0]}", 400),
        (b'"' + bytes(65 * 2**20), 413),
    ):
        with paper.client() as client:
            answer = client.post("/mcp", content=body, headers={**READS_BOTH, "content-type": "application/json"})
        assert answer.status_code == status, body[:50]
    with paper.client() as client:
        assert_rpc_error(client.post("/mcp", data={"a": "b"}), 400, "invalid_value")
        for method in ("GET", "DELETE"):
            answer = client.request(method, "/mcp")
            assert_rpc_error(answer, 405, "method_not_allowed")
            assert answer.headers["allow"] == "POST, OPTIONS"


@pytest.mark.parametrize(
    ("headers", "code"), [({"origin": "http://evil.test"}, "origin_refused"), ({"host": "evil.test"}, "host_refused")]
)
def test_a_web_page_of_somebody_else_cannot_ask(paper: Paper, headers: dict[str, str], code: str) -> None:
    answer = paper.post(call_of("list_models", {}), "/mcp", headers={**READS_BOTH, **headers})
    assert_rpc_error(answer, 400, code)


async def test_prompts_and_keys_are_not_logged(paper_servers: PaperServers, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "darkroom")
    paper = paper_servers.open(keys=True)
    async with connected("http legacy", paper.url, paper.key) as client:
        await called(client, "generate_image", prompt="canary-prompt")
        await refused(client, "generate_image", prompt="canary-prompt", model="canary-model")
    for params in ({"name": "canary-name", "arguments": "canary-arguments"}, "canary-params", {"_meta": "canary-meta"}):
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        paper.post(message, "/mcp", headers=READS_BOTH)
    assert "request" in caplog.text
    assert "canary" not in caplog.text
    assert (paper.key or "") not in caplog.text


async def test_an_unforeseen_failure_is_told_without_its_text(
    paper: Paper, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from server.api import mcp_exchange

    async def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("canary")

    monkeypatch.setattr(mcp_exchange, "call", fail)
    for way in HTTP:
        async with connected(way, paper.url) as client:
            assert await refused(client, "list_models") == "The server failed on this request; its log says why."
    assert "unforeseen RuntimeError" in caplog.text
    assert "canary" not in caplog.text


async def test_what_is_drawn_at_a_signal_is_finished(tmp_path: Path) -> None:
    """The SDK's streams ended half a second after it."""
    with start(tmp_path) as running:
        async with connected("http legacy", running.url) as client:
            begun = asyncio.Event()
            await client.list_tools()  # else the client asks for them after the call

            async def hear(done: float, total: float | None, words: str | None) -> None:
                if done >= 1:
                    begun.set()

            arguments = {"prompt": "a red apple", "model": "darkroom-mini", "size": "256x256", "steps": 60}
            call = asyncio.create_task(client.call_tool("generate_image", arguments, progress_callback=hear))
            await begun.wait()
            running.process.terminate()
            result = await call
            assert not result.is_error
            assert [item.type for item in result.content] == ["text", "image"]
        assert await asyncio.to_thread(running.process.wait, 60) == 0, running.log


async def test_stdio_ends_with_its_input() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "server", "mcp", cwd=ROOT, stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=plain_environment(),
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(b"canary\n"), 30)
    assert (process.returncode, err) == (0, b"")
    assert b"canary" not in out


def plain_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")}
