"""The API as a tool's call asks it: JSON, streams of events, and the one shape of errors.

Knows the API from outside and the HTTP client; knows nothing of tools. What the client is connected to, a server
somewhere or the application around this call, is its maker's to decide.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio.to_thread
import httpx

from server.agents.refusals import CallFailed

_EVENT_STREAM = "text/event-stream"
_LARGE_CHARACTERS = 256 * 1024  # of base64: beyond it is decoded on a thread


@dataclass(frozen=True)
class Place:
    """The server that is asked, in words, for messages: how it is called, and what helps where none answers, or where
    it does not know the key."""

    name: str
    absent: str = ""
    unknown_key: str = ""


@dataclass(frozen=True)
class Standing:
    """How far a job is. ``place`` 1: the next to be drawn. Steps are 0 of 0 until they are counted."""

    state: str  # queued or running
    place: int
    eta_s: float | None
    done: int
    of: int


@dataclass(frozen=True)
class Drawn:
    """A finished picture. ``url``: None where the server had no room to keep it."""

    data: bytes = field(repr=False)
    url: str | None
    seed: int
    size: str  # WIDTHxHEIGHT
    format: str  # png, jpeg or webp


@dataclass(frozen=True)
class Ignored:
    """Arguments that were sent and change nothing with this model."""

    names: tuple[str, ...]


class ApiClient:
    """What tools ask of one server. Every method raises CallFailed."""

    def __init__(self, client: httpx.AsyncClient, place: Place) -> None:
        self._client = client
        self._place = place

    async def ask(self, method: str, path: str) -> dict[str, Any]:
        """A JSON object of the API."""
        with self._failures():
            answer = await self._client.request(method, path)
        body = _object(answer.content)
        if not answer.is_success:
            raise self._refusal(answer, body)
        return body

    async def draw(self, route: str, fields: Mapping[str, Any]) -> AsyncGenerator[Standing | Drawn | Ignored]:
        """Pictures of generations or edits, and how far their job is meanwhile."""
        body = {**fields, "stream": True, "stream_progress": True}
        content = await anyio.to_thread.run_sync(lambda: json.dumps(body).encode("ascii"))  # pictures are megabytes
        path, headers = f"/v1/images/{route}", {"content-type": "application/json"}
        with self._failures():
            async with self._client.stream("POST", path, content=content, headers=headers) as answer:
                if not answer.is_success or not answer.headers.get("content-type", "").startswith(_EVENT_STREAM):
                    raise self._refusal(answer, _object(await answer.aread()))
                if ignored := answer.headers.get("x-ignored-fields"):
                    yield Ignored(tuple(name.strip() for name in ignored.split(",")))
                async with contextlib.aclosing(self._read(answer)) as items:
                    async for item in items:
                        yield item

    async def _read(self, answer: httpx.Response) -> AsyncGenerator[Standing | Drawn]:
        async for line in answer.aiter_lines():
            if not line.startswith("data:"):
                continue  # names of events, which the data repeat, and comments that keep the connection alive
            event = _object(line[len("data:") :].encode())
            kind = str(event.get("type"))
            if kind == "error":
                raise self._refusal(answer, event)
            if kind.endswith(".completed"):
                yield await _drawn(event)
            elif kind == "darkroom.progress":
                yield standing(event)

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """What the way to the server can do, in words."""
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise CallFailed(f"No server answers at {self._place.name}. {self._place.absent}".strip()) from None
        except httpx.TransportError as error:
            raise CallFailed(f"{self._place.name} broke off ({type(error).__name__}). Try again.") from None

    def _refusal(self, answer: httpx.Response, body: Mapping[str, Any]) -> CallFailed:
        """The server's own words, and what an agent or its user can do about it."""
        error = body.get("error")
        message = error.get("message") if isinstance(error, dict) else None
        if not isinstance(error, dict) or not isinstance(message, str):
            return CallFailed(
                f"{self._place.name} answered {answer.status_code}, and not as Darkroom does; is the URL right?"
            )
        if answer.status_code == 401 and self._place.unknown_key:
            return CallFailed(f"{message} {self._place.unknown_key}", code="invalid_api_key")
        wait = answer.headers.get("retry-after", "")
        if answer.status_code in (429, 503) and wait.isdigit():
            message = f"{message} Try again in {wait} s."
        return CallFailed(message, code=str(error.get("code") or ""))


def standing(event: Mapping[str, Any]) -> Standing:
    """What an event of progress says."""
    return Standing(
        str(event.get("state")),
        int(event.get("place") or 0),
        event.get("eta_s"),
        int(event.get("done") or 0),
        int(event.get("of") or 0),
    )


async def _drawn(event: Mapping[str, Any]) -> Drawn:
    try:
        text = event["b64_json"]
        if len(text) < _LARGE_CHARACTERS:
            data = _decoded(text)
        else:
            data = await anyio.to_thread.run_sync(_decoded, text)
    except (KeyError, TypeError, binascii.Error):
        raise CallFailed("The server's answer holds no picture; is it Darkroom?") from None
    url = event.get("url")
    return Drawn(
        data,
        url if isinstance(url, str) else None,
        int(event.get("seed") or 0),
        str(event.get("size") or ""),
        str(event.get("output_format") or "png"),
    )


def _decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _object(text: bytes) -> dict[str, Any]:
    """A JSON object; an empty one for all else."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
