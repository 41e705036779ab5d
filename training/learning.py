"""Learning: the loop that every stage runs in, until its time is over.

Knows optimizers, averages, the clock, and how one step is done (eagerly, compiled, or as a CUDA graph); knows nothing
of pictures or words. What does not work on a machine is told and done without: a compiler, a graph, a batch too large.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from . import runtime, together
from .muon import Muon
from .runtime import EMA, Clock, Span
from .stage import Stage

MIN_BATCH = 4  # below which a batch that does not fit is an error
WARM_UP = 3  # steps before a graph is captured
PRINTED_S = 10.0  # between two lines
STEPS_AHEAD = 8  # that the host may be ahead of the device


class Step:
    """One step of the optimizer, always on inputs of few shapes."""

    def __init__(self, stage: Stage, form: str) -> None:
        self.stage, self.form = stage, form
        device = stage.course.device
        self.on_cpu = device.type == "cpu"
        capturable = {} if self.on_cpu else {"capturable": True}
        groups = stage.groups()
        self.weights = [weight for group in groups for weight in group["params"]]
        rate = 0.0 if self.on_cpu else torch.zeros((), device=device)
        matrices = [weight for group in groups if group.get("matrices") for weight in group["params"]]
        self.muon = Muon(matrices) if matrices else None
        groups = [group for group in groups if not group.get("matrices")]
        self.optimizer = torch.optim.AdamW(
            [{"lr": rate if self.on_cpu else torch.zeros((), device=device), **group} for group in groups],
            lr=rate,
            betas=(0.9, 0.98),
            weight_decay=0.01,
            fused=True,
            **capturable,
        )
        self.loss: Callable[..., tuple[Tensor, Tensor]] = stage.loss
        self.gradients: list[Tensor | None] = []  # of the last step, of what Muon turns
        self.graphs: dict[tuple[torch.Size, ...], Captured | int] = {}
        if form == "compile":
            self.loss = torch.compile(stage.loss, dynamic=False)
        elif form == "graph" and self.on_cpu:
            self._go_eagerly("there are no CUDA graphs on a CPU")

    def __call__(self, inputs: tuple[Tensor, ...], rate: float) -> Tensor:
        """Learn from a batch; returns its figures."""
        figures = self._figures(inputs, rate)
        if self.muon is not None:  # it is never captured: its rate would be, with the rest
            self.muon.step(self.gradients, rate)
        return figures

    def _figures(self, inputs: tuple[Tensor, ...], rate: float) -> Tensor:
        for group in self.optimizer.param_groups:
            wanted = group.get("share", 1.0) * rate
            if self.on_cpu:
                group["lr"] = wanted
            else:
                group["lr"].fill_(wanted)
        if self.form == "graph":
            return self._graphed(inputs)
        try:
            return self._eager(inputs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if self.form != "compile":
                raise
            self._go_eagerly(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            return self._eager(inputs)

    def _eager(self, inputs: tuple[Tensor, ...]) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        with runtime.autocast(self.stage.course.device):
            loss, figures = self.loss(*inputs)
        loss.backward()  # type: ignore[no-untyped-call]
        together.mean_([weight.grad for weight in self.weights if weight.grad is not None])
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0, foreach=True)
        self.optimizer.step()
        self.gradients = [] if self.muon is None else [weight.grad for weight in self.muon.weights]
        figures = figures.detach()
        together.mean_([figures])
        return figures

    def _graphed(self, inputs: tuple[Tensor, ...]) -> Tensor:
        shapes = tuple(given.shape for given in inputs)
        found = self.graphs.setdefault(shapes, 0)
        if isinstance(found, Captured):
            self.gradients = found.gradients
            return found(inputs)
        if found < WARM_UP:
            self.graphs[shapes] = found + 1
            return self._aside(inputs)
        try:
            captured = Captured(self._eager, inputs)
            captured.gradients = self.gradients
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            self._go_eagerly(f"{type(error).__name__}: {error}")
            return self._eager(inputs)
        self.graphs[shapes] = captured
        return captured(inputs)

    def _aside(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """A step on a stream of its own, as what is captured later asks for."""
        here, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(here)
        with torch.cuda.stream(side):
            figures = self._eager(inputs)
        here.wait_stream(side)
        return figures

    def _go_eagerly(self, reason: str) -> None:
        print(f"{self.stage.name}: without {self.form}, eagerly from here on: {reason}", flush=True)
        self.form, self.loss = "eager", self.stage.loss
        self.graphs.clear()


class Captured:
    """A step's kernels, to be launched all at once on inputs that are copied to where they were."""

    def __init__(self, step: Callable[[tuple[Tensor, ...]], Tensor], inputs: tuple[Tensor, ...]) -> None:
        self.inputs = tuple(given.clone() for given in inputs)
        self.gradients: list[Tensor | None] = []  # where it leaves those that Muon asks for
        self.graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(self.graph):
            self.figures = step(self.inputs)

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        for kept, given in zip(self.inputs, inputs, strict=True):
            kept.copy_(given)
        self.graph.replay()
        return self.figures.clone()


