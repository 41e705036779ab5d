"""What became of CUDA graphs is told as runs end, where something changed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipelines.engine.graphs import Tally
from pipelines.plan import ModelPlan
from server.worker import protocol
from server.worker.child.graph_watch import GraphWatch
from server.worker.child.link import Link

PLAN = ModelPlan("m", "/m", "other")


class Front:
    def __init__(self) -> None:
        self.sent: list[protocol.Graphs] = []
        self.unet, self.controlnet = Tally(), Tally()
        self.watch = GraphWatch(cast(Link, self), lambda: 4096)

    def send(self, message: protocol.Graphs) -> None:
        self.sent.append(message)

    def load(self, *tallies: Tally) -> None:
        modules: list[Any] = [SimpleNamespace(graphs=SimpleNamespace(tally=tally)) for tally in tallies]
        modules.append(SimpleNamespace(graphs=None))
        self.watch.checked(PLAN, cast(Any, SimpleNamespace(shared_modules=dict(enumerate(modules)))))


@pytest.fixture
def front() -> Front:
    front = Front()
    front.load(front.unet, front.controlnet)
    return front


def test_the_modules_of_a_model_are_told_together(front: Front) -> None:
    front.unet.captured, front.unet.held, front.unet.replayed = 3, 2, 40
    front.unet.dropped["memory was short"] += 1
    front.controlnet.captured = front.controlnet.held = 1
    front.controlnet.dropped["memory was short"] += 1
    front.controlnet.refused["it failed"] += 1
    front.watch.tell(PLAN)
    assert front.sent == [
        protocol.Graphs("m", 0, 0, 0, {}, {}, 4096, "", PLAN.mark),
        protocol.Graphs("m", 3, 4, 40, {"memory was short": 2}, {"it failed": 1}, 4096, "", PLAN.mark),
    ]


def test_what_is_known_is_not_told_again(front: Front) -> None:
    front.watch.tell(PLAN)
    assert len(front.sent) == 1
    front.unet.replayed += 1
    front.watch.tell(PLAN)
    assert len(front.sent) == 2


def test_why_there_are_none_is_told(front: Front) -> None:
    front.load(Tally(reason="offload: its weights come and go"))
    assert front.sent[-1].reason == "offload: its weights come and go"


def test_of_a_model_without_graphs_nothing_is_told(front: Front) -> None:
    """Where they are off, and on the CPU."""
    front.load()
    front.watch.tell(PLAN)
    assert len(front.sent) == 1


def test_what_is_no_longer_served_is_forgotten(front: Front) -> None:
    front.watch.forget_all_but([])
    front.unet.replayed += 1
    front.watch.tell(PLAN)
    assert len(front.sent) == 1
