"""Who is told what becomes of a drawing.

Knows a drawing and what was made of it; knows neither runs nor sockets.
"""

from __future__ import annotations

import torch

from pipelines.engine.learning import StepCosts
from pipelines.errors import DrawError
from pipelines.plan import Drawing


class Sink:
    """A listener that does nothing; each method is for a subclass to replace.

    Methods are called on the engine's thread while every run waits: they must return at once.
    """

    def started(self, drawing: Drawing) -> None:
        """The drawing's run has had its first turn."""

    def progress(self, drawing: Drawing, done: int, of: int) -> None:
        """``done`` of ``of`` steps are done."""

    def left_out(self, drawing: Drawing) -> None:
        """The step that ``progress`` tells of next was not computed: the step cache told it from those before."""

    def took(self, drawing: Drawing, seconds: float) -> None:
        """So long was the device busy for this drawing: its share of a forward, by rows. The last of it comes before
        ``drawn`` and ``failed``."""

    def stepped(self, drawing: Drawing, costs: StepCosts) -> None:
        """A denoiser has taken a step, for this drawing and maybe for others of its model and size; ``costs`` is what
        its steps are known to cost by now."""

    def previewed(self, drawing: Drawing, done: int, of: int, picture: torch.Tensor) -> None:
        """``picture`` is what would come out after ``done`` steps: (n, 3, h, w), 0..1."""

    def drawn(self, drawing: Drawing, drawn: torch.Tensor) -> None:
        """The pictures are finished: (n, 3, h, w), 0..1."""

    def failed(self, drawing: Drawing, error: DrawError) -> None:
        """The run has ended without pictures."""


class KeepingSink(Sink):
    """A listener that keeps the pictures and errors, by ``job_id``: for the check at load, benches and tests."""

    def __init__(self) -> None:
        self.pictures: dict[str, torch.Tensor] = {}  # (n, 3, h, w), 0..1, float32, in host memory
        self.errors: dict[str, DrawError] = {}

    def drawn(self, drawing: Drawing, drawn: torch.Tensor) -> None:
        self.pictures[drawing.job_id] = drawn.float().cpu()

    def failed(self, drawing: Drawing, error: DrawError) -> None:
        self.errors[drawing.job_id] = error