class Learner:
    """A stage on its way: network, optimizer, average, and the samples seen."""

    def __init__(self, stage: Stage, form: str) -> None:
        self.stage, self.form = stage, form
        self.step, self.ema = Step(stage, form), EMA(stage.net)
        self.seen, self.slower = 0, 1.0
        self.sound = self._copy()  # the average when it was last looked at

    def run(self, clock: Clock, seconds: float, between: Callable[["Learner"], None]) -> None:
        """Learn for so many seconds; ``between`` is called after every step, and may take its time."""
        span, course = Span(clock, seconds), self.stage.course
        smoothed, printed = torch.zeros(len(self.stage.figures), device=course.device), clock.now()
        steps, learnt_s = 0, 0.0
        while True:
            going, done = together.as_the_first(span.going, span.done)
            if not going:
                break
            try:
                figures = self.step(self.stage.draw(done), self.slower * span.rate(course.rate, done))
            except torch.OutOfMemoryError:
                self._halve()
                span.rest()
                continue
            self.ema.update(self.stage.net)
            self.seen += course.batch * together.size()
            steps += 1
            smoothed = smoothed.lerp(figures, max(0.02, 1 / steps))
            if course.device.type != "cpu" and steps % STEPS_AHEAD:
                continue
            smoothed_now = smoothed.tolist()  # waits for the device
            began = span.last
            span.step()
            learnt_s += span.last - began
            if clock.now() - printed > PRINTED_S or not span.going:
                printed = clock.now()
                self._print(span, smoothed_now, self.seen / max(learnt_s, 1e-9))
                self.sound = self._copy() if runtime.finite(self.ema.weights) else self.sound
            if any(value != value for value in smoothed_now):
                self._go_back()
                smoothed, steps = torch.zeros_like(smoothed), 0
            else:
                between(self)
            span.rest()

    def _copy(self) -> dict[str, Tensor]:
        return {key: weight.clone() for key, weight in self.ema.weights.items()}

    def _print(self, span: Span, smoothed: list[float], pace: float) -> None:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in zip(self.stage.figures, smoothed, strict=True))
        progress = f"{self.stage.name}: {self.seen} samples, {span.done:.0%}, {pace:.1f}/s, {span.clock.shown()}"
        print(f"{progress}; {shown}", flush=True)

    def _halve(self) -> None:
        """Half the batch, since the device's memory does not hold the whole."""
        course = self.stage.course
        if course.batch // 2 < MIN_BATCH:
            raise MemoryError(f"{self.stage.name}: not even a batch of {course.batch} fits the device's memory")
        course.batch //= 2
        self.step.optimizer.zero_grad(set_to_none=True)
        self.step.graphs.clear()
        torch.cuda.empty_cache()
        print(f"{self.stage.name}: out of memory, so batches of {course.batch} from here on", flush=True)

    def _go_back(self) -> None:
        """Go back to the last sound average with a fresh optimizer and half the rate: the loss is not a number."""
        self.slower /= 2
        print(f"{self.stage.name}: the loss is not a number; back a little, at {self.slower:g} of the rate", flush=True)
        together.mean_(list(self.sound.values()))  # each of several has looked at another step
        self.stage.net.load_state_dict(self.sound)
        self.ema.weights = {key: weight.clone() for key, weight in self.sound.items()}
        self.step = Step(self.stage, self.form)
