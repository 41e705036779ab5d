"""A server whose worker draws blank paper at once: all of the front, a real socket, no torch."""

from __future__ import annotations

import asyncio
import contextlib
import io
import math
import threading
from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image

from pipelines.plan import Drawing, ModelPlan
from pipelines.spec import Encoding, Picture
from server.app import create_app
from server.edge.keys import Keyring
from server.errors import DarkroomError, ModelUnavailable
from server.settings import Settings
from server.worker import protocol
from server.worker.member import Assignment, Spent, spends_nothing
from server.worker.rest import Rest
from server.worker.status import ModelState, ModelStatus
from tests.running import ROOT
from tests.unit.edge.live import Live, serve

STEP_S = 0.001  # of the device, as it says


class PaperWorker:
    """Stands in for LocalWorker: a member of the fleet. Remembers every drawing; holds them while ``gate`` is shut;
    fails as told."""

    up = settled = True
    asleep = busy = False
    start_failure = device_problem = device_name = ""
    device = "paper"

    def __init__(self, assignment: Assignment) -> None:
        self.name = assignment.device.name or "paper"
        self.rest = Rest()
        self.on_refused: Callable[[str], None] = lambda reason: None
        self.on_change: Callable[[], None] = lambda: None
        self.on_spent: Spent = spends_nothing
        self.models: MutableMapping[str, ModelStatus]
        self.models = {plan.key: ModelStatus(ModelState.READY) for plan in assignment.plans}
        self.gate = threading.Event()
        self.forget()

    def forget(self) -> None:
        self.drawings: list[Drawing] = []
        self.encodings: list[Encoding] = []
        self.cancelled: list[str] = []
        self.failure: DarkroomError | None = None
        self.broken: set[str] = set()  # plans that failed to load a while ago, and may be tried again
        self.ballast = 0  # bytes added to every picture
        self.gate.set()

    def serve(self, plans: Iterable[ModelPlan], preload: Iterable[ModelPlan]) -> None:
        keys = {plan.key for plan in plans}
        self.models = {key: self.models.get(key, ModelStatus(ModelState.READY)) for key in keys}

    async def load(self, plan: ModelPlan, model: str) -> None:
        self.models[plan.key] = ModelStatus(ModelState.READY)

    def leave(self, plan: ModelPlan, place: ModelState) -> None:
        self.models[plan.key] = ModelStatus(place)

    def in_use(self, plan: ModelPlan) -> bool:
        return False

    def sleep(self) -> None:
        self.asleep = True

    def wake(self) -> None:
        self.asleep = False

    def start(self) -> None: ...

    async def stop(self) -> None: ...

    def require(self, key: str, model: str, *, retry: bool = True) -> None:
        if key in self.broken and not retry:
            raise ModelUnavailable(f"{model} could not be loaded.", param="model")

    async def draw(
        self,
        drawing: Drawing,
        encoding: Encoding,
        progress: Callable[[int, int], None],
        previewed: Callable[[int, Picture], None] = lambda number, picture: None,
        deadline_s: float = math.inf,
    ) -> protocol.Finished:
        self.drawings.append(drawing)
        self.encodings.append(encoding)
        progress(1, 2)
        self.on_spent(drawing.job_id, 1, STEP_S)
        for number in range(drawing.previews):
            for index in range(len(drawing.seeds)):
                previewed(number, self._paper(encoding, drawing, index))
        try:
            while not self.gate.is_set():  # noqa: ASYNC110, set from the test's thread
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self.cancelled.append(drawing.job_id)
            raise
        if self.failure is not None:
            raise self.failure
        progress(2, 2)
        self.on_spent(drawing.job_id, drawing.spec.steps - 1, STEP_S * (drawing.spec.steps - 1))
        pictures = tuple(self._paper(encoding, drawing, index) for index in range(len(drawing.seeds)))
        return protocol.Finished(drawing.job_id, pictures, 0.001, text_tokens=3)

    def _paper(self, encoding: Encoding, drawing: Drawing, index: int) -> Picture:
        out = io.BytesIO()
        Image.new("RGB", (2, 2), "white").save(out, encoding.format)
        data = out.getvalue() + bytes(self.ballast)
        return Picture(index, data, f"image/{encoding.format}", 2, 2, drawing.seeds[index])


@dataclass
class Paper:
    """One such server."""

    live: Live
    app: FastAPI
    worker: PaperWorker
    key: str | None

    @property
    def url(self) -> str:
        return self.live.url

    def client(self, **options: Any) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        return self.live.client(**{"headers": headers, **options})

    def post(self, body: Any, path: str = "/v1/images/generations", **options: Any) -> httpx.Response:
        content = {"content": body} if isinstance(body, bytes) else {"json": body}
        with self.client() as client:
            return client.post(path, **content, **options)


class PaperServers:
    """Opens paper servers, and closes them all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self._count = 0

    def __enter__(self) -> PaperServers:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def open(self, *, keys: bool = False, **settings: Any) -> Paper:
        self._count += 1
        data_dir = self._folder / f"data-{self._count}"
        key = Keyring(data_dir / "keys.json").create("tester") if keys else None
        chosen = Settings(**{"data_dir": data_dir, "models": ROOT / "models.yaml", **settings})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("server.app.LocalWorker", PaperWorker)
            app = create_app(chosen)
        live = self._stack.enter_context(serve(app, chosen))
        return Paper(live, app, app.state.services.worker.members[0], key)
