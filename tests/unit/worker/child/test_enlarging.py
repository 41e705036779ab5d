"""Pictures that a network enlarges on their way out of the worker: what is told of them, and what happens where it
cannot."""

from __future__ import annotations

import io
import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from pipelines.errors import BadPicture, OutOfMemory
from pipelines.pictures import images
from pipelines.plan import UPSCALER, Drawing, ModelPlan
from pipelines.spec import Encoding, ImageSpec, Pixels
from server.worker import protocol
from server.worker.child import enlarging
from server.worker.child.enlarging import Enlargement
from server.worker.child.reporter import Reporter
from tests.unit.worker.child.test_reporter import Link

SPEC = ImageSpec("m", "p", 96, 64, 24, 16, 4, 1.0, upscaler="net")
DRAWING = Drawing("job_1", ModelPlan("m", "/m", "other"), SPEC, (5, 6))
PICTURES = torch.rand(2, 3, 16, 24) * 0.9 + 0.05


class Network:
    """Stands in for a network: makes everything red, or fails."""

    name = "net"

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.asked: list[tuple[int, float]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()

    def enlarge(self, pictures: Sequence[Image.Image], factor: float, *, crew: Any, tick: Any) -> list[Image.Image]:
        self.asked.append((len(pictures), factor))
        self.begun.set()
        while not self.gate.is_set():
            time.sleep(0.01)
            tick(1, 2)
        if self.failure is not None:
            raise self.failure
        size = tuple(round(side * factor) for side in pictures[0].size)
        return [Image.new("RGB", (size[0], size[1]), "red") for _ in pictures]


@pytest.fixture
def link() -> Link:
    return Link()


@pytest.fixture
def reporter(link: Link) -> Iterator[Reporter]:
    made = Reporter(link)  # type: ignore[arg-type]
    yield made
    made.close()


def begin(reporter: Reporter, network: Network | None, drawing: Drawing = DRAWING) -> list[str]:
    """Returns what is released."""
    released: list[str] = []
    reporter.expect(drawing, Encoding())
    if network is not None:
        give: Any = network
        reporter.set_enlargement(drawing, Enlargement(give, lambda: released.append("network")))
    return released


def ended(link: Link) -> protocol.Finished:
    (end,) = [message for message in link.sent if isinstance(message, protocol.Finished)]
    return end


def parameters(data: bytes) -> dict[str, Any]:
    picture = Image.open(io.BytesIO(data))
    assert isinstance(picture, PngImageFile)
    found: dict[str, Any] = json.loads(str(picture.text["parameters"]))
    return found


def reds(data: bytes) -> float:
    """The share of red pixels."""
    return float((np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) == (255, 0, 0)).all(axis=-1).mean())


def test_all_pictures_of_a_drawing_at_once(link: Link, reporter: Reporter) -> None:
    network = Network()
    released = begin(reporter, network)
    reporter.started(DRAWING)
    reporter.drawn(DRAWING, PICTURES)
    reporter.close()
    end = ended(link)
    assert network.asked == [(2, 4.0)]
    assert [(p.width, p.height, p.seed, p.upscaler, reds(p.data)) for p in end.pictures] == [
        (96, 64, 5, "net", 1.0),
        (96, 64, 6, "net", 1.0),
    ]
    assert parameters(end.pictures[0].data)["upscaler"] == "net"
    assert end.device_s > 0
    assert released == ["network"]


@pytest.mark.parametrize("failure", [OutOfMemory("full"), BadPicture("NaN"), ValueError("what it was")])
def test_lanczos_where_the_network_fails(
    link: Link, reporter: Reporter, caplog: pytest.LogCaptureFixture, failure: Exception
) -> None:
    released = begin(reporter, Network(failure))
    reporter.started(DRAWING)
    with caplog.at_level(logging.ERROR, "darkroom.worker"):
        reporter.drawn(DRAWING, PICTURES)
        reporter.close()
    end = ended(link)
    assert [(p.upscaler, reds(p.data)) for p in end.pictures] == [(None, 0.0), (None, 0.0)]
    assert "upscaler" not in parameters(end.pictures[0].data)
    assert "upscaled by Lanczos" in caplog.text
    assert released == ["network"]


