"""What the front makes of its worker's messages."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from types import SimpleNamespace

import msgspec
import pytest

from pipelines.spec import Encoding
from server.errors import ModelUnavailable, WorkerLost
from server.settings import Settings
from server.telemetry import Metrics
from server.worker import protocol
from server.worker.hearing import Hearing
from server.worker.local import LocalWorker
from server.worker.member import Assignment
from server.worker.status import ModelState
from tests.unit.worker.children import BROKEN, DRAWING, HELLO, MINI, Children, move, started, until

pytestmark = pytest.mark.anyio


async def test_a_client_that_left_is_no_failure_in_the_log(
    children: Children, caplog: pytest.LogCaptureFixture
) -> None:
    async with started([]) as worker:
        child = await children.get()
        child.say(HELLO)
        drawing = asyncio.create_task(worker.draw(DRAWING, Encoding("png", 90), lambda done, of: None))
        await until(lambda: len(child.heard) == 1)
        drawing.cancel()
        await until(lambda: protocol.Cancel("job_1") in child.heard)
        child.say(protocol.Failed("job_1", "Cancelled", "the client left"))
        await move(worker, child, "mini", "ready")  # said after it, so it has been heard too
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_a_server_stays_ready_when_a_preloaded_model_makes_room_for_another(children: Children) -> None:
    """It was taken out of a balancer for serving a request for its second model."""
    async with started([MINI, BROKEN]) as worker:
        child = await children.get()
        child.say(HELLO)
        await until(lambda: worker.up)
        assert not worker.settled
        await move(worker, child, "mini", "loading")
        await move(worker, child, "mini", "ready")
        assert not worker.settled
        await move(worker, child, "broken", "broken", "torn")
        assert worker.settled
        for place in ("unloaded", "loading", "ready", "offloaded"):
            await move(worker, child, "mini", place)
            assert worker.settled, place
        await move(worker, child, "broken", "loading")
        assert worker.settled

        child.end(1)
        child = await children.get()  # the next worker, which has none of them yet
        child.say(HELLO)
        await until(lambda: worker.up)
        assert not worker.settled
        await move(worker, child, "broken", "broken", "torn")
        assert not worker.settled
        await move(worker, child, "mini", "ready")
        assert worker.settled


async def test_a_stop_ends_what_is_drawn_and_says_nothing(children: Children, caplog: pytest.LogCaptureFixture) -> None:
    """The worker was told to stop before it was told to cancel: it drew on for five seconds, and was then killed."""
    async with started([]) as worker:
        child = await children.get()
        child.say(HELLO)
        drawing = asyncio.create_task(worker.draw(DRAWING, Encoding("png", 90), lambda done, of: None))
        await until(lambda: len(child.heard) == 1)
        await worker.stop()
        assert child.heard[1:] == [protocol.Cancel("job_1"), protocol.Stop()]
        with pytest.raises(WorkerLost):
            await drawing
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_a_link_that_is_reset_by_a_stop_is_no_failure_in_the_log(
    children: Children, caplog: pytest.LogCaptureFixture
) -> None:
    """Messages that the worker no longer read reset it: "worker link broke" at each stop with drawings."""
    async with started([]) as worker:
        child = await children.get()
        child.say(HELLO)
        await until(lambda: worker.up)
        child.listen_no_more()
        stopping = asyncio.create_task(worker.stop())
        await until(child.has_unread)
        child.end(0)
        await stopping
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_a_stop_does_not_wait_for_a_load(children: Children) -> None:
    """It may take minutes, and nothing ends it but the end of its process: it got five seconds at each stop."""
    async with started([MINI]) as worker:
        child = await children.get()
        child.say(HELLO)
        await move(worker, child, "mini", "loading")
        child.obeys = False
        async with asyncio.timeout(4):
            await worker.stop()
        assert child.returncode == -signal.SIGKILL


async def test_who_waits_for_a_model_that_ends_the_worker_is_no_suspect(children: Children) -> None:
    """Each request for the model was taken for one that kills: two of them, and all their repeats were refused."""
    async with started([]) as worker:
        child = await children.get()
        child.say(HELLO)
        await move(worker, child, "mini", "ready")
        waiting = msgspec.structs.replace(DRAWING, job_id="job_2", plan=BROKEN)
        tasks = [
            asyncio.create_task(worker.draw(drawing, Encoding("png", 90), lambda done, of: None))
            for drawing in (DRAWING, waiting)
        ]
        await until(lambda: len(child.heard) == 2)
        await move(worker, child, "broken", "loading")
        child.end(-11)
        lost = await asyncio.gather(*tasks, return_exceptions=True)
        assert [(type(error), error.begun) for error in lost] == [(WorkerLost, True), (WorkerLost, False)]  # type: ignore[union-attr]


async def test_a_devices_memory_is_in_the_metrics_where_it_has_its_own(children: Children) -> None:
    async with started([]) as worker:
        child = await children.get()
        child.say(HELLO)
        value = worker._metrics.registry.get_sample_value
        child.say(protocol.Tally({"unet_forwards": 3}))
        await move(worker, child, "mini", "loading")
        assert value("darkroom_engine", {"counter": "unet_forwards", "device": "cpu"}) == 3
        assert value("darkroom_device_memory_bytes", {"kind": "in_use", "device": "cpu"}) is None  # the CPU
        child.say(protocol.Tally({}, {"in_use": 5, "reserved": 8, "out_of_memory": 2}))
        await move(worker, child, "mini", "ready")
        assert value("darkroom_device_memory_bytes", {"kind": "in_use", "device": "cpu"}) == 5
        assert value("darkroom_device_memory_bytes", {"kind": "reserved", "device": "cpu"}) == 8
        assert value("darkroom_device_out_of_memory", {"device": "cpu"}) == 2
        child.end(-9)
        await until(lambda: not worker.up)
        assert value("darkroom_device_memory_bytes", {"kind": "in_use", "device": "cpu"}) is None


async def test_what_is_drawn_ends_on_the_plan_that_it_began_with(children: Children) -> None:
    other = msgspec.structs.replace(MINI, folder="/elsewhere")
    async with started([]) as worker:
        child = await children.get()
        child.say(HELLO)
        await move(worker, child, "mini", "ready")
        drawing = asyncio.create_task(worker.draw(DRAWING, Encoding("png", 90), lambda done, of: None))
        await until(lambda: len(child.heard) == 1)
        worker.serve([other], [])
        assert set(worker.models) == {"mini"}
        assert worker.models["mini"].state is ModelState.UNLOADED
        late = asyncio.create_task(  # admitted before, and only now ready
            worker.draw(msgspec.structs.replace(DRAWING, job_id="job_2"), Encoding("png", 90), lambda done, of: None)
        )
        await until(lambda: len(child.heard) == 3)
        assert child.heard[1] == protocol.Serve((other,))
        child.say(protocol.Moved("mini", "ready", "", 0.1, MINI.mark))  # said before it heard of the change
        for job_id in ("job_1", "job_2"):
            child.say(protocol.Finished(job_id, (), 0.1))
        await asyncio.gather(drawing, late)
        assert worker.models["mini"].state is ModelState.UNLOADED, "that was the other plan"
        child.say(protocol.Moved("mini", "ready", "", 0.1, other.mark))
        await until(lambda: worker.models["mini"].state is ModelState.READY)


async def test_a_model_that_has_left_while_it_is_drawn_with_is_no_fault(children: Children) -> None:
    async with started([]) as worker:
        child = await children.get()
        child.say(HELLO)
        await until(lambda: worker.up)
        drawing = asyncio.create_task(worker.draw(DRAWING, Encoding("png", 90), lambda done, of: None))
        await until(lambda: len(child.heard) == 1)
        worker.serve([BROKEN], [])
        child.say(protocol.Moved("mini", "loading", "", 0.0, MINI.mark))
        await until(lambda: worker.models.loading)
        child.end(-9)
        with pytest.raises(WorkerLost):
            await drawing
        child = await children.get()
        child.say(HELLO)
        await until(lambda: worker.up)
        assert not worker.models.loading
        await until(lambda: bool(child.heard))
        assert child.heard == [protocol.Serve((BROKEN,))]
        assert worker.models["broken"].state is ModelState.UNLOADED


async def test_a_model_that_is_new_to_preload_is_loaded_and_not_waited_for(children: Children) -> None:
    async with started([MINI]) as worker:
        child = await children.get()
        child.say(HELLO)
        await move(worker, child, "mini", "ready")
        worker.serve([MINI, BROKEN], [MINI, BROKEN])
        await until(lambda: protocol.Load(BROKEN) in child.heard)
        assert worker.models["broken"].state is ModelState.LOADING
        assert worker.models["mini"].state is ModelState.READY
        assert worker.settled, "a change of models.yaml takes no server out of its balancer"


async def test_a_model_that_is_there_is_not_loaded_again_for_being_preloaded_from_now_on(children: Children) -> None:
    """It stayed "loading" for ever, as its worker had nothing to load, and that was killed for it in the end."""
    async with started([]) as worker:
        child = await children.get()
        child.say(HELLO)
        await move(worker, child, "mini", "ready")
        worker.serve([MINI, BROKEN], [MINI])
        worker.serve([MINI, BROKEN], [MINI, BROKEN])
        await until(lambda: protocol.Load(BROKEN) in child.heard)
        assert protocol.Load(MINI) not in child.heard
        assert worker.models["mini"].state is ModelState.READY


async def test_a_load_that_a_change_of_models_yaml_asks_for_is_waited_for_from_then_on(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that had been idle for longer than load_timeout_s was killed, if it was not told of the load at once:
    others have to leave first."""
    now = [0.0]
    monkeypatch.setattr("server.worker.hearing.time", SimpleNamespace(monotonic=lambda: now[0]))
    async with started([]) as worker:
        child = await children.get()
        child.say(HELLO)
        await until(lambda: worker.up)
        now[0] += 7200
        worker.serve([MINI, BROKEN], [BROKEN])
        assert worker.models.loading
        assert worker._hearing.silent_s(loads=True, draws=False) == 0


