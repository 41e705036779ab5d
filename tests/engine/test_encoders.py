"""Prompts of several runs in one forward of a text encoder: equal pictures, who is spared, and who waits for whom."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast

from pipelines.engine import encoders
from pipelines.engine.collate import Uncollatable
from pipelines.engine.embeddings import EmbeddingCache, tells_in_tokens
from pipelines.engine.engine import Engine
from pipelines.engine.shared import SharedModule, Stage
from pipelines.engine.sink import KeepingSink
from pipelines.errors import Cancelled, DrawError
from pipelines.models import selfcheck
from pipelines.models.encodercheck import encoders as encoders_of
from pipelines.models.loader import LoadedModel
from pipelines.plan import Drawing
from tests.engine.conftest import SAME, Bench, Seen, denoiser, no_memory
from tests.families import tiny
from tests.families.drive import check, draw, drawing, run

EXACT = 1e-5  # of a picture's pixels, 0..1
PROMPTS = ("a red apple", "two dogs on a beach", "an old map of the sea", "a city at night, in the rain")


def encoder(model: LoadedModel, name: str = "text_encoder") -> SharedModule:
    return next(shared for shared in encoders_of(model) if shared.name == name)


def sizes(monkeypatch: pytest.MonkeyPatch, shared: SharedModule, raise_if: Callable[[torch.Tensor], None]) -> list[int]:
    """The rows of all forwards of an encoder from now on; ``raise_if`` sees their tokens."""
    real, seen = shared.function, list[int]()

    def function(*args: Any, **kwargs: Any) -> Any:
        tokens = args[0] if args else kwargs["input_ids"]
        seen.append(len(tokens))
        raise_if(tokens)
        return real(*args, **kwargs)

    monkeypatch.setattr(shared, "function", function)
    monkeypatch.setattr(shared, "learned_rows", {})
    return seen


def nothing(tokens: torch.Tensor) -> None:
    """No fault."""


@pytest.mark.parametrize("name", ["SD 1.x", "SDXL", "SD3", "FLUX.1", "FLUX.2 Klein", "Z-Image", "Sana", "PixArt-Sigma"])
def test_prompts_that_are_encoded_together_draw_the_same(name: str) -> None:
    model = tiny.build(name)
    check(model)
    drawings = [
        drawing(model, number, PROMPTS[number % 4], steps=2, negative_prompt=("dim" if number % 3 else "blurry"))
        for number in range(8)
    ]
    sink, alone = KeepingSink(), dict[str, torch.Tensor]()
    for one in drawings:
        alone |= draw(model, [one]).pictures
    engine = run(model, drawings, sink)
    assert not sink.errors, sink.errors
    for job, picture in alone.items():
        assert float((sink.pictures[job] - picture).abs().max()) <= EXACT, job
    for shared in encoders_of(model):
        rows, forwards = engine.counts[f"{shared.name}_rows"], engine.counts[f"{shared.name}_forwards"]
        assert rows % len(drawings) == 0, "each run's prompts are its own, though others ask for the same"
        assert forwards == rows // len(drawings), shared.name


@pytest.mark.parametrize("name", ["SD 1.x", "SDXL", "SD3", "FLUX.1"])
def test_each_row_is_what_the_encoder_makes_of_it_alone(name: str) -> None:
    model = tiny.build(name)
    for shared in encoders_of(model):
        tokens = torch.randint(3, 60, (5, 12))
        with torch.no_grad():
            together = encoders.pieces(shared.module(tokens, output_hidden_states=True), [1, 3, 1])
            alone = [shared.module(each, output_hidden_states=True) for each in (tokens[:1], tokens[1:4], tokens[4:])]
        for one, other in zip(together, alone, strict=True):
            assert type(one) is type(other)
            assert one.keys() == other.keys()
            torch.testing.assert_close(one["last_hidden_state"], other["last_hidden_state"], rtol=1e-5, atol=1e-5)
            for left, right in zip(one["hidden_states"], other["hidden_states"], strict=True):
                torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


def test_a_burst_is_encoded_in_few_forwards(bench: Bench) -> None:
    """Each run's prompts were encoded by themselves, four runs a step: 64 forwards of two encoders for 16 of SDXL."""
    _, engine = bench.draw([bench.drawing(f"{number}", seed=number, steps=2) for number in range(16)])
    assert engine.counts["text_encoder_rows"] == 2 * 16, "equal prompts too: nothing is shared between requests"
    assert engine.counts["text_encoder_forwards"] <= 4
    assert engine.counts[f"{denoiser(bench).name}_forwards"] <= 2 * 4, "and their first steps are shared"


