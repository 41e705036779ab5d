"""A cluster of paper: hosts with children that are none, and links that call them instead of Ray."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

from pipelines.plan import Drawing, ModelPlan
from pipelines.spec import ImageSpec
from server.settings import Settings
from server.telemetry import Metrics
from server.worker import protocol
from server.worker.devices import WorkerDevice
from server.worker.fleet import Fleet
from server.worker.local import LocalWorker
from server.worker.ray import messages
from server.worker.ray.host import Host
from server.worker.ray.link import LinkBroken
from server.worker.ray.roster import ReplicaRoster
from tests.unit.worker.children import HELLO, Child, Children, until
from tests.unit.worker.members import draw

HERE = ModelPlan("here", str(Path(__file__).parent), "other")  # a folder that is there
AWAY = ModelPlan("away", "/nowhere/away", "other")


def drawing(number: int = 1) -> Drawing:
    return Drawing(f"job_{number}", HERE, ImageSpec("here", "p", 48, 32, 24, 16, 4, 1.0), (5,))


class PaperLease:
    """A front that lives until ``over`` is set."""

    def __init__(self) -> None:
        self.over = asyncio.Event()

    async def ended(self) -> None:
        await self.over.wait()


class PaperLink:
    """The way to a host in this process. ``cut``: it breaks; ``frozen``: nothing comes any more."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.lease = PaperLease()
        self.cut = asyncio.Event()
        self.frozen = False
        self.lets_in = True
        self.faults: dict[str, Exception] = {}  # by the stream: what comes once, in the place of a message
        self.deaf = False  # nothing that it is told arrives
        self.asked: list[protocol.Draw] = []
        self.tells = asyncio.Event()  # not set: news of models.yaml is late
        self.tells.set()

    async def greet(self) -> bytes:
        return self.host.greet()

    def watch(self, body: bytes) -> AsyncGenerator[bytes, None]:
        return self._stream("watch", self.host.watch("front", self.lease, body))

    def draw(self, body: bytes) -> AsyncGenerator[bytes, None]:
        self.asked.append(messages.read_draw(body))
        return self._stream("draw", self.host.draw("front", self.lease, body))

    async def tell(self, body: bytes) -> None:
        if self.deaf:
            raise LinkBroken("ActorUnavailableError")
        if isinstance(messages.read_told(body), protocol.Serve):
            await self.tells.wait()
        await self.host.tell(body, "front")

    async def _stream(self, name: str, frames: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async with contextlib.aclosing(frames):
            while not self.lets_in:
                await self._pause()
            while True:
                coming = asyncio.ensure_future(anext(frames))
                cut = asyncio.ensure_future(self.cut.wait())
                try:
                    await asyncio.wait((coming, cut), return_when=asyncio.FIRST_COMPLETED)
                    if self.cut.is_set():
                        raise LinkBroken("ActorDiedError")
                    if name in self.faults:
                        raise self.faults.pop(name)
                    while self.frozen:
                        await self._pause()
                    with contextlib.suppress(StopAsyncIteration):
                        yield await coming
                        continue
                    return
                finally:
                    for task in (coming, cut):
                        task.cancel()
                    await asyncio.wait((coming, cut))

    async def _pause(self) -> None:
        await asyncio.sleep(0.01)
        if self.cut.is_set():
            raise LinkBroken("ActorDiedError")


class PaperCluster:
    """Hosts that join a fleet by a roster, as Ray's replicas do."""

    def __init__(self, children: Children, *, silent_s: float = 5.0, settings: Settings | None = None) -> None:
        self.children = children
        self.metrics = Metrics()
        self.settings = settings or Settings()
        self.fleet = Fleet(self.settings, (), (HERE, AWAY), (HERE,), self.metrics, LocalWorker)
        self.links: dict[str, PaperLink] = {}
        self.child: dict[str, Child] = {}
        self.roster = ReplicaRoster(self.fleet, self.links.__getitem__, silent_s=silent_s)

    async def add(self, name: str, begin_with: protocol.ToFront = HELLO) -> PaperLink:
        """A replica comes, and its worker process is up, unless it begins with something else."""
        host = Host(self.settings, WorkerDevice("cpu", "cpu"), "machine", "cpu")
        host.start()
        child = self.child[name] = await self.children.get()
        child.say(begin_with)
        link = self.links[name] = PaperLink(host)
        self.roster.update(tuple(self.links))
        return link

    def remove(self, name: str) -> None:
        """Ray Serve lists it no more."""
        link = self.links.pop(name)
        self.roster.update(tuple(self.links))
        self.links[name] = link  # the way to it stays
        self.gone = name

    async def stop(self) -> None:
        await self.roster.stop()
        await self.fleet.stop()
        for name, link in self.links.items():
            await link.host.stop()
            if self.child[name].returncode is None:
                self.child[name].end(0)


def asked(child: Child) -> list[str]:
    return [message.drawing.job_id for message in child.heard if isinstance(message, protocol.Draw)]


def begin(cluster: PaperCluster, number: int = 1) -> asyncio.Task[protocol.Finished]:
    return asyncio.create_task(draw(cluster.fleet, drawing(number)))


async def ready(cluster: PaperCluster, *names: str) -> None:
    """These replicas are there, and have the model."""
    for name in names:
        await cluster.add(name)
        await until(lambda name=name: protocol.Load(HERE) in cluster.child[name].heard)  # type: ignore[misc]
        cluster.child[name].say(protocol.Moved("here", "ready", "", 1.0, HERE.mark, 10, 20))
    await until(lambda: cluster.fleet.settled and len(cluster.fleet.members) == len(cluster.links))
