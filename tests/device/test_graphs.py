"""Steps that are CUDA graphs, by a small module on the fake device: what is captured, replayed, dropped and refused."""

from __future__ import annotations

import gc
from typing import Any, cast

import pytest
import torch

from pipelines.engine import graphs as step_graphs
from pipelines.engine.adapters import Adapters
from pipelines.engine.call import Call, History
from pipelines.engine.graph_pool import GraphPool
from tests.device.fake import FakeCuda
from tests.device.stepping import CUDA, ENOUGH, WIDTH, Steps


@pytest.mark.parametrize("runs", [1, 2, 3, 4, 5, 8])
def test_a_step_that_comes_again_is_replayed_and_is_the_step(fake_cuda: FakeCuda, steps: Steps, runs: int) -> None:
    steps.together(runs, ENOUGH)
    assert (steps.graphs.tally.captured, steps.replayed) == (1, 0)
    steps.together(runs, 3)
    assert (steps.graphs.tally.captured, steps.replayed) == (1, 3)
    assert fake_cuda.captures.replays == 4, "the first is compared with the step"
    assert steps.counts == {
        "unet_forwards": ENOUGH + 3, "unet_rows": runs * (ENOUGH + 3), "graph_captures": 1, "graph_replays": 3,
    }  # fmt: skip
    assert not fake_cuda.mismatches


def test_fewer_rows_are_filled_up_to_the_bucket_of_more(steps: Steps) -> None:
    steps.together(4, ENOUGH)
    forwards = steps.net.forwards
    steps.together(3, 2)
    assert steps.replayed == 2
    assert steps.net.forwards == forwards, "no kernel is launched by itself"


def test_a_run_on_its_own_is_not_filled_up(steps: Steps) -> None:
    steps.alone(3, 2 * ENOUGH)
    assert steps.graphs.tally.captured == 0
    steps.alone(2, 2 * ENOUGH)
    assert steps.graphs.tally.captured == 1


def test_what_a_replay_gave_outlives_the_next(steps: Steps) -> None:
    steps.together(2, ENOUGH)
    kept = steps.step(steps.call(), steps.call())
    before = [output.cpu() for output in kept]
    steps.together(2, 3)
    assert all(torch.equal(output.cpu(), then) for output, then in zip(kept, before, strict=True))


def test_a_prompt_is_copied_once_and_again_when_it_was_written_to(steps: Steps) -> None:
    steps.together(1, ENOUGH)
    call = steps.call()
    steps.step(call)
    slot = next(iter(steps.graphs._forms.values())).inputs
    assert slot is not None
    steps.step(Call(steps.model, call.drawing, History(1), steps.shared, call.args, {}, None))
    call.args[0].add_(1.0)
    steps.step(Call(steps.model, call.drawing, History(1), steps.shared, call.args, {}, None))
    assert steps.replayed == 3


def test_each_shape_has_a_graph_of_its_own(steps: Steps) -> None:
    steps.alone(1, ENOUGH + 1)
    steps.alone(2, ENOUGH + 1)
    assert (steps.graphs.tally.held, steps.replayed, steps.pool.held) == (2, 2, 2)


# What is refused.


def test_a_forward_that_waits_is_launched_kernel_by_kernel(fake_cuda: FakeCuda, steps: Steps) -> None:
    def waits(output: torch.Tensor) -> torch.Tensor:
        assert output.sum().item() < 1000
        return output

    steps.net.inside = waits
    steps.together(2, ENOUGH)
    forwards = steps.net.forwards
    steps.together(2, 3)
    assert steps.net.forwards == forwards + 3, "it is not tried again"
    assert steps.graphs.tally.refused == {"it waits for the device: aten._local_scalar_dense.default": 1}
    assert fake_cuda.captures.captured == steps.graphs.tally.captured == 0