def test_a_network_that_is_not_there_is_not_named(link: Link, reporter: Reporter) -> None:
    begin(reporter, None)
    reporter.started(DRAWING)
    reporter.drawn(DRAWING, PICTURES)
    reporter.close()
    assert [p.upscaler for p in ended(link).pictures] == [None, None]
    assert "upscaler" not in parameters(ended(link).pictures[0].data)


def test_a_picture_that_was_sent(link: Link, reporter: Reporter) -> None:
    spec = ImageSpec("net", "", 20, 20, 20, 20, 1, 0.0, sources=(Pixels.grey(10, 10, "RGB"),), only_enlarges=True)
    plan = ModelPlan("upscaler net", "", UPSCALER)
    for number, network in enumerate((Network(), None)):
        link.sent.clear()
        drawing = Drawing(f"job_{number}", plan, spec, (0,))
        released = begin(reporter, network, drawing)
        reporter.enlarge(drawing)
        for _ in range(500):
            if any(isinstance(message, protocol.Finished) for message in link.sent):
                break
            time.sleep(0.01)
        end = ended(link)
        assert isinstance(link.sent[0], protocol.Started)
        assert (end.computed, end.pictures[0].width) == (1, 20)
        assert parameters(end.pictures[0].data) == {
            "software": "Darkroom",
            "upscaler": "net" if network else "lanczos",
            "size": "20x20",
        }
        assert released == (["network"] if network else [])


def test_it_is_cancelled_and_says_meanwhile_that_it_lives(
    link: Link, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enlarging, "_SIGN_S", 0.02)
    network = Network()
    network.gate.clear()
    released = begin(reporter, network)
    reporter.started(DRAWING)
    reporter.drawn(DRAWING, PICTURES)
    assert network.begun.wait(10)
    for _ in range(500):
        if link.steps():
            break
        time.sleep(0.01)
    reporter.cancel("job_1")
    reporter.close()
    (failed,) = [message for message in link.sent if isinstance(message, protocol.Failed)]
    assert failed.kind == "Cancelled"
    assert link.steps()[0] == (4, 0)
    assert released == ["network"]


def test_one_that_failed_gives_its_network_back(link: Link, reporter: Reporter) -> None:
    released = begin(reporter, Network())
    reporter.failed(DRAWING, BadPicture("NaN"))
    assert released == ["network"]


def test_one_whose_pictures_find_no_room_on_their_way_out_gives_it_back_once(
    link: Link, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its model stayed pinned for ever, and those that needed its room waited for it as long."""
    released = begin(reporter, Network())
    reporter.started(DRAWING)
    reporter.took(DRAWING, 0.5)

    def full(drawn: torch.Tensor) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(images, "to_frames", full)
    with pytest.raises(torch.OutOfMemoryError):
        reporter.drawn(DRAWING, PICTURES)
    reporter.failed(DRAWING, OutOfMemory("full"))  # as a run does then
    assert released == ["network"]
    assert reporter.is_idle
    (failed,) = [message for message in link.sent if isinstance(message, protocol.Failed)]
    assert failed.device_s == 0.5


def test_a_sent_picture_that_finds_no_room_ends_its_own_drawing(
    link: Link, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended the process."""

    def full(pixels: Pixels) -> Image.Image:
        raise MemoryError

    monkeypatch.setattr("server.worker.child.reporter.to_pil", full)
    spec = ImageSpec("net", "", 20, 20, 20, 20, 1, 0.0, sources=(Pixels.grey(10, 10, "RGB"),), only_enlarges=True)
    drawing = Drawing("job_1", ModelPlan("upscaler net", "", UPSCALER), spec, (0,))
    released = begin(reporter, Network(), drawing)
    reporter.enlarge(drawing)
    reporter.close()
    (failed,) = [message for message in link.sent if isinstance(message, protocol.Failed)]
    assert (failed.kind, released) == ("OutOfMemory", ["network"])
