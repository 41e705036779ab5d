"""What comes from the prompt alone is computed once a run, and is the same as if it were not."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from pipelines.engine import kept
from pipelines.engine.kept import Kept, Part, PromptWork
from pipelines.engine.shared import Stage
from pipelines.spec import Pixels
from tests.engine.conftest import Bench, decoder, denoiser, faulty


class Counted(nn.Linear):
    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x)


class Toy(nn.Module):
    """A denoiser in small: a prompt is embedded, reshaped and projected; one layer also sees the sample."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(Counted(4, 8), nn.SiLU())
        self.keys, self.both, self.twice = Counted(4, 6), Counted(4, 6), Counted(4, 4)

    def forward(self, sample: torch.Tensor, time: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        embedded = self.embed(prompt)
        halves = embedded.view(prompt.shape[0], -1, 4)
        mixed = self.both(sample[:, None] + halves)
        again: torch.Tensor = self.twice(prompt).sum() + 2 * self.twice(halves).sum()
        made: torch.Tensor = self.keys(halves).mean(1) + mixed.mean(1) + time + again
        return made

    def calls(self) -> dict[str, int]:
        return {name: layer.calls for name, layer in self.named_modules() if isinstance(layer, Counted)}


class Runs:
    """Calls of one module, by runs with a prompt each."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.work = PromptWork(module)
        self.counts: Counter[str] = Counter()
        self.kept: dict[str, Kept] = {}
        self.prompts: dict[str, torch.Tensor] = {}
        self._joined: dict[tuple[str, ...], torch.Tensor] = {}
        self._met: set[str] = set()  # runs that had company

    def step(self, *names: str) -> torch.Tensor:
        """One step that these runs share; it must give what the module gives without."""
        for name in names:
            self.prompts.setdefault(name, torch.randn(1, 3, 4))
        prompts = [self.prompts[name] for name in names]
        samples = [torch.randn(1, 4) for _ in names]
        if len(names) > 1:
            self._joined.setdefault(names, torch.cat(prompts))
        arguments = {
            "sample": torch.cat(samples) if len(names) > 1 else samples[0],
            "time": torch.randn(len(names), 1),
            "prompt": self._joined[names] if len(names) > 1 else prompts[0],
        }
        parts = [
            Part(self.kept.setdefault(name, Kept()), {"sample": sample, "prompt": prompt}, 1)
            for name, sample, prompt in zip(names, samples, prompts, strict=True)
        ]
        expected = self.module(**arguments)
        before = self.counts["prompt_layers_kept"]
        with self.work.of(parts, arguments, self.counts):
            output: torch.Tensor = self.module(**arguments)
        self.hits = self.counts["prompt_layers_kept"] - before
        assert torch.allclose(output, expected, atol=1e-5)
        self._met.update(names if len(names) > 1 else ())
        if not self._met & {*names}:
            assert torch.equal(output, expected), "always on its own: the same bytes"
        return output


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    torch.manual_seed(1)
    with torch.no_grad():
        yield


def test_layers_that_see_the_prompt_alone_are_called_once_a_run() -> None:
    runs = Runs(Toy())
    assert [runs.step("a") is not None and runs.hits for _ in range(4)] == [0, 0, 0, 4]
    # The second shows what is given again, the third keeps it: embed, keys, and twice for the prompt and its halves.
    before = runs.module.calls()  # type: ignore[operator]
    with runs.work.of([], {}, runs.counts):
        pass
    runs.step("a")
    # Each once, by the call that the test itself compares with; ``both`` sees the sample too.
    assert {name: now - before[name] for name, now in runs.module.calls().items()} == {  # type: ignore[operator]
        "embed.0": 1,
        "keys": 1,
        "both": 2,
        "twice": 2,
    }


def test_a_run_keeps_its_own_as_its_company_changes() -> None:
    runs = Runs(Toy())
    for _ in range(4):
        runs.step("a")
    runs.step("a", "b")
    assert runs.hits == 0, "nothing is known of b"
    for company in (("b", "a"), ("b",), ("a",), ("a", "b"), ("a", "b")):
        runs.step(*company)
        assert runs.hits == 4, company
    runs.step("a", "b", "c")
    assert runs.hits == 0
    runs.step("c", "b")
    assert runs.hits == 4


def test_two_prompts_of_one_run_by_turns() -> None:
    """Where guidance makes two calls a step."""
    runs = Runs(Toy())
    first, second = torch.randn(1, 3, 4), torch.randn(1, 3, 4)
    for number in range(8):
        runs.prompts["a"] = (first, second)[number % 2]
        runs.step("a")
    assert runs.hits == 4


def test_what_is_written_to_is_made_anew() -> None:
    runs = Runs(Toy())
    for _ in range(4):
        runs.step("a")
    runs.prompts["a"].mul_(2)
    runs.step("a")
    assert runs.hits == 0
    runs.step("a")
    assert runs.hits == 4


class Scribbler(nn.Module):
    """Writes to what a layer made."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = nn.Linear(4, 4)

    def forward(self, sample: torch.Tensor, time: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.keys(prompt).add_(time[:, None]).mean(1) + sample
        return result


def test_what_was_written_to_an_output_is_not_given_again() -> None:
    runs = Runs(Scribbler())
    for company in ("a", "a", "a", "a", "ab", "ab", "ba", "b", "b"):
        runs.step(*company)
        assert runs.hits == 0 or "b" in company, "of b a copy was taken before it was written to"
    runs.step("b")
    assert runs.hits == 0


class Changing(nn.Module):
    """Gives its layers a prompt that is made anew at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = nn.Linear(4, 4)

    def forward(self, sample: torch.Tensor, time: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.keys(prompt + time[:, None]).mean(1) + sample
        return result


def test_a_layer_that_also_sees_the_time_is_left_alone() -> None:
    runs = Runs(Changing())
    for company in ("a", "a", "a", "a", "ab", "ab"):
        runs.step(*company)
    assert runs.counts == {}
    assert "forward" not in vars(runs.module.keys)


class Adding(nn.Module):
    """Writes the time to the prompt itself, and takes it back."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = nn.Linear(4, 4)

    def forward(self, sample: torch.Tensor, time: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        own = prompt.clone()
        result: torch.Tensor = self.keys(prompt.add_(time[:, None])).mean(1) + sample
        prompt.copy_(own)
        return result


def test_a_prompt_that_the_module_writes_to_is_none() -> None:
    runs = Runs(Adding())
    for company in ("a", "a", "a", "a", "ab", "ab", "ab"):
        runs.step(*company)
    assert runs.counts == {}


class Packed(nn.Module):
    """Reads the prompt and something else out of one piece of memory."""

    def __init__(self) -> None:
        super().__init__()
        self.split, self.keys = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, sample: torch.Tensor, time: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        packed = torch.cat([self.split(prompt), sample[:, None]], dim=1)
        result: torch.Tensor = self.keys(packed[:, :3]).sum(1) + self.keys(packed[:, 3:]).sum(1) + time
        return result


def test_memory_that_other_numbers_share_is_not_taken_for_the_prompt() -> None:
    runs = Runs(Packed())
    for company in ("a", "a", "a", "a", "ab", "ab", "ab"):
        runs.step(*company)
    assert runs.work.layers == 1


class Adapted(nn.Module):
    """As peft wraps a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Linear(4, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.base_layer(x)
        return made.add_(1)


def test_layers_that_adapters_change_are_left_alone() -> None:
    module = Toy()
    module.embed[0] = Adapted()
    runs = Runs(module)
    for _ in range(4):
        runs.step("a")
    assert runs.hits == 1, "twice, of the prompt: what adapters change is made at every step, and what comes of it"


def test_a_compiled_module_and_one_that_is_brought_to_the_device_by_layers_are_left_alone() -> None:
    compiled, hooked = Toy(), Toy()
    compiled.keys._compiled_call_impl = compiled.keys._call_impl
    hooked.keys.__dict__["_hf_hook"] = object()  # as accelerate leaves one
    for module in (compiled, hooked):
        runs = Runs(module)
        for _ in range(5):
            runs.step("a")
        assert runs.counts == {}


def test_memory_is_bounded_and_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(Toy())
    for _ in range(4):
        runs.step("a")
    size = runs.kept["a"].nbytes()
    assert size == 4 * (3 * 8 + 6 * 6 + 3 * 4 + 6 * 4)
    monkeypatch.setattr(kept, "MAX_BYTES", size + 4 * 3 * 8)
    for _ in range(3):
        runs.step("b")
    assert (runs.hits, runs.kept["b"].nbytes()) == (1, 4 * 3 * 8), "as far as there is room"
    runs.work.give_up()
    assert runs.kept["a"].nbytes() == runs.kept["b"].nbytes() == 0
    runs.step("a")
    assert runs.hits == 0


def test_a_run_that_has_ended_holds_nothing() -> None:
    runs = Runs(Toy())
    for company in ("a", "a", "a", "ab", "ab"):
        runs.step(*company)
    prompt = weakref.ref(runs.prompts.pop("a"))
    for each in runs.kept.values():
        each.forget()
    runs.kept.clear()
    runs._joined.clear()
    runs.work.rest()
    gc.collect()
    assert prompt() is None


def test_a_forward_that_fails_leaves_the_layers_as_they_were() -> None:
    module = Toy()
    runs = Runs(module)
    runs.step("a")
    runs.step("a")
    prompt = {"prompt": runs.prompts["a"]}
    parts = [Part(runs.kept["a"], prompt, 1)]
    with pytest.raises(RuntimeError), runs.work.of(parts, prompt, runs.counts):
        module(torch.zeros(1, 9), torch.zeros(1, 1), **prompt)
    for _ in range(3):
        runs.step("a")
    assert runs.hits == 4


def test_the_model_that_ships_draws_the_same_bytes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = bench.drawing("a", steps=5, n=2)
    seen, engine = bench.draw([drawing])
    assert engine.counts["prompt_layers_kept"] > 0
    with monkeypatch.context() as patch:
        patch.setattr(denoiser(bench), "prompt_work", None)
        plain, engine = bench.draw([drawing])
    assert engine.counts["prompt_layers_kept"] == 0
    assert torch.equal(seen.pictures["a"], plain.pictures["a"])


def test_what_was_given_up_is_not_kept_anew() -> None:
    """After a shortage of memory the next step kept it all again."""
    runs = Runs(Toy())
    for _ in range(4):
        runs.step("a")
    runs.step("a", "b")
    assert runs.kept["a"].nbytes() > 0
    runs.work.give_up()
    for company in (("a",), ("a", "b"), ("a", "b"), ("c",), ("c",), ("c",)):
        runs.step(*company)
        assert runs.hits == 0
    assert [kept.nbytes() for kept in runs.kept.values()] == [0, 0, 0]


@pytest.mark.parametrize("stage", [Stage.DENOISE, Stage.DECODE])
def test_a_shortage_of_memory_takes_what_is_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch, stage: Stage) -> None:
    shared = next(each for each in bench.model.shared_modules.values() if each.stage is stage)
    work = denoiser(bench).prompt_work
    assert work is not None
    monkeypatch.setattr(shared, "learned_rows", {})
    fails = [False, False, True] if stage is Stage.DENOISE else [True]

    def raise_if(sample: torch.Tensor) -> None:
        if fails and fails.pop(0):
            raise torch.OutOfMemoryError("CUDA out of memory")

    faulty(monkeypatch, shared, raise_if)
    seen, _ = bench.draw([bench.drawing("a", steps=4, n=2)])
    assert (work.is_given_up, seen.errors) == (True, {})
    seen, engine = bench.draw([bench.drawing("b", steps=4, n=2)])
    assert (engine.counts["prompt_layers_kept"], seen.errors) == (0, {})


def test_a_shortage_of_memory_where_a_picture_is_encoded_takes_it_too(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such work is done for one run by itself, and was tried again with all of it still kept."""
    work, vae = denoiser(bench).prompt_work, decoder(bench).module
    assert work is not None
    real: Any = vae.encode
    fails = [True]

    def encode(*args: Any, **kwargs: Any) -> Any:
        if fails and fails.pop():
            raise torch.OutOfMemoryError("CUDA out of memory")
        assert work.is_given_up
        return real(*args, **kwargs)

    monkeypatch.setattr(vae, "encode", encode)
    seen, _ = bench.draw([bench.drawing("a", sources=(Pixels.grey(64, 64, "RGB"),), strength=0.5)])
    assert (fails, seen.errors) == ([], {})