def test_a_table_that_is_made_once_is_no_wait(steps: Steps) -> None:
    tables: dict[int, torch.Tensor] = {}

    def looks_up(output: torch.Tensor) -> torch.Tensor:
        if len(output) not in tables:
            tables[len(output)] = torch.zeros(WIDTH).to(CUDA)  # from the host's memory: it waits
        return output + tables[len(output)]

    steps.net.inside = looks_up
    steps.together(4, ENOUGH - 1)
    steps.together(3, 2)
    assert steps.graphs.tally.captured == 1
    steps.together(4, 1)
    graph = next(form.graph for form in steps.graphs._forms.values() if form.graph is not None)
    assert graph._recorded is not None
    read = {storage._cdata for storage in graph._recorded.read}
    assert tables[4].untyped_storage()._cdata in read, "its class may forget it: the graph keeps it"
    assert steps.net.weight.untyped_storage()._cdata not in read, "the model keeps its weights"


def breaks(steps: Steps) -> None:
    """Let its forward wait in a way that no operator shows."""

    def inside(output: torch.Tensor) -> torch.Tensor:
        torch.cuda.synchronize()
        return output

    steps.net.inside = inside


def test_a_capture_that_fails_leaves_the_device_usable(
    fake_cuda: FakeCuda, steps: Steps, caplog: pytest.LogCaptureFixture
) -> None:
    breaks(steps)
    steps.together(2, ENOUGH + 3)
    (why,) = steps.graphs.tally.refused
    assert why.startswith("it cannot be captured: AcceleratorError: CUDA error: operation not permitted")
    assert [record.message for record in caplog.records] == ["launched kernel by kernel"], "once"
    torch.cuda.empty_cache()
    assert not fake_cuda.captures.underway
    captured = fake_cuda.captures.captured
    assert captured == 1, "one that cannot fail has shown that the device can be used"
    other = Steps(pool=steps.pool)
    other.together(2, ENOUGH + 2)
    assert (other.replayed, steps.pool.problem) == (2, "")


def test_captures_that_fail_again_and_again_are_given_up(fake_cuda: FakeCuda, steps: Steps) -> None:
    good = Steps(pool=steps.pool)
    good.together(2, ENOUGH + 1)
    for _ in range(3):
        bad = Steps(pool=steps.pool)
        breaks(bad)
        bad.together(2, ENOUGH)
    assert "3 captures failed, the last with AcceleratorError" in steps.pool.problem
    assert good.graphs.tally.dropped == {"a capture failed": 1}
    good.together(2, 3 * ENOUGH)
    assert (good.graphs.tally.captured, good.graphs.tally.reason) == (1, steps.pool.problem)


def test_a_device_that_is_lost_in_a_capture_is_told_of(fake_cuda: FakeCuda, steps: Steps) -> None:
    def dies(output: torch.Tensor) -> torch.Tensor:
        if torch.cuda.is_current_stream_capturing():
            fake_cuda.lose(at_next_wait=False)
        return output

    steps.net.inside = dies
    with pytest.raises(torch.AcceleratorError, match="device-side assert"):
        steps.together(2, ENOUGH)


def test_a_replay_that_differs_from_the_step_is_dropped(steps: Steps) -> None:
    noisy = [0.0]

    def another(output: torch.Tensor) -> torch.Tensor:
        return output + 1.0 if torch.cuda.is_current_stream_capturing() else output

    steps.net.inside = another
    steps.together(2, ENOUGH + 3)
    assert steps.graphs.tally.refused == {"its replay differs from the step": 1}
    assert (steps.graphs.tally.held, steps.replayed, noisy) == (0, 0, [0.0])


def test_a_step_that_cannot_be_drawn_fails_as_ever(steps: Steps) -> None:
    steps.together(1, ENOUGH - 1)

    def fails(output: torch.Tensor) -> torch.Tensor:
        raise ValueError("no such thing")

    steps.net.inside = fails
    with pytest.raises(ValueError, match="no such thing"):
        steps.alone()
    assert steps.graphs.tally.refused == {"it failed": 1}


def test_rows_with_adapters_are_launched_kernel_by_kernel(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Adapters, "of", lambda adapters, module, wanted: wanted)
    steps.together(1, ENOUGH)
    for _ in range(3):
        steps.step(steps.call(adapters=("a",)))
    assert (steps.replayed, steps.graphs.tally.captured) == (0, 1)
    steps.together(1)
    assert steps.replayed == 1


