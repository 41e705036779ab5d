"""Jobs on their way from the load of their model to the engine."""

from __future__ import annotations

from typing import Any, cast

from pipelines.plan import DrawJob, ModelPlan
from pipelines.spec import ImageSpec
from server.worker.child import Device

JOB = DrawJob("job_1", ModelPlan("m", "/m", "other"), ImageSpec("m", "p", 48, 32, 24, 16, 0, 4, 1.0), (5,))


class Residency:
    def pin(self, plan: ModelPlan) -> str:
        return "model"


class Engine:
    """Like the real one, leaves alone what it does not know."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.cancelled: list[str] = []

    def cancel(self, job_id: str) -> None:
        if job_id in self.known:
            self.cancelled.append(job_id)


class LateDevice(Device):
    """The client leaves in the moment between the load and the engine."""

    def __init__(self) -> None:
        self._residency = cast(Any, Residency())
        self.engine = Engine()
        self._engine = cast(Any, self.engine)
        self._behind_load = {JOB.job_id}

    def _submit(self, model: Any, job: DrawJob) -> None:
        self.cancel(job.job_id)
        self.engine.known.add(job.job_id)


def test_a_job_cancelled_before_the_engine_knows_it_is_not_drawn() -> None:
    device = LateDevice()
    device._pin_and_go_on(JOB.plan, JOB)
    assert device.engine.cancelled == [JOB.job_id]
    assert not device._behind_load
