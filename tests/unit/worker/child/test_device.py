"""Drawings on their way from the load of their model to the engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import msgspec
import pytest
import torch

from pipelines.errors import DrawError, LoadRefused
from pipelines.models import loader, memory, selfcheck
from pipelines.models.records import Records
from pipelines.models.verdict import Verdict
from pipelines.plan import Drawing, ModelPlan
from pipelines.spec import Encoding, ImageSpec, Task
from server.catalog.load import load_catalog
from server.worker import protocol
from server.worker.child.device import Device
from tests.running import ROOT, eventually

DRAWING = Drawing("job_1", ModelPlan("m", "/m", "other"), ImageSpec("m", "p", 48, 32, 24, 16, 4, 1.0), (5,))
OTHER = ModelPlan("other", "/other", "other")


class Link:
    """Keeps what would be sent."""

    def __init__(self) -> None:
        self.sent: list[protocol.ToFront] = []

    def send(self, message: protocol.ToFront) -> None:
        self.sent.append(message)

    def moved(self) -> list[str]:
        return [m.place for m in self.sent if isinstance(m, protocol.Moved)]

    def failed(self) -> list[tuple[str, str]]:
        return [(m.job_id, m.kind) for m in self.sent if isinstance(m, protocol.Failed)]


class Loads:
    """Loading that waits for its leave, and then fails."""

    def __init__(self, error: Exception) -> None:
        self.begun: list[str] = []
        self.leave = threading.Event()
        self.error = error

    def load(self, plan: ModelPlan, device: torch.device, **_: Any) -> Any:
        self.begun.append(plan.key)
        assert self.leave.wait(60)
        raise self.error


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    made = Loads(LoadRefused("torn"))
    monkeypatch.setattr(loader, "load", made.load)
    monkeypatch.setattr(loader, "weight_bytes", lambda plan, device: 0)
    return made


@pytest.fixture
def link() -> Link:
    return Link()


class Engine:
    """Like the real one, leaves alone what it does not know."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.known: set[str] = set()
        self.cancelled: list[str] = []

    def submit(self, model: Any, drawing: Drawing, *, done: Any) -> None:
        self.known.add(drawing.job_id)

    def cancel(self, job_id: str) -> None:
        if job_id in self.known:
            self.cancelled.append(job_id)

    def close(self) -> None: ...


class LoadedModel:
    """One whose tokenizer is at work in the moment between the load and the engine."""

    shares, reason = True, ""

    def __init__(self, count: Callable[..., int]) -> None:
        self.shared_modules: dict[int, Any] = {}
        self.tokens = self
        self.count = count
        self.prepared: list[Task] = []

    def prepare(self, task: Task, names: Sequence[str] = ()) -> None:
        self.prepared.append(task)

    def weight_bytes(self) -> int:
        return 0

    def host_bytes(self) -> int:
        return 0


@pytest.fixture
def device(link: Link, loads: Loads) -> Iterator[Device]:
    made = Device(torch.device("cpu"), cast(Any, link))
    yield made
    loads.leave.set()
    made.close()


def send(device: Device, *job_ids: str) -> None:
    for job_id in job_ids:
        drawing = msgspec.structs.replace(DRAWING, job_id=job_id)
        device.reporter.expect(drawing, Encoding("png", 90))
        device.draw(drawing)