async def test_a_load_that_somebody_waits_for_ends_with_the_model_there_or_refused(children: Children) -> None:
    async with started([]) as worker:
        child = await children.get()
        child.say(HELLO)
        await until(lambda: worker.up)
        for place, fails in (("ready", False), ("broken", True)):
            loading = asyncio.create_task(worker.load(MINI, "mini"))
            await until(lambda: worker.models["mini"].state is ModelState.LOADING)
            child.say(protocol.Moved("mini", place, "", 0.1, MINI.mark))
            if fails:
                with pytest.raises(ModelUnavailable):
                    await loading
            else:
                await loading
                worker.leave(MINI, ModelState.UNLOADED)
                await until(lambda: protocol.Leave(MINI, "unloaded") in child.heard)
                await move(worker, child, "mini", "unloaded")


@pytest.mark.parametrize("silent", [False, True])
async def test_only_a_load_that_stands_still_is_killed(
    children: Children, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    """A check that took longer than load_timeout_s was killed while it went on, and so was the next worker's."""
    now, looks = [0.0], [0]

    def silent_s(hearing: Hearing, **what: bool) -> float:
        looks[0] += 1
        return measured(hearing, **what)

    measured = Hearing.silent_s
    monkeypatch.setattr(Hearing, "silent_s", silent_s)
    monkeypatch.setattr("server.worker.hearing.time", SimpleNamespace(monotonic=lambda: now[0]))
    settings = Settings(load_timeout_s=900, step_timeout_s=0.01)
    worker = LocalWorker(Assignment(settings, (MINI,), (), Metrics()))
    worker.start()
    async with asyncio.timeout(10):
        child = await children.get()
        child.say(HELLO)
        await move(worker, child, "mini", "loading")
        for forwards in range(1, 6):
            now[0] += 899 if not silent else 301
            if not silent:
                child.say(protocol.LoadProgress("mini", 5, forwards, MINI.mark))
                await until(lambda: worker._hearing.silent_s(loads=True, draws=False) == 0)
            before = looks[0]
            await until(lambda before=before: looks[0] > before + 1 or child.returncode is not None)  # type: ignore[misc]
        assert child.returncode == (-signal.SIGKILL if silent else None)
        await worker.stop()


async def test_a_worker_that_dies_says_which_drawings_it_had_come_to(children: Children) -> None:
    async with started([]) as worker:
        child = await children.get()
        child.say(HELLO)
        await move(worker, child, "mini", "ready")
        tasks = [
            asyncio.create_task(
                worker.draw(msgspec.structs.replace(DRAWING, job_id=job), Encoding("png", 90), lambda done, of: None)
            )
            for job in ("job_1", "job_2")
        ]
        await until(lambda: len(child.heard) == 2)
        child.say(protocol.Started("job_1"))
        await move(worker, child, "broken", "loading")
        child.end(-9)
        lost = await asyncio.gather(*tasks, return_exceptions=True)
        assert [error.started for error in lost if isinstance(error, WorkerLost)] == [True, False]


async def test_a_drawing_that_could_not_be_sent_leaves_no_error_in_the_log(
    children: Children, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a worker that died in that moment two errors were made, and nobody looked at one of them."""
    async with started([]) as worker:
        child = await children.get()
        child.say(HELLO)
        await until(lambda: worker.up)

        async def fail(message: protocol.ToWorker) -> None:
            worker._worker_lost()
            raise ConnectionError

        send, worker._send = worker._send, fail  # type: ignore[method-assign]
        with pytest.raises(WorkerLost) as lost:
            await worker.draw(DRAWING, Encoding("png", 90), lambda done, of: None)
        assert not lost.value.started
        worker._send = send  # type: ignore[method-assign]
        del lost
        gc.collect()
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
