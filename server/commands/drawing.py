"""One request to a server: sent, watched while it is drawn, and its pictures taken as they come.

Knows the API from outside, streamed and not; knows nothing of terminals and files.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx

from server.agents.api_client import Standing, standing
from server.commands.connection import read_json, refusal
from server.commands.failure import CommandFailed
from server.commands.saving import ENDINGS

_EVENT_STREAM = "text/event-stream"


@dataclass(frozen=True)
class PictureRequest:
    """The request for pictures: a route below /v1/images/, and its fields."""

    route: str  # generations or edits
    fields: dict[str, Any]

    @property
    def prompt(self) -> str:
        return str(self.fields["prompt"])

    @property
    def n(self) -> int:
        return int(self.fields.get("n", 1))


@dataclass(frozen=True)
class Drawn:
    """A finished picture."""

    data: bytes
    seed: int
    format: str  # png, jpeg or webp


async def draw(client: httpx.AsyncClient, request: PictureRequest) -> AsyncIterator[Standing | Drawn]:
    """Send the request. Yields its job's status, where the server tells it, and its pictures. Raises CommandFailed."""
    body = {**request.fields, "response_format": "b64_json"}
    streamed = {**body, "stream": True, "stream_progress": True}
    path = f"/v1/images/{request.route}"
    async with client.stream("POST", path, json=streamed) as response:
        if not await _refuses_streams(response):
            async for item in _read(response):
                yield item
            return
    async with client.stream("POST", path, json=body) as response:
        async for item in _read(response):
            yield item


async def _refuses_streams(response: httpx.Response) -> bool:
    """Whether the answer is that of a server that does not stream."""
    if response.status_code != 400:
        return False
    await response.aread()
    error = read_json(response.text).get("error")
    return isinstance(error, dict) and error.get("param") == "stream"


async def _read(response: httpx.Response) -> AsyncIterator[Standing | Drawn]:
    if response.status_code != 200:
        await response.aread()
        raise refusal(response.status_code, read_json(response.text))
    if response.headers.get("content-type", "").startswith(_EVENT_STREAM):
        async for item in _events(response):
            yield item
        return
    await response.aread()
    answer = read_json(response.text)
    for item in answer.get("data") or ():
        yield _drawn(item, answer.get("output_format", "png"))


async def _events(response: httpx.Response) -> AsyncIterator[Standing | Drawn]:
    async for line in response.aiter_lines():
        if not line.startswith("data:"):
            continue  # names of events, which the data repeat, and comments that keep the connection alive
        event = read_json(line[len("data:") :])
        kind = str(event.get("type"))
        if kind == "error":
            raise refusal(200, event)
        if kind.endswith(".completed"):
            yield _drawn(event, event.get("output_format", "png"))
        elif kind == "darkroom.progress":
            yield standing(event)


def _drawn(item: dict[str, Any], format_: Any) -> Drawn:
    try:
        if format_ not in ENDINGS:
            raise ValueError("a format that has no ending")
        return Drawn(base64.b64decode(item["b64_json"], validate=True), int(item.get("seed", 0)), format_)
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise CommandFailed("the server's answer holds no picture; is it Darkroom?") from None
