"""Members of a fleet that are made of paper: they draw when told to, and die when told to."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, MutableMapping, Sequence

from pipelines.plan import Drawing, ModelPlan
from pipelines.spec import Encoding, ImageSpec
from server.settings import Settings
from server.telemetry import Metrics
from server.worker import failures, protocol
from server.worker.cost import Cost
from server.worker.devices import WorkerDevice
from server.worker.fleet import Fleet
from server.worker.member import Assignment, Previewed, Progress, Spent, spends_nothing
from server.worker.rest import Rest
from server.worker.status import ModelState, ModelStatus, ModelStatuses

COST = Cost(0.01, 0.1, 64 * 64, 8)
A, B = ModelPlan("a", "/a", "stable-diffusion"), ModelPlan("b", "/b", "stable-diffusion")
ON_ONE = ModelPlan("one", "/one", "stable-diffusion", devices=("cpu:1",))
PLANS = (A, B, ON_ONE)


def drawing(number: int = 0, plan: ModelPlan = A, *, steps: int = 10, n: int = 1, principal: str = "ada") -> Drawing:
    spec = ImageSpec(plan.key, f"p{number}", 64, 64, 64, 64, steps, 1.0)
    return Drawing(f"job_{number}", plan, spec, tuple(range(n)), principal)


class PaperMember:
    """Draws until ``finish`` or ``die`` is called."""

    def __init__(self, assignment: Assignment) -> None:
        self.name = self.device = assignment.device.name
        self.preload = assignment.preload
        self.served: tuple[ModelPlan, ...] = ()
        self.statuses = ModelStatuses(assignment.plans, assignment.metrics, self.name, assignment.deaths)
        self.device_name = self.device_problem = self.start_failure = ""
        self.up = self.settled = True
        self.asleep = self.busy = False
        self.rest = Rest()
        self.on_refused: Callable[[str], None] = lambda reason: None
        self.on_change: Callable[[], None] = lambda: None
        self.on_spent: Spent = spends_nothing
        self.drawings: dict[str, tuple[Drawing, asyncio.Future[protocol.Finished], Progress]] = {}
        self.story: list[str] = []

    @property
    def models(self) -> MutableMapping[str, ModelStatus]:
        return self.statuses

    def has(self, *plans: ModelPlan, load_s: float = 5.0, size: int = 10, room: int = 25) -> None:
        """These models are ready."""
        for plan in plans:
            self.statuses.told(plan.key, ModelState.LOADING, "")
            self.statuses.told(plan.key, ModelState.READY, "", seconds=load_s, size=size)
            self.statuses.costs(plan.key, COST)
        self.statuses.room = room

    def start(self) -> None:
        self.story.append("start")

    async def stop(self) -> None:
        self.story.append("stop")

    def serve(self, plans: Sequence[ModelPlan], preload: Sequence[ModelPlan]) -> None:
        self.served, self.preload = tuple(plans), tuple(preload)
        self.statuses.serve(plans)

    def require(self, key: str, model: str, *, retry: bool = True) -> None:
        if self.start_failure:
            raise failures.cannot_start()
        self.statuses.require(key, model, retry=retry)

    def in_use(self, plan: ModelPlan) -> bool:
        return any(drawing.plan == plan for drawing, _, _ in self.drawings.values())

    async def load(self, plan: ModelPlan, model: str) -> None:
        self.story.append(f"load {plan.key}")
        self.has(plan)

    def leave(self, plan: ModelPlan, place: ModelState) -> None:
        self.story.append(f"leave {plan.key}")
        self.statuses.moved(plan.key, place)

    def sleep(self) -> None:
        self.asleep, self.up = True, False
        self.on_change()

    def wake(self) -> None:
        self.asleep, self.up = False, True
        self.on_change()

    async def draw(
        self,
        drawing: Drawing,
        encoding: Encoding,
        progress: Progress,
        previewed: Previewed,
        deadline_s: float = math.inf,
    ) -> protocol.Finished:
        end: asyncio.Future[protocol.Finished] = asyncio.get_running_loop().create_future()
        self.drawings[drawing.job_id] = drawing, end, progress
        try:
            return await end
        finally:
            del self.drawings[drawing.job_id]

    def finish(self, *job_ids: str) -> None:
        for job_id in job_ids or tuple(self.drawings):
            self.drawings[job_id][1].set_result(protocol.Finished(job_id, (), 0.1))

    def die(self, *, started: bool = True) -> None:
        """The process ends, and is being replaced; ``started`` says whether it had come to its drawings."""
        self.up = self.settled = False
        for _, end, _ in self.drawings.values():
            end.set_exception(failures.lost(started=started))
        self.statuses.worker_lost()
        self.on_change()

    def fail_to_start(self) -> None:
        """Whoever woke it is told so."""
        self.up, self.start_failure = False, "It is full."
        for _, end, _ in self.drawings.values():
            end.set_exception(failures.cannot_start())
        self.on_change()

    def refuse_to_load(self) -> None:
        """Whatever waits for its model is told so."""
        for drawing, end, _ in self.drawings.values():
            plan = drawing.plan
            self.statuses.told(plan.key, ModelState.BROKEN, "no such folder")
            end.set_exception(failures.failed("LoadRefused", "no such folder", drawing.job_id, plan.key))

    def come_up(self) -> None:
        self.up = self.settled = True
        self.on_change()


class PaperFleet(Fleet):
    """A fleet of paper members: cpu:0, cpu:1 and so on, all with the model ``a``."""

    def __init__(
        self,
        count: int = 2,
        *,
        optional: bool = False,
        preload: Iterable[ModelPlan] = (),
        settings: Settings | None = None,
    ) -> None:
        self.paper: list[PaperMember] = []
        self.metrics = Metrics()

        def build(assignment: Assignment) -> PaperMember:
            self.paper.append(PaperMember(assignment))
            return self.paper[-1]

        devices = [WorkerDevice(f"cpu:{number}", "cpu", share=count, optional=optional) for number in range(count)]
        super().__init__(settings or Settings(), devices, PLANS, preload, self.metrics, build)
        for member in self.paper:
            member.has(A)

    def begin(self, drawing: Drawing) -> asyncio.Task[protocol.Finished]:
        return asyncio.create_task(draw(self, drawing))


async def draw(fleet: Fleet, drawing: Drawing, progress: Progress = lambda done, of: None) -> protocol.Finished:
    """Draw it beside others, as the runner does."""
    async with fleet.reserve(drawing) as place:
        return await place.draw(Encoding(), progress, lambda number, picture: None)


async def settle() -> None:
    """Let everything go on that can."""
    for _ in range(20):
        await asyncio.sleep(0)
