"""Pictures on their way out of the worker: previews before the end of their drawing, and never in its way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pipelines.errors import Cancelled
from pipelines.pictures import images
from pipelines.plan import Drawing, ModelPlan
from pipelines.spec import Encoding, ImageSpec
from server.worker import cores, protocol
from server.worker.child.reporter import Reporter
from server.worker.cores import Cores

SPEC = ImageSpec("m", "p", 48, 32, 24, 16, 4, 1.0)
DRAWING = Drawing("job_1", ModelPlan("m", "/m", "other"), SPEC, (5, 6), previews=3)
PICTURES = torch.rand(2, 3, 16, 24) * 0.9 + 0.05


class Link:
    """Keeps what would be sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, message: protocol.ToFront) -> None:
        self.sent.append(message)

    def steps(self) -> list[tuple[int, int]]:
        return [(m.done, m.news) for m in self.sent if isinstance(m, protocol.Progress)]

    def previews(self) -> list[tuple[int, int]]:
        return [(m.number, m.picture.index) for m in self.sent if isinstance(m, protocol.Previewed)]


@pytest.fixture
def link() -> Link:
    return Link()


@pytest.fixture
def reporter(link: Link, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reporter]:
    monkeypatch.setattr(cores, "read", lambda: Cores(1, 1))
    made = Reporter(link)  # type: ignore[arg-type]
    made.expect(DRAWING, Encoding("jpeg", 95))
    made.started(DRAWING)
    yield made
    made.close()


def test_previews_are_whole_pictures_and_come_before_the_end(link: Link, reporter: Reporter) -> None:
    reporter.previewed(DRAWING, 1, 4, PICTURES)
    reporter.previewed(DRAWING, 2, 4, PICTURES)
    reporter.drawn(DRAWING, PICTURES)
    reporter.close()
    assert link.previews() == [(0, 0), (0, 1), (1, 0), (1, 1)]
    *_, end = link.sent
    assert isinstance(end, protocol.Finished)
    shown = [message.picture for message in link.sent if isinstance(message, protocol.Previewed)]
    assert {(p.mime, p.width, p.height) for p in (*shown, *end.pictures)} == {("image/jpeg", 48, 32)}
    assert [p.seed for p in end.pictures] == [5, 6]
    assert len(shown[0].data) < len(end.pictures[0].data)  # coarser, and without parameters


def test_previews_are_left_out_while_the_encoders_are_behind(
    link: Link, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    encode = images.encode

    def late(*arguments: Any, **options: Any) -> Any:
        assert gate.wait(60)
        return encode(*arguments, **options)

    monkeypatch.setattr(images, "encode", late)
    for done in range(1, 6):
        reporter.previewed(DRAWING, done, 9, PICTURES)
    gate.set()
    reporter.drawn(DRAWING, PICTURES)
    reporter.close()
    assert link.previews() == [(0, 0), (0, 1), (1, 0), (1, 1)]  # one encoder: one at work, one waiting
    assert isinstance(link.sent[-1], protocol.Finished)


def test_a_preview_that_cannot_be_encoded_costs_nothing_else(link: Link, reporter: Reporter) -> None:
    reporter.previewed(DRAWING, 1, 4, torch.full_like(PICTURES, float("nan")))
    reporter.drawn(DRAWING, PICTURES)
    reporter.close()
    assert link.previews() == []
    assert isinstance(link.sent[-1], protocol.Finished)


def test_progress_is_sent_once_an_interval_at_most_and_every_step_is_counted(
    link: Link, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter((10.0, 10.01, 10.02, 10.06, 10.07))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    for done in range(1, 6):
        reporter.progress(DRAWING, done, 5)
    assert link.steps() == [(1, 1), (4, 3), (5, 1)]


@pytest.mark.parametrize("kind", ["picture", "preview"])
def test_a_device_that_is_lost_under_an_encoder_ends_the_process(
    link: Link, reporter: Reporter, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Encoders wait for the copy, so they may be the first to hear of it: it ended their drawing alone, and the process
    went on with a device that was gone."""

    def lost(frames: images.Frames) -> Any:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    died: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    monkeypatch.setattr(images.Frames, "arrays", lost)
    if kind == "picture":
        reporter.drawn(DRAWING, PICTURES)
    else:
        reporter.previewed(DRAWING, 1, 4, PICTURES)
    reporter.close()
    assert [args.exc_type for args in died] == [torch.AcceleratorError]
    assert not [message for message in link.sent if isinstance(message, protocol.Failed | protocol.Finished)]


def test_a_copy_that_found_no_room_is_out_of_memory(
    link: Link, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(frames: images.Frames) -> Any:
        raise torch.AcceleratorError("CUDA error: out of memory")

    monkeypatch.setattr(images.Frames, "arrays", full)
    reporter.drawn(DRAWING, PICTURES)
    reporter.close()
    (end,) = [message for message in link.sent if isinstance(message, protocol.Failed)]
    assert end.kind == "OutOfMemory"


def test_what_a_drawing_took_is_told_once_to_its_end(link: Link, reporter: Reporter) -> None:
    for done in range(1, 5):
        reporter.took(DRAWING, 0.25)
        if done == 2:
            reporter.left_out(DRAWING)
        reporter.progress(DRAWING, done, 5)
    reporter.took(DRAWING, 0.5)
    reporter.failed(DRAWING, Cancelled("the client left"))
    reporter.took(DRAWING, 9.0)  # another's forward tells of it after its end: nobody is told
    spent = [(message.computed, message.device_s) for message in link.sent if hasattr(message, "computed")]
    assert sum(computed for computed, _ in spent) == 3
    assert sum(seconds for _, seconds in spent) == 1.5
    assert isinstance(link.sent[-1], protocol.Failed)
