"""A small application with one of each kind of route, for the edge to stand around."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Literal

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import BaseModel, Field, field_validator
from starlette.routing import Mount

from server.edge.disconnect import unless_disconnected
from server.edge.keys import Keyring
from server.edge.stack import install
from server.errors import BadImage, QueueFull
from server.settings import Settings


class Fields(BaseModel):
    prompt: str
    n: int = Field(1, ge=1, le=10)
    guidance: float = Field(1.0, ge=0, le=30)
    quality: Literal["standard", "hd"] = "standard"
    steps: int | None = None

    @field_validator("steps", mode="before")
    @classmethod
    def _careless(cls, value: object) -> int:
        return int(str(value))  # its ValueError quotes the input


class Witness:
    """What happened inside, for a test to look at."""

    def __init__(self) -> None:
        self.cancelled = False
        self.read: int | None = None
        self.principals: list[str] = []
        self.entered = 0


def make_app(settings: Settings, keyring: Keyring) -> FastAPI:
    app = FastAPI()
    witness = app.state.witness = Witness()

    @app.get("/livez")
    @app.get("/readyz")
    @app.get("/__blocklet__.js")
    @app.get("/")
    async def alive() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/files/{path:path}")
    async def files(path: str) -> PlainTextResponse:
        return PlainTextResponse(f"file of {len(path)}")

    @app.post("/pictures")
    async def pictures(request: Request, fields: Fields) -> dict[str, object]:
        witness.entered += 1
        witness.principals.append(request.state.principal.name)
        return {"n": fields.n}

    @app.post("/read")
    async def read(request: Request) -> dict[str, int]:
        witness.entered += 1
        witness.read = len(await request.body())
        return {"bytes": witness.read}

    @app.post("/swallow")
    async def swallow(request: Request) -> PlainTextResponse:
        try:
            await request.body()
        except Exception:
            return PlainTextResponse("swallowed")
        return PlainTextResponse("fine")

    @app.post("/ignore")
    async def ignore() -> PlainTextResponse:
        return PlainTextResponse("never looked")

    @app.get("/fail/{kind}")
    async def fail(kind: str) -> None:
        if kind == "image":
            raise BadImage("The picture cannot be decoded.", param="image")
        if kind == "queue":
            raise QueueFull("Full.", retry_after_s=2.1)
        raise RuntimeError("canary-secret <object at 0x7f00deadbeef>")

    @app.get("/broken-stream")
    async def broken_stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[str]:
            yield "data: 1\n\n"
            raise RuntimeError("canary-secret")

        return StreamingResponse(parts(), media_type="text/event-stream")

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[str]:
            for number in range(3):
                yield f"data: {number}\n\n"
                await asyncio.sleep(0.15)

        return StreamingResponse(parts(), media_type="text/event-stream")

    @app.post("/work")
    async def work(request: Request, fields: Fields) -> dict[str, bool]:
        async def long() -> None:
            try:
                await asyncio.sleep(20)
            except asyncio.CancelledError:
                witness.cancelled = True
                raise

        witness.entered += 1
        await unless_disconnected(request, long())
        return {"done": True}

    group = APIRouter(prefix="/v1")

    @group.get("/models/{model}")
    async def model(model: str) -> dict[str, str]:
        return {"id": model}

    app.include_router(group)
    app.router.routes.append(Mount("/page", app=PlainTextResponse("page")))
    install(app, settings, keyring)
    return app
