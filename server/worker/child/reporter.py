"""From the engine's events to messages and encoded pictures.

Knows drawings, codecs and the front's messages; knows neither models nor devices. Pictures are encoded on threads of
its own: the engine's thread never waits for a codec.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import msgspec
import torch

from pipelines.engine.sink import Sink
from pipelines.errors import DrawError
from pipelines.pictures import images
from pipelines.plan import Drawing
from pipelines.spec import Encoding, Picture
from server.worker import protocol
from server.worker.child.link import Link

log = logging.getLogger("darkroom.worker")

_PROGRESS_S = 0.05
_PREVIEW_QUALITY = 75  # of jpeg and webp


@dataclass
class _Underway:
    """A drawing between its arrival and its last message."""

    encoding: Encoding
    text_tokens: int = 0
    started_s: float = 0.0  # monotonic
    told_s: float = 0.0  # monotonic, of the last progress
    told: int = 0  # steps, by then
    shown: int = 0  # previews that the engine made
    previews: list[Future[None]] = field(default_factory=list)


class Reporter(Sink):
    """Turns the engine's events into messages; encodes pictures on threads of its own, off the step loop."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._workers = max(1, min(4, os.cpu_count() or 1))
        self._encoders = ThreadPoolExecutor(max_workers=self._workers, thread_name_prefix="encode")
        self._busy = threading.BoundedSemaphore(2 * self._workers)  # previews that wait or are being encoded
        self._drawings: dict[str, _Underway] = {}

    def expect(self, drawing: Drawing, encoding: Encoding) -> None:
        """A drawing has come in."""
        self._drawings[drawing.job_id] = _Underway(encoding)

    def counted(self, drawing: Drawing, text_tokens: int) -> None:
        self._drawings[drawing.job_id].text_tokens = text_tokens

    def started(self, drawing: Drawing) -> None:
        self._drawings[drawing.job_id].started_s = time.monotonic()
        self._link.send(protocol.Started(drawing.job_id))

    def progress(self, drawing: Drawing, done: int, of: int) -> None:
        """Told at most so often: with many runs of short steps, the front would do little else than listen."""
        underway, now = self._drawings[drawing.job_id], time.monotonic()
        if done == of or now - underway.told_s >= _PROGRESS_S:
            self._link.send(protocol.Progress(drawing.job_id, done, of, done - underway.told))
            underway.told_s, underway.told = now, done

    def previewed(self, drawing: Drawing, done: int, of: int, picture: torch.Tensor) -> None:
        """Left out while the encoders are behind: finished pictures must not wait for passing ones."""
        underway = self._drawings[drawing.job_id]
        number, underway.shown = underway.shown, underway.shown + 1
        frames = images.to_frames(picture)
        if self._busy.acquire(blocking=False):
            underway.previews.append(self._encoders.submit(self._encode_preview, drawing, number, frames, underway))

    def drawn(self, drawing: Drawing, drawn: torch.Tensor) -> None:
        underway = self._drawings.pop(drawing.job_id)
        seconds = time.monotonic() - underway.started_s
        self._encoders.submit(self._encode, drawing, images.to_frames(drawn), underway, seconds)

    def failed(self, drawing: Drawing, error: DrawError) -> None:
        self._drawings.pop(drawing.job_id, None)
        self._link.send(protocol.Failed(drawing.job_id, type(error).__name__, str(error)))

    def close(self) -> None:
        self._encoders.shutdown(wait=True)

    def _encode_preview(self, drawing: Drawing, number: int, frames: images.Frames, underway: _Underway) -> None:
        quality = min(underway.encoding.quality, _PREVIEW_QUALITY)
        encoding = msgspec.structs.replace(underway.encoding, quality=quality, metadata=False)
        try:
            for picture in _encoded(drawing, frames, encoding):
                self._link.send(protocol.Previewed(drawing.job_id, number, picture))
        except Exception as error:  # no preview is worth a drawing
            log.warning("preview left out", extra={"drawing": drawing.job_id, "error": type(error).__name__})
        finally:
            self._busy.release()

    def _encode(self, drawing: Drawing, frames: images.Frames, underway: _Underway, seconds: float) -> None:
        try:
            done = tuple(_encoded(drawing, frames, underway.encoding))
        except Exception as error:  # a picture that cannot be encoded ends its own drawing, not the worker
            self._link.send(protocol.Failed(drawing.job_id, type(error).__name__, str(error)))
        else:
            wait(underway.previews)  # which began before us, so one of our own threads has each of them already
            self._link.send(protocol.Finished(drawing.job_id, done, seconds, underway.text_tokens))


def _encoded(drawing: Drawing, frames: images.Frames, encoding: Encoding) -> Iterator[Picture]:
    pictures = frames.arrays()
    for index, seed in enumerate(drawing.seeds):
        picture = images.finish(pictures[index], drawing.spec)
        yield images.encode(picture, drawing.spec, encoding, index=index, seed=seed)
