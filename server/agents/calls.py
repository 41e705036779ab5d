"""Calls of tools: arguments become requests to the API, and what it answers becomes words and pictures.

Knows the tools and the API's client; knows neither the protocol nor where the server is.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import anyio.to_thread

from server.agents.api_client import ApiClient, Drawn, Ignored, Standing
from server.agents.folders import Folders
from server.agents.refusals import CallFailed
from server.agents.shown import MAX_BYTES, Shown, show
from server.agents.tools import CANCEL, EDIT, GENERATE, JOBS, MAX_PICTURES, MODELS, TOOLS, Tool

# How far a call is: a number that grows, what it grows to if that is known, and words.
Tell = Callable[[float, float | None, str], Awaitable[None]]
_WAITING_STEP: Final = 0.001  # by which progress grows while a job waits: the protocol wants it to grow each time
_STORE_FULL: Final = "store_full"
# Of a row of the models' list, what helps an agent to choose.
_OF_A_MODEL: Final = ("id", "default", "tasks", "sizes", "max_side", "default_size", "references", "max_steps",
                      "max_prompt", "backgrounds", "loras", "aliases", "state")  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What a call answers with."""

    text: str
    pictures: tuple[Shown, ...] = ()

    @property
    def size_bytes(self) -> int:
        """About what it takes on the wire, where pictures are base64."""
        return len(self.text) + sum(len(picture.data) for picture in self.pictures) * 4 // 3


async def call(
    name: str, arguments: Mapping[str, Any], api: ApiClient, tell: Tell, *, folders: Folders | None = None
) -> Answer:
    """Do one call. ``folders``: where files of this machine may be named. Raises CallFailed.

    Cancelling it cancels its job: the request that waits for the job ends.
    """
    tool = next((tool for tool in TOOLS if tool.name == name), None)
    if tool is None:
        raise CallFailed(f"There is no such tool. There are: {', '.join(tool.name for tool in TOOLS)}.")
    given = _given(tool, arguments, files=folders is not None)
    if tool is GENERATE:
        return await _draw(api, "generations", given, tell)
    if tool is EDIT:
        return await _draw(api, "edits", await _with_sources(given, folders), tell)
    if tool is MODELS:
        return _models(await api.ask("GET", "/v1/models"))
    if tool is JOBS:
        return Answer(_written(_rows(await api.ask("GET", "/v1/images/jobs"))))
    assert tool is CANCEL
    return Answer(_written(await api.ask("DELETE", f"/v1/images/jobs/{quote(str(given['job_id']), safe='')}")))


def _given(tool: Tool, arguments: Mapping[str, Any], *, files: bool) -> dict[str, Any]:
    """The arguments that say something. Their values are the API's to check."""
    known = tool.arguments(files=files)
    if arguments.keys() - known.keys():
        takes = ", ".join(known) if known else "no arguments"
        raise CallFailed(f"{tool.name} does not take one of these arguments. It takes: {takes}.")
    given = {name: value for name, value in arguments.items() if value is not None}
    for name in tool.schema(files=files)["required"]:
        if name not in given:
            raise CallFailed(f"{name} is required.")
    return given


async def _with_sources(given: dict[str, Any], folders: Folders | None) -> dict[str, Any]:
    """With pictures in place of paths. Raises CallFailed."""
    paths, mask_path = given.pop("image_paths", None), given.pop("mask_path", None)
    for there, by_path, name in ((given.get("images"), paths, "images"), (given.get("mask"), mask_path, "mask")):
        if there and by_path:
            raise CallFailed(f"{name}: is sent twice, as itself and by a path. Send one.")
    if isinstance(given.get("images"), str):
        given["images"] = [given["images"]]
    if folders is not None and paths:
        listed = [paths] if isinstance(paths, str) else paths
        if not isinstance(listed, list) or not all(isinstance(path, str) for path in listed):
            raise CallFailed("image_paths must be an array of paths.")
        given["images"] = [await anyio.to_thread.run_sync(folders.read, path, "image_paths") for path in listed]
    if folders is not None and mask_path:
        given["mask"] = await anyio.to_thread.run_sync(folders.read, str(mask_path), "mask_path")
    if not given.get("images"):
        raise CallFailed("images is required" + (", or image_paths." if folders is not None else "."))
    given.setdefault("size", "auto")  # what is edited keeps its size unless told otherwise
    return given


async def _draw(api: ApiClient, route: str, fields: Mapping[str, Any], tell: Tell) -> Answer:
    try:
        return await _drawn(api, route, {**fields, "response_format": "url"}, tell)
    except CallFailed as failure:
        if failure.code != _STORE_FULL:
            raise
    return await _drawn(api, route, fields, tell)  # refused before anything was drawn; the pictures come all the same


async def _drawn(api: ApiClient, route: str, fields: Mapping[str, Any], tell: Tell) -> Answer:
    n = fields.get("n", 1)
    share = MAX_BYTES // (n if isinstance(n, int) and 1 <= n <= MAX_PICTURES else 1)
    lines, pictures, progress = list[str](), list[Shown](), _Progress(tell)
    async with contextlib.aclosing(api.draw(route, fields)) as items:
        async for item in items:
            if isinstance(item, Standing):
                await progress.tell(item)
            elif isinstance(item, Ignored):
                lines.append(f"Without effect with this model: {', '.join(item.names)}.")
            else:
                pictures.append(await _shown(item, share))
                lines.append(_line(len(pictures), item, pictures[-1]))
    if not pictures:
        raise CallFailed("The answer ended before there was a picture. Try again.")
    return Answer("\n".join(lines), tuple(pictures))


async def _shown(drawn: Drawn, share: int) -> Shown:
    try:
        return await anyio.to_thread.run_sync(lambda: show(drawn.data, drawn.format, max_bytes=share))
    except (OSError, ValueError):
        raise CallFailed("The server's answer holds no picture; is it Darkroom?") from None


def _line(number: int, drawn: Drawn, shown: Shown) -> str:
    """What is told of a picture beside itself."""
    where = drawn.url or "no URL: the server has no room to keep it"
    facts = ", ".join(filter(None, (drawn.size, drawn.format, f"seed {drawn.seed}", shown.note)))
    return f"{number}. {where} ({facts})"


class _Progress:
    """Tells how far a job is, by its steps. What is told grows each time, also where only its place changes."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._told = 0.0

    async def tell(self, standing: Standing) -> None:
        if standing.state == "queued" or not standing.done:
            told, total = self._told + _WAITING_STEP, float(standing.of) or None
            words = "waiting" if standing.state == "queued" else "about to draw"
            if standing.place > 0:
                words = f"waiting, {standing.place} in line"
                words += "" if standing.eta_s is None else f", about {standing.eta_s:.0f} s"
        else:
            told, total = float(standing.done), float(standing.of)
            words = f"drawing, step {standing.done} of {standing.of}"
        if told > self._told:
            self._told = told
            await self._tell(told, total, words)


def _models(body: Mapping[str, Any]) -> Answer:
    """A row each; aliases stand in their model's."""
    rows = [row for row in _rows(body) if not row.get("alias_of")]
    return Answer(
        _written([{key: row[key] for key in _OF_A_MODEL if row.get(key) not in (None, [], {})} for row in rows])
    )


def _rows(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = body.get("data")
    if not isinstance(rows, list):
        raise CallFailed("The server's answer is no list; is it Darkroom?")
    return [row for row in rows if isinstance(row, dict)]


def _written(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
