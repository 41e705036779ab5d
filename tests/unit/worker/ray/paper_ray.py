"""Ray of paper: so much of it that server.worker.ray.cluster can be imported and tried where Ray is not installed."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Awaitable, Callable, Generator, Iterator
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

_OURS = ("application", "cluster", "lease", "replica", "router")


class RayError(Exception):
    pass


class State(Enum):
    RUNNING = "RUNNING"
    UNHEALTHY = "UNHEALTHY"
    DEPLOYING = "DEPLOYING"
    DEPLOY_FAILED = "DEPLOY_FAILED"
    DELETING = "DELETING"


class Ref:
    """What a call is to become."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Call(Ref):
    """A call of an actor, or of a replica, that may be awaited."""

    def __init__(self, answer: Callable[[], Awaitable[Any]]) -> None:
        super().__init__(None)
        self._answer = answer
        self.cancelled = False

    def __await__(self) -> Generator[Any, None, Any]:
        return self._answer().__await__()

    def cancel(self) -> None:
        self.cancelled = True


class Actor:
    """The lease's actor: dead as soon as it is told to be."""

    def __init__(self) -> None:
        self.dead = asyncio.Event()
        self.held = SimpleNamespace(remote=lambda: Call(self._held))
        self.alive = SimpleNamespace(remote=lambda: Call(self._alive))

    async def _held(self) -> None:
        await self.dead.wait()
        raise RayError

    async def _alive(self) -> None:
        if self.dead.is_set():
            raise RayError


class PaperRay:
    """What Ray knows and has been asked. Change what it is to say."""

    def __init__(self) -> None:
        self.modes = {"head": "token"}  # RAY_AUTH_MODE by machine; None: it never answers
        self.gpus = 0
        self.state: State | None = None  # of the application
        self.deployed = 0
        self.shut_down = 0
        self.options: dict[str, Any] = {}  # of the last deployment
        self.handle = MagicMock()
        self.leases: list[Any] = []
        self.new_lease: Callable[[], Any] = MagicMock
        self.cluster: ModuleType
        self.application: ModuleType
        self.replica: ModuleType

    def modules(self) -> dict[str, ModuleType]:
        """By the names that they are imported under."""
        serve: Any = ModuleType("ray.serve")
        serve.start = lambda **_: None
        serve.status = lambda: SimpleNamespace(applications=self._applications())
        serve.deployment = lambda _: SimpleNamespace(options=self._options)
        serve.run = self._run
        serve.get_deployment_handle = lambda *_: self.handle
        ray: Any = ModuleType("ray")
        ray.serve = serve
        ray.init = lambda **_: None
        ray.shutdown = self._shutdown
        ray.get_runtime_context = MagicMock
        ray.nodes = lambda: [
            {"Alive": True, "NodeID": name, "NodeManagerHostname": name, "Resources": {"GPU": self.gpus}}
            for name in self.modes
        ]
        ray.remote = lambda what: _Remote(self, what)
        ray.wait = lambda refs, **_: ([r for r in refs if r.value is not None], [r for r in refs if r.value is None])
        ray.get = lambda ref, **_: ref.value
        ray.get_gpu_ids = list
        others = {
            "ray.exceptions": {"RayError": RayError},
            "ray.serve.config": {"RequestRouterConfig": MagicMock},
            "ray.serve.exceptions": {"RayServeException": type("RayServeException", (Exception,), {})},
            "ray.serve.request_router": dict.fromkeys(("PendingRequest", "RunningReplica"), object)
            | {"RequestRouter": object},
            "ray.util.scheduling_strategies": {
                "NodeAffinitySchedulingStrategy": lambda node, soft: node,
            },
            "grpc": {},
            "grpc.aio": {"AioRpcError": type("AioRpcError", (Exception,), {})},
        }
        modules = {"ray": ray, "ray.serve": serve, "ray.util": ModuleType("ray.util")}
        for name, contents in others.items():
            modules[name] = ModuleType(name)
            vars(modules[name]).update(contents)
        return modules

    def _applications(self) -> dict[str, Any]:
        return {} if self.state is None else {"darkroom": SimpleNamespace(status=self.state)}

    def _options(self, **options: Any) -> Any:
        self.options = options
        return MagicMock()

    def _run(self, *_: Any, **__: Any) -> None:
        self.deployed += 1

    def _shutdown(self) -> None:
        self.shut_down += 1


class _Remote:
    """A function, or the lease, as Ray has it run elsewhere."""

    def __init__(self, ray: PaperRay, what: Any) -> None:
        self._ray = ray
        self._what = what
        self._where = ""

    def options(self, scheduling_strategy: str, **_: Any) -> _Remote:
        self._where = scheduling_strategy
        return self

    def remote(self) -> Any:
        if isinstance(self._what, type):
            self._ray.leases.append(self._ray.new_lease())
            return self._ray.leases[-1]
        return Ref(self._ray.modes[self._where])


@pytest.fixture
def paper_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[PaperRay]:
    """Ray, and the modules of ours that import it: anew, as they are bound to it."""
    ray = PaperRay()
    names = [f"server.worker.ray.{name}" for name in _OURS]
    for name, module in ray.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    ray.cluster = importlib.import_module("server.worker.ray.cluster")
    ray.application = importlib.import_module("server.worker.ray.application")
    ray.replica = importlib.import_module("server.worker.ray.replica")
    yield ray
    for name in names:
        sys.modules.pop(name, None)
