"""The engine's sink in a worker: its events become messages to the front, and its pictures are encoded.

Knows drawings, codecs and the front's messages; knows neither models nor devices. Pictures are encoded on threads of
its own: the engine's thread never waits for a codec.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
import torch
from PIL import Image

from pipelines.engine.learning import StepCosts
from pipelines.engine.sink import Sink
from pipelines.errors import DrawError, OutOfMemory, is_device_lost, is_out_of_memory
from pipelines.pictures import images
from pipelines.pictures.fitting import to_pil
from pipelines.plan import Drawing
from pipelines.spec import Encoding, Picture
from server.worker import cores, protocol
from server.worker.child.costs import CostWatch
from server.worker.child.enlarging import Enlargement, Enlarging
from server.worker.child.link import Link

log = logging.getLogger("darkroom.worker")

_PROGRESS_INTERVAL_S = 0.05
_PREVIEW_QUALITY = 75  # of jpeg and webp
_MAX_ENCODERS = 4  # threads


@dataclass
class _DrawingState:
    """What is kept of a drawing between its arrival and its last message."""

    encoding: Encoding
    text_tokens: int = 0
    started_s: float = 0.0  # monotonic
    reported_s: float = 0.0  # monotonic, of the last progress message
    reported_steps: int = 0  # by then
    computed: int = 0  # steps since then
    device_s: float = 0.0  # since then
    skips: bool = False  # the step that is told of next was left out
    preview_count: int = 0  # that the engine made
    previews: list[Future[None]] = field(default_factory=list)  # that were not left out
    enlargement: Enlargement | None = None  # what brings its pictures to their size

    def spent(self) -> tuple[int, float]:
        """Steps computed, and seconds of the device, since this was last asked."""
        spent = self.computed, self.device_s
        self.computed, self.device_s = 0, 0.0
        return spent

    def release(self) -> None:
        """It needs its upscaler no more."""
        if self.enlargement is not None:
            self.enlargement.release()
            self.enlargement = None


class Reporter(Sink):
    """The engine's Sink. Sends its events to the front, with pictures encoded on threads off the step loop."""

    def __init__(self, link: Link, *, share: int = 1) -> None:
        """So many workers ``share`` this machine's cores."""
        self._link = link
        self.costs = CostWatch(link)
        threads = min(_MAX_ENCODERS, cores.read().threads(share))
        self._encoders = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="encode")
        self._preview_slots = threading.BoundedSemaphore(2 * threads)  # for previews that wait or are being encoded
        self._drawings: dict[str, _DrawingState] = {}
        self._enlarging = Enlarging(link, lambda: bool(self._drawings))

    def expect(self, drawing: Drawing, encoding: Encoding) -> None:
        """A drawing has come in."""
        self._drawings[drawing.job_id] = _DrawingState(encoding)

    def set_text_tokens(self, drawing: Drawing, text_tokens: int) -> None:
        """The tokens of the drawing's prompts. They are sent with its pictures."""
        self._drawings[drawing.job_id].text_tokens = text_tokens

    def set_enlargement(self, drawing: Drawing, enlargement: Enlargement) -> None:
        """What brings the drawing's pictures to their size."""
        self._drawings[drawing.job_id].enlargement = enlargement

    def enlarge(self, drawing: Drawing) -> None:
        """Make the picture that the drawing came with larger: its only step. Without an enlargement, by Lanczos."""
        self.started(drawing)
        state = self._drawings.pop(drawing.job_id)
        state.computed = 1
        self._submit_enlarging(drawing, state, lambda: [to_pil(drawing.spec.sources[0])], 0)

    def cancel(self, job_id: str) -> None:
        """Stop what is made larger. What is encoded ends by itself."""
        self._enlarging.cancel(job_id)

    def started(self, drawing: Drawing) -> None:
        self._drawings[drawing.job_id].started_s = time.monotonic()
        self._link.send(protocol.Started(drawing.job_id))

    @property
    def is_idle(self) -> bool:
        """Is there no drawing, be it under way or still waiting?"""
        return not self._drawings

    def left_out(self, drawing: Drawing) -> None:
        self._drawings[drawing.job_id].skips = True

    def took(self, drawing: Drawing, seconds: float) -> None:
        state = self._drawings.get(drawing.job_id)
        if state is not None:  # else a forward of another drawing told of it, after its end
            state.device_s += seconds

    def stepped(self, drawing: Drawing, costs: StepCosts) -> None:
        self.costs.stepped(drawing, costs)

    def progress(self, drawing: Drawing, done: int, of: int) -> None:
        """Sent once an interval at most: with many runs of short steps, the front would do little else than read."""
        state, now = self._drawings[drawing.job_id], time.monotonic()
        state.computed += not state.skips
        state.skips = False
        if done == of or now - state.reported_s >= _PROGRESS_INTERVAL_S:
            news = done - state.reported_steps
            self._link.send(protocol.Progress(drawing.job_id, done, of, news, *state.spent()))
            state.reported_s, state.reported_steps = now, done

    def previewed(self, drawing: Drawing, done: int, of: int, picture: torch.Tensor) -> None:
        """Left out while the encoders are behind: finished pictures must not wait for previews."""
        state = self._drawings[drawing.job_id]
        number, state.preview_count = state.preview_count, state.preview_count + 1
        frames = images.to_frames(picture)
        if self._preview_slots.acquire(blocking=False):
            preview = self._encoders.submit(self._encode_preview, drawing, number, frames, state)
            preview.add_done_callback(fail_as_thread)
            state.previews.append(preview)

    def drawn(self, drawing: Drawing, drawn: torch.Tensor) -> None:
        # First: the device may have no room for it, and ``failed`` then releases what the drawing holds.
        frames = images.to_frames(drawn)
        state = self._drawings.pop(drawing.job_id)

        def pictures() -> list[Image.Image]:
            return [images.as_drawn(array, drawing.spec) for array in frames.arrays()]

        if state.enlargement is not None:
            self._submit_enlarging(drawing, state, pictures, drawing.spec.steps)
            return
        seconds = time.monotonic() - state.started_s
        encoded = self._encoders.submit(self._encode, drawing, pictures, state, seconds)
        encoded.add_done_callback(fail_as_thread)

    def failed(self, drawing: Drawing, error: DrawError) -> None:
        state = self._drawings.pop(drawing.job_id, None)
        spent = (0, 0.0)
        if state is not None:
            spent = state.spent()
            state.release()
        self._link.send(protocol.Failed(drawing.job_id, type(error).__name__, str(error), *spent))

    def close(self) -> None:
        """Encode and send what has been drawn."""
        self._enlarging.close()
        self._encoders.shutdown(wait=True)

    def _submit_enlarging(
        self, drawing: Drawing, state: _DrawingState, pictures: Callable[[], list[Image.Image]], steps: int
    ) -> None:
        work = partial(self._enlarge_then_encode, drawing, state, pictures, steps)
        self._enlarging.submit(drawing.job_id, work).add_done_callback(fail_as_thread)

    def _enlarge_then_encode(
        self, drawing: Drawing, state: _DrawingState, pictures: Callable[[], list[Image.Image]], steps: int
    ) -> None:
        try:
            made, name = pictures(), None
            factor = images.factor(made[0].size, drawing.spec)
            if state.enlargement is not None and factor > 1:
                network, began_s = state.enlargement.network, time.monotonic()
                sign = (steps, max(1, drawing.spec.steps))
                enlarged = self._enlarging.enlarge(drawing.job_id, network, made, factor, sign)
                state.device_s += time.monotonic() - began_s
                made, name = (made, None) if enlarged is None else (enlarged, network.name)
        except Exception as error:
            if is_device_lost(error):
                raise
            self._send_failed(drawing, state, error)
            return
        finally:
            state.release()
        seconds = time.monotonic() - state.started_s
        encoded = self._encoders.submit(self._encode, drawing, lambda: made, state, seconds, name)
        encoded.add_done_callback(fail_as_thread)

    def _encode_preview(self, drawing: Drawing, number: int, frames: images.Frames, state: _DrawingState) -> None:
        quality = min(state.encoding.quality, _PREVIEW_QUALITY)
        encoding = msgspec.structs.replace(state.encoding, quality=quality, metadata=False)
        try:
            shown = [images.as_drawn(array, drawing.spec) for array in frames.arrays()]
            for picture in _encoded(drawing, shown, encoding):
                self._link.send(protocol.Previewed(drawing.job_id, number, picture))
        except Exception as error:  # no preview is worth a drawing
            if is_device_lost(error):
                raise
            log.warning("preview left out", extra={"drawing": drawing.job_id, "error": type(error).__name__})
        finally:
            self._preview_slots.release()

    def _encode(
        self,
        drawing: Drawing,
        pictures: Callable[[], list[Image.Image]],
        state: _DrawingState,
        seconds: float,
        upscaler: str | None = None,
    ) -> None:
        try:
            done = tuple(_encoded(drawing, pictures(), state.encoding, upscaler))
        except Exception as error:  # a picture that cannot be encoded ends its own drawing, not the worker
            if is_device_lost(error):
                raise
            self._send_failed(drawing, state, error)
        else:
            wait(state.previews)  # which began before us, so one of our own threads has each of them already
            self._link.send(protocol.Finished(drawing.job_id, done, seconds, state.text_tokens, *state.spent()))

    def _send_failed(self, drawing: Drawing, state: _DrawingState, error: Exception) -> None:
        kind = OutOfMemory if is_out_of_memory(error) else type(error)
        self._link.send(protocol.Failed(drawing.job_id, kind.__name__, str(error), *state.spent()))


def _encoded(
    drawing: Drawing, drawn: Sequence[Image.Image], encoding: Encoding, upscaler: str | None = None
) -> Iterator[Picture]:
    """``upscaler`` is what has enlarged them, which need not be the one that was to."""
    spec = msgspec.structs.replace(drawing.spec, upscaler=upscaler)
    for index, seed in enumerate(drawing.seeds):
        yield images.encode(images.finish(drawn[index], spec), spec, encoding, index=index, seed=seed)


def fail_as_thread(future: Future[Any]) -> None:
    """A pool keeps the error that its work ends with. It goes to threading.excepthook here, which ends the process."""
    error = future.exception()
    if error is not None:
        arguments = (type(error), error, error.__traceback__, threading.current_thread())
        threading.excepthook(threading.ExceptHookArgs(arguments))