def test_a_drawing_cancelled_before_the_engine_knows_it_is_not_drawn(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine()

    def count(*_: str) -> int:
        made.cancel(DRAWING.job_id)  # its client leaves
        return 1

    monkeypatch.setattr("server.worker.child.device.Engine", lambda *_, **__: engine)
    monkeypatch.setattr(loader, "load", lambda plan, where, **_: LoadedModel(count))
    monkeypatch.setattr(loader, "weight_bytes", lambda plan, where: 0)
    monkeypatch.setattr(selfcheck, "check", lambda *_, **__: None)
    made = Device(torch.device("cpu"), cast(Any, link))
    send(made, DRAWING.job_id)
    made.close()
    assert engine.known == {DRAWING.job_id}
    assert engine.cancelled == [DRAWING.job_id]


def test_a_load_that_fails_is_not_tried_again_for_those_who_waited_for_it(
    device: Device, loads: Loads, link: Link
) -> None:
    """Twenty requests behind a broken model were twenty loads, and everything else waited for them all."""
    device.preload(DRAWING.plan)
    send(device, "a", "b", "c")
    loads.leave.set()
    eventually(lambda: len(link.failed()) == 3, within_s=10)
    assert link.failed() == [(job_id, "LoadRefused") for job_id in ("a", "b", "c")]
    assert loads.begun == ["m"]
    assert not device._waiting_since
    send(device, "d")  # who comes later may find it mended
    eventually(lambda: len(link.failed()) == 4, within_s=10)
    assert loads.begun == ["m", "m"]


def test_nothing_is_loaded_for_a_client_that_left(device: Device, loads: Loads, link: Link) -> None:
    device.preload(OTHER)
    send(device, "a")
    eventually(lambda: loads.begun == ["other"], within_s=10)
    device.cancel("a")
    loads.leave.set()
    eventually(lambda: link.failed() == [("a", "Cancelled")], within_s=10)
    assert loads.begun == ["other"]


@pytest.mark.parametrize("asked", [True, False])
def test_a_device_that_is_lost_while_loading_ends_the_process(
    asked: bool, device: Device, loads: Loads, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken for a model that cannot be loaded, and the process stayed, with a device that was of no more use."""
    ended: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", ended.append)
    loads.error = torch.AcceleratorError("CUDA error: device-side assert triggered")
    loads.leave.set()
    if asked:
        send(device, "a")
    else:
        device.preload(DRAWING.plan)
    eventually(lambda: ended, within_s=10)
    assert ended[0].exc_type is torch.AcceleratorError
    assert not link.failed()  # the front answers for a worker that ended


def test_a_refusal_does_not_end_the_process(
    device: Device, loads: Loads, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", ended.append)
    loads.error = DrawError("the check at load could not draw")
    loads.leave.set()
    send(device, "a")
    eventually(lambda: link.failed() == [("a", "LoadRefused")], within_s=10)
    assert not ended


def test_what_a_worker_tells_of_itself_says_nothing_of_single_prompts(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hits of the prompt cache stood in /metrics: a key could find out which prompts other keys had sent."""

    class EndsAtOnce(Engine):
        counts: ClassVar[dict[str, int]] = {"unet_forwards": 3}

        def submit(self, model: Any, drawing: Drawing, *, done: Any) -> None:
            prepared.extend(model.prepared)
            done()

    prepared: list[Task] = []
    monkeypatch.setattr("server.worker.child.device.Engine", EndsAtOnce)
    monkeypatch.setattr(loader, "load", lambda plan, where, **_: LoadedModel(lambda *texts: 1))
    monkeypatch.setattr(loader, "weight_bytes", lambda plan, where: 0)
    monkeypatch.setattr(selfcheck, "check", lambda *_, **__: None)
    made = Device(torch.device("cpu"), cast(Any, link))
    send(made, "a")
    made.close()
    assert [message for message in link.sent if isinstance(message, protocol.Tally)] == [
        protocol.Tally({"unet_forwards": 3})
    ]
    assert prepared == [Task.TEXT_TO_IMAGE], "before the engine's thread would have to, which is that of all runs"


class Draws(Engine):
    """Runs end when the test says so."""

    counts: ClassVar[dict[str, int]] = {}

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()
        self.under_way: list[Callable[[], None]] = []

    def submit(self, model: Any, drawing: Drawing, *, done: Any) -> None:
        self.under_way.append(done)


@pytest.fixture
def drawing(link: Link, monkeypatch: pytest.MonkeyPatch) -> tuple[Device, Draws]:
    """A device that draws with a model that takes no time to load."""
    engine = Draws()
    monkeypatch.setattr("server.worker.child.device.Engine", lambda *_, **__: engine)
    monkeypatch.setattr(loader, "load", lambda plan, where, **_: LoadedModel(lambda *texts: 1))
    monkeypatch.setattr(loader, "weight_bytes", lambda plan, where: 0)
    monkeypatch.setattr(selfcheck, "check", lambda *_, **__: None)
    made = Device(torch.device("cpu"), cast(Any, link))
    send(made, "a")
    eventually(lambda: bool(engine.under_way), within_s=10)
    return made, engine


def test_whoever_asks_for_a_model_that_is_there_is_told_so(link: Link, drawing: tuple[Device, Draws]) -> None:
    """Nothing was said, and the front waited for it until it took the worker for one that hangs."""
    made, engine = drawing
    link.sent.clear()
    made.preload(DRAWING.plan)
    eventually(lambda: link.moved() == ["ready"], within_s=10)
    engine.under_way.pop()()
    made.close()
    assert link.moved() == ["ready"]


def test_a_model_whose_entry_is_changed_and_changed_back_while_it_draws_is_there(
    link: Link, drawing: tuple[Device, Draws]
) -> None:
    """The front had forgotten it, and said that it was not loaded while it drew."""
    made, engine = drawing
    link.sent.clear()
    made.serve([OTHER])
    made.serve([DRAWING.plan])
    eventually(lambda: any(isinstance(message, protocol.Checked) for message in link.sent), within_s=10)
    made.serve([DRAWING.plan, OTHER])
    engine.under_way.pop()()
    made.close()
    assert link.moved() == ["ready"]
    assert made._residency.pin_if_ready(DRAWING.plan) is not None


def test_a_model_that_is_to_leave_does_not_keep_a_worker_from_closing(
    drawing: tuple[Device, Draws], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last run's end was to send it away, on a thread that had ended: the process failed, and what it had learnt of
    steps was lost."""
    made, engine = drawing
    kept: list[object] = []
    monkeypatch.setattr(engine, "close", lambda: engine.under_way.pop()())
    monkeypatch.setattr(made._verdicts, "keep", kept.append)
    made.leave(DRAWING.plan, "unloaded")
    made.close()
    assert len(kept) == 1


@pytest.mark.parametrize(
    ("kind", "encoders", "free", "size", "on_host"),
    [
        ("cuda", "auto", 40, 12, False),
        ("cuda", "auto", 10, 6, True),
        ("cuda", "host", 40, 6, True),
        ("cuda", "device", 10, 12, False),
        ("cpu", "host", 10, 12, False),
    ],
)
def test_encoders_leave_the_device_where_the_model_would_not_fit(
    link: Link, monkeypatch: pytest.MonkeyPatch, kind: str, encoders: str, free: int, size: int, on_host: bool
) -> None:
    """Z-Image runs on 16 GB elsewhere, and was refused on 24."""
    plan = msgspec.structs.replace(DRAWING.plan, encoders=encoders)
    loaded: list[bool] = []

    def load(plan: ModelPlan, where: torch.device, *, host_encoders: bool, **_: Any) -> Any:
        loaded.append(host_encoders)
        return LoadedModel(lambda *_: 1)

    monkeypatch.setattr(loader, "load", load)
    monkeypatch.setattr(loader, "weight_bytes", lambda plan, where, host_encoders=False: 6 if host_encoders else 12)
    monkeypatch.setattr(selfcheck, "check", lambda *_, **__: None)
    monkeypatch.setattr(memory, "measure_budget", lambda device: (free, 0))
    monkeypatch.setattr(memory, "device_budget", lambda device, resident, held: free)
    monkeypatch.setattr(memory, "usage", lambda device: {})
    made = Device(torch.device(kind), cast(Any, link))
    assert made._size_of(plan) == size
    made._load(plan)
    made.close()
    assert loaded == [on_host]


def test_what_a_check_found_is_there_for_the_next_process(
    link: Link, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Verdicts lived in memory alone: each restart drew the whole check of each model again."""
    plan = next(iter(load_catalog(ROOT / "models.yaml").plans.values()))
    known: list[Verdict | None] = []
    found = Verdict(7, True, "", True, {})

    def check(model: Any, verdict: Verdict | None, alive: Callable[[], None]) -> Verdict:
        known.append(verdict)
        alive()
        return found

    monkeypatch.setattr(loader, "load", lambda plan, where, **_: LoadedModel(lambda *_: 1))
    monkeypatch.setattr(selfcheck, "check", check)
    for _ in range(2):
        made = Device(torch.device("cpu"), cast(Any, link), "", Records(tmp_path, darkroom="1", device="CPU"))
        made._load(plan)
        made._load(plan)
        made.close()
    assert known == [None, found, found, found]
    said = [message for message in link.sent if isinstance(message, protocol.LoadProgress)]
    assert said == [protocol.LoadProgress(plan.key, 0, 0, plan.mark)] * 4, "tiny models do not flood the front"


@pytest.mark.parametrize(("kind", "budget", "host"), [("cpu", 20, 0), ("cuda", 40, 10)])
def test_workers_on_one_machine_share_the_hosts_memory(
    link: Link, monkeypatch: pytest.MonkeyPatch, kind: str, budget: int, host: int
) -> None:
    """Each was promised all of it: two workers took twice what there is."""
    monkeypatch.setattr(memory, "measure_budget", lambda device: (40, 20 if device.type == "cuda" else 0))
    made = Device(torch.device(kind), cast(Any, link), share=2)
    assert (made._residency._budget, made._residency._host_budget) == (budget, host)
    made.close()
