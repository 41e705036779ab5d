"""A server for ``darkroom bench`` that answers every request at once, without a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import cast

import httpx
from rich.progress import Progress

from server.commands.bench import load
from server.commands.bench.load import LoadResult
from server.commands.bench.mix import TASKS, Ask, Mix

EVERYTHING = Mix(sizes=("256x256", "512x512"), steps=(4, 9), guidance=(1.0, 5.0), tasks=TASKS, counts=(1, 2), model="m")

STEP = {"fixed_ms": 3.14, "row_ms": 1.2, "pixels": 4096, "most_rows": 48, "steps": 900, "guess": False}

Body = dict[str, object]
Answer = Callable[[Body], AsyncIterator[bytes]]


def event(kind: str, **fields: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def told(done: int) -> bytes:
    return event("darkroom.progress", state="running" if done else "queued", done=done, of=4)


class Stub:
    """Answers every request at once: the numbers in ``refused`` with 503, the others with ``answer``, by default the
    news of a step and pictures."""

    def __init__(self, refused: frozenset[int] = frozenset(), answer: Answer | None = None) -> None:
        self.bodies: list[dict[str, object]] = []
        self.keys: set[str | None] = set()
        self.most_at_once = 0
        self._refused = refused
        self._answer = answer or drawn
        self._at_once = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/metrics":
            lines = [f'darkroom_engine{{counter="unet_forwards"}} {10.0 + len(self.bodies)}']
            lines += [f'darkroom_engine{{counter="unet_rows"}} {20.0 + 6 * len(self.bodies)}']
            lines += ['darkroom_engine{counter="vae_forwards"} 999.0', 'darkroom_engine{counter="vae_rows"} 999.0']
            return httpx.Response(200, text="\n".join(lines))
        if request.url.path == "/readyz":
            models = {"m": {"state": "ready", "step": STEP}, "n": {"state": "loading"}}
            return httpx.Response(503, json={"models": models})
        self.keys.add(request.headers.get("authorization"))
        number = len(self.bodies)
        self.bodies.append(json.loads(request.content))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await asyncio.sleep(0.002)
        self._at_once -= 1
        if number in self._refused:
            return httpx.Response(503, json={"error": {"code": "queue_full"}})
        return httpx.Response(200, content=self._answer(self.bodies[number]))


async def drawn(body: Body) -> AsyncIterator[bytes]:
    for done in range(3):
        yield told(done)
    for index in range(cast(int, body["n"])):
        yield event("image_edit.completed" if "image" in body else "image_generation.completed", index=index)


async def run(
    stub: Callable[..., object], asks: list[Ask], *, clients: int = 3, rate: float | None = None
) -> LoadResult:
    """What the load gives when ``stub`` answers."""
    transport = httpx.MockTransport(stub)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://stub") as client:
        with Progress(disable=True) as progress:
            return await load.run(
                client, asks, clients=clients, rate=rate, seed=1, command="the <load>", progress=progress
            )