def test_what_may_look_at_its_batch_or_is_cast_is_launched_kernel_by_kernel(steps: Steps) -> None:
    cast(Any, steps.model).shares = False
    steps.alone(1, 3 * ENOUGH)
    assert steps.graphs.tally.captured == 0


def test_arguments_that_no_graph_can_hold(steps: Steps) -> None:
    steps.shared.signature.normalise((1, 2), {})
    call = steps.call()
    assert steps.graphs.form(((object(),), {}), 1, 4, {}, fills=False) is None
    form = steps.graphs.form(((call.args[0], torch.zeros(())), {}), 1, 4, {}, fills=False)
    assert form is None
    assert steps.graphs.tally.refused == {"an argument is in host memory": 1}


# What is dropped.


def test_where_kernels_alone_take_as_long_a_graph_brings_nothing(fake_cuda: FakeCuda) -> None:
    steps = Steps(max_share=0.0)
    steps.together(4, ENOUGH + 6)
    assert steps.graphs.tally.dropped == {"brought nothing at 4 rows": 1}
    assert steps.replayed <= 5
    steps.together(8, 2 * ENOUGH)
    assert steps.graphs.tally.captured == 1, "nor would more rows"
    steps.together(2, 2 * ENOUGH)
    assert steps.graphs.tally.captured == 2


def test_the_least_recently_used_leaves(fake_cuda: FakeCuda) -> None:
    steps = Steps(pool=GraphPool(CUDA, max_graphs=2))
    steps.alone(1, ENOUGH)
    steps.alone(2, ENOUGH)
    steps.alone(1)
    steps.alone(4, ENOUGH)
    assert steps.graphs.tally.dropped == {"others were used since": 1}
    assert sorted(form.rows for form in steps.graphs._forms.values() if form.graph is not None) == [1, 4]
    steps.alone(2, ENOUGH)
    assert steps.graphs.tally.captured == 3, "it has to come more often to be captured again"


def test_forms_are_bounded(fake_cuda: FakeCuda, steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_graphs, "_MAX_FORMS", 2)
    for rows in (1, 2, 4, 8):
        steps.alone(rows)
    assert [form.rows for form in steps.graphs._forms.values()] == [4, 8]


def test_graphs_that_are_dropped_give_their_memory_back(fake_cuda: FakeCuda, steps: Steps) -> None:
    before = fake_cuda.memory.reserved
    steps.alone(1, ENOUGH + 1)
    steps.alone(2, ENOUGH + 1)
    held = steps.pool.bytes
    assert 0 < held <= fake_cuda.memory.reserved - before
    steps.graphs.drop("its weights moved")
    assert (steps.pool.bytes, steps.graphs.tally.held) == (0, 0)
    assert steps.graphs.tally.dropped == {"its weights moved": 2}
    assert fake_cuda.memory.reserved == before
    steps.alone(1, 3 * ENOUGH)
    assert steps.replayed > 2, "they are captured anew"


def test_graphs_leave_with_their_module(fake_cuda: FakeCuda, steps: Steps) -> None:
    other = Steps(pool=steps.pool)
    other.alone(1, ENOUGH + 1)
    assert steps.pool.held == 1
    del other
    gc.collect()
    assert (steps.pool.held, steps.pool.bytes) == (0, 0)


# What steps cost.


def test_a_size_costs_what_its_replays_take(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of one size that are launched two ways are not learnt of together."""
    learnt: list[float] = []
    forgotten: list[tuple[int, int]] = []
    monkeypatch.setattr(steps.shared.costs, "learn", lambda rows, area, seconds: learnt.append(rows))
    monkeypatch.setattr(steps.shared.costs, "forget", lambda rows, area: forgotten.append((rows, area)))
    steps.together(2, ENOUGH)
    steps.shared.stopwatch.read()
    assert len(learnt) == ENOUGH - 2, "not of the first, which chooses kernels, nor of the one that is captured"
    steps.together(2, 3)
    steps.shared.stopwatch.read()
    assert (len(learnt), forgotten) == (ENOUGH - 2, []), "not of some that differ"
    steps.together(2, 2)
    steps.shared.stopwatch.read()
    assert (len(learnt), forgotten) == (ENOUGH, [(2, WIDTH)]), "but of a new way, anew"