def test_a_prompt_that_fails_together_is_tried_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    drawings = [bench.drawing(f"{number}", prompt=PROMPTS[number], steps=2) for number in range(3)]
    alone = {one.job_id: bench.alone(one) for one in drawings}
    bad: list[torch.Tensor] = []

    def raise_if(tokens: torch.Tensor) -> None:
        if not bad:
            bad.append(tokens[1])
        if any(torch.equal(row, bad[0]) for row in tokens):
            raise ValueError("not this prompt")

    seen = sizes(monkeypatch, encoder(bench.model), raise_if)
    told, engine = bench.draw(drawings)
    assert seen[:4] == [3, 1, 1, 1]
    assert engine.counts["retried_alone"] == 1
    assert {job: type(error) for job, error in told.errors.items()} == {"1": DrawError}
    for job in ("0", "2"):
        assert float((told.pictures[job] - alone[job]).abs().max()) < SAME


def test_prompts_that_do_not_fit_are_encoded_in_halves(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_if(tokens: torch.Tensor) -> None:
        if len(tokens) > 2:
            no_memory()

    seen = sizes(monkeypatch, encoder(bench.model), raise_if)
    told, engine = bench.draw([bench.drawing(f"{number}", seed=number, steps=1) for number in range(4)])
    assert not told.errors
    assert seen[:3] == [4, 2, 2]
    assert max(seen[3:]) == 2, "the size that fitted is remembered"
    assert engine.counts["out_of_memory"] == 1


def test_one_prompt_that_does_not_fit_is_tried_once_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch keeps for batches that are over may be all that is in its way."""
    faults = [1]

    def raise_if(tokens: torch.Tensor) -> None:
        if faults:
            faults.pop()
            no_memory()

    sizes(monkeypatch, encoder(bench.model), raise_if)
    told, engine = bench.draw([bench.drawing("a", steps=1)])
    assert not told.errors
    assert engine.counts["out_of_memory"] == 1
    faults += [1, 1]
    told, _ = bench.draw([bench.drawing("a", steps=1)])
    assert "no room" in str(told.errors["a"])


def test_whoever_leaves_while_its_prompt_waits_is_not_encoded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = sizes(monkeypatch, encoder(bench.model), nothing)
    told, ended = Seen(), threading.Semaphore(0)
    waits = [0]

    def leave(call: Any) -> None:
        waits[0] += 1
        if call.drawing.job_id == "gone":
            engine.cancel("gone")

    engine = Engine(told, observe=leave)
    engine.submit(bench.model, bench.drawing("kept", steps=1), bench.drawing("gone"), done=ended.release)
    for _ in range(2):
        assert ended.acquire(timeout=60)
    engine.close()
    assert isinstance(told.errors["gone"], Cancelled)
    assert "kept" in told.pictures
    assert seen == [1, 1], "the prompts of the one that stayed"


def test_newcomers_prompts_go_between_the_steps_of_those_that_draw(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    real = {shared: shared.function for shared in (denoiser(bench), encoder(bench.model))}
    for shared, function in real.items():

        def told(*args: Any, _name: str = shared.stage.name, _function: Any = function, **kwargs: Any) -> Any:
            order.append(_name)
            return _function(*args, **kwargs)

        monkeypatch.setattr(shared, "function", told)
        monkeypatch.setattr(shared, "costs", Slow(1.0))
    seen, ended = Seen(), threading.Semaphore(0)
    engine = Engine(seen)
    joined = threading.Event()

    def join(one: Drawing, done: int) -> None:
        if one.job_id == "long" and done == 2 and not joined.is_set():
            joined.set()
            order.clear()
            newcomers = [bench.drawing(f"{number}", seed=number, steps=1) for number in range(4)]
            engine.submit(bench.model, *newcomers, done=ended.release)

    seen.on_progress = join
    engine.submit(bench.model, bench.drawing("long", steps=12), done=ended.release)
    for _ in range(5):
        assert ended.acquire(timeout=60)
    engine.close()
    order = order[order.index("ENCODE") :]
    assert order[:4] == ["ENCODE", "DENOISE", "ENCODE", "DENOISE"], "one forward for all of them, then a step"
    assert order.count("ENCODE") == 2


class Slow:
    """Costs of a second a forward, whatever its rows."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def cost(self, area: int | None = None) -> Any:
        return SimpleNamespace(fixed_s=self._seconds, row_s=0.0, area=area or 1)

    def most_rows(self, area: int) -> int:
        return 16

    def to_try(self, bound: int, waiting: int, area: int) -> int:
        return bound

    def learn(self, rows: int, area: int, seconds: float) -> None:
        """It takes what it takes."""


def test_a_prompt_that_was_kept_meanwhile_is_not_encoded_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device with room for one row a forward would encode the same prompt for each of those that wait."""
    seen = sizes(monkeypatch, encoder(bench.model), nothing)
    monkeypatch.setattr(encoder(bench.model), "most_rows", lambda area, waiting: 1)
    told, ended = Seen(), threading.Semaphore(0)
    engine = Engine(told, embeddings=EmbeddingCache())
    drawings = [bench.drawing(f"{number}", seed=number, steps=1) for number in range(4)]
    engine.submit(bench.model, *drawings, done=ended.release)
    for _ in drawings:
        assert ended.acquire(timeout=60)
    engine.close()
    assert len(told.pictures) == 4
    assert seen == [1, 1], "the prompt, and the empty one"
    for one in drawings:
        assert float((told.pictures[one.job_id] - bench.alone(one)).abs().max()) < SAME


def test_what_is_kept_holds_no_rows_of_others(bench: Bench) -> None:
    """A row that is cut from a batch shows a part of its memory: all of it would stay, uncounted, for each that is
    kept."""

    def kept(drawings: list[Drawing]) -> int:
        cache, ended = EmbeddingCache(), threading.Semaphore(0)
        engine = Engine(Seen(), embeddings=cache)
        engine.submit(bench.model, *drawings, done=ended.release)
        for _ in drawings:
            assert ended.acquire(timeout=60)
        engine.close()
        for entry in cache._kept.values():
            assert entry.size == sum(t.nbytes for t in tensors_of(entry))
        return cache.size

    def tensors_of(entry: Any) -> list[torch.Tensor]:
        found = [*entry.states.values(), *entry.output.values()]
        return [each for each in found if isinstance(each, torch.Tensor)]

    together = [bench.drawing(f"{number}", prompt=PROMPTS[number], steps=1) for number in range(4)]
    one = kept(together[:1])
    assert kept(together) == one // 2 * 5, "four prompts and the empty one"


def test_an_encoder_that_looks_at_its_batch_encodes_prompts_one_by_one() -> None:
    """The check at load saw the pictures differ: no step was shared, for the text encoder's sake."""
    model = tiny.build("SD 1.x")
    shared = encoder(model)
    shared.module.register_forward_hook(mixed)
    verdict = selfcheck.check(model)
    assert model.shares
    assert shared.apart
    assert verdict.modules["text_encoder"].apart
    again = tiny.build("SD 1.x")
    selfcheck.check(again, verdict)
    assert encoder(again).apart, "it is known when it comes back"
    drawings = [drawing(model, number, PROMPTS[number], steps=2) for number in range(3)]
    expected = {one.job_id: draw(model, [one]).pictures[one.job_id] for one in drawings}
    drawn = draw(model, drawings)
    assert drawn.forwards < 3 * 2
    for job, picture in expected.items():
        assert float((drawn.pictures[job] - picture).abs().max()) <= EXACT


def mixed(module: torch.nn.Module, inputs: Any, output: Any) -> Any:
    """Each row is told of the others'."""
    output["last_hidden_state"] = output["last_hidden_state"] - 0.5 * output["last_hidden_state"].mean(0, keepdim=True)
    return output


def test_an_encoder_whose_prompts_cannot_meet_spares_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.build("SD 1.x")

    def raise_if(tokens: torch.Tensor) -> None:
        if len(tokens) > 1:
            raise ValueError("one at a time")

    sizes(monkeypatch, encoder(model), raise_if)
    selfcheck.check(model)
    assert model.shares
    assert encoder(model).apart
    model = tiny.build("SD 1.x")
    selfcheck.check(model)
    assert not encoder(model).apart, "it was seen to meet"


def test_only_calls_that_say_all_in_tokens_meet() -> None:
    tokens = torch.ones(1, 4, dtype=torch.long)
    assert tells_in_tokens({"input_ids": tokens, "attention_mask": tokens.bool(), "output_hidden_states": True})
    assert not tells_in_tokens({"input_ids": tokens, "past_key_values": object()}), "it writes on"
    assert not tells_in_tokens({"input_ids": tokens, "pixel_values": torch.ones(1, 3, 8, 8)}), "it sees a picture"


def test_what_language_models_make_for_writing_on_is_given_to_nobody() -> None:
    rows = torch.arange(6.0).reshape(3, 2)
    output = CausalLMOutputWithPast(logits=rows, past_key_values=object(), hidden_states=(rows, rows + 1))
    first, second = encoders.pieces(output, [1, 2])
    assert set(first) == {"logits", "hidden_states"}
    assert [each.tolist() for each in second["hidden_states"]] == [[[2, 3], [4, 5]], [[3, 4], [5, 6]]]


@pytest.mark.parametrize("extra", [torch.ones(5, 2), torch.tensor(1.0)])
def test_an_output_without_rows_is_not_cut(extra: torch.Tensor) -> None:
    rows: Any = torch.ones(3, 2)
    with pytest.raises(Uncollatable):
        encoders.pieces(BaseModelOutputWithPooling(last_hidden_state=rows, pooler_output=extra), [1, 2])


def test_encoders_have_a_stage_of_their_own() -> None:
    model = tiny.build("SD3")
    assert sorted(shared.name for shared in encoders_of(model)) == ["text_encoder", "text_encoder_2", "text_encoder_3"]
    assert not any(shared.is_denoiser for shared in encoders_of(model))
    assert {shared.stage for shared in model.shared_modules.values()} == {Stage.ENCODE, Stage.DENOISE, Stage.DECODE}
