"""Graphs and the device's memory: what they take, and who goes first where it is short."""

from __future__ import annotations

import threading

import pytest
import torch

from pipelines.engine.batch import Batch
from pipelines.engine.collate import Merger
from pipelines.engine.graph_pool import SHORT
from pipelines.errors import OutOfMemory
from tests.device.cards import small
from tests.device.fake import FakeCuda
from tests.device.stepping import CUDA, ENOUGH, WIDTH, Steps


class Full:
    """Has no room, so many times."""

    times = 0

    def __call__(self, output: torch.Tensor) -> torch.Tensor:
        self.times -= 1
        if self.times >= 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return output


def test_where_memory_is_short_graphs_go_first(fake_cuda: FakeCuda, steps: Steps) -> None:
    other = Steps(pool=steps.pool)
    other.alone(1, ENOUGH)
    steps.net.inside = full = Full()
    full.times = 1
    steps.together(8, 1)
    assert steps.counts["graphs_dropped_for_room"] == 1
    assert steps.counts["out_of_memory"] == 0, "the batch is not made smaller"
    assert other.graphs.tally.dropped == {SHORT: 1}
    other.alone(1, 2 * ENOUGH)
    assert other.graphs.tally.captured == 1, "memory is still short"
    full.times = 1
    steps.together(8, 1)
    assert steps.counts["out_of_memory"] == 1, "there is none to drop any more"


def test_one_row_that_does_not_fit_is_refused_as_ever(fake_cuda: FakeCuda, steps: Steps) -> None:
    steps.net.inside = full = Full()
    full.times = 99
    call = steps.call()
    Batch([call], Merger(), steps.counts).run()
    assert isinstance(call.error, OutOfMemory)


def test_a_shortage_in_a_capture_is_no_failure(fake_cuda: FakeCuda, steps: Steps) -> None:
    def full(output: torch.Tensor) -> torch.Tensor:
        if torch.cuda.is_current_stream_capturing():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return output

    steps.net.inside = full
    steps.together(2, ENOUGH + 3)
    assert not steps.graphs.tally.refused
    assert (steps.pool.problem, steps.pool._failures) == ("", 0)


@pytest.mark.fake_cuda(card=small(64))
def test_a_step_that_takes_much_memory_is_not_captured(fake_cuda: FakeCuda, steps: Steps) -> None:
    def large(output: torch.Tensor) -> torch.Tensor:
        room = torch.zeros(6 << 20, dtype=torch.uint8, device=CUDA)
        return output + room[:WIDTH].float()

    steps.net.inside = large
    steps.together(2, 2 * ENOUGH)
    assert steps.graphs.tally.refused == {"it would take more memory than graphs may have": 1}


def test_a_load_that_wants_the_memory_gets_it(fake_cuda: FakeCuda, steps: Steps) -> None:
    steps.alone(1, ENOUGH)
    free, _ = torch.cuda.mem_get_info(CUDA)
    steps.pool.make_room(free - 4096)
    assert steps.pool.held == 1
    steps.pool.make_room(free + 1)
    assert steps.graphs.tally.dropped == {"another model needed the memory": 1}


def test_nobody_empties_the_cache_in_the_midst_of_a_capture(fake_cuda: FakeCuda, steps: Steps) -> None:
    done = threading.Event()
    others: list[threading.Thread] = []

    def empty() -> None:
        steps.pool.empty_cache()
        done.set()

    def empties(output: torch.Tensor) -> torch.Tensor:
        if torch.cuda.is_current_stream_capturing():
            others.append(threading.Thread(target=empty))
            others[0].start()
            assert not done.wait(0.05)
            with pytest.raises(RuntimeError, match="captures_underway"):
                torch.cuda.empty_cache()
        return output

    steps.net.inside = empties
    steps.together(2, ENOUGH + 1)
    others[0].join()
    assert (done.is_set(), steps.replayed) == (True, 1)


def test_another_thread_may_wait_while_one_captures(fake_cuda: FakeCuda, steps: Steps) -> None:
    def waits(output: torch.Tensor) -> torch.Tensor:
        if torch.cuda.is_current_stream_capturing():
            thread = threading.Thread(target=torch.cuda.synchronize)
            thread.start()
            thread.join()
        return output

    steps.net.inside = waits
    steps.together(2, ENOUGH + 1)
    assert steps.replayed == 1


def test_the_check_at_load_draws_kernel_by_kernel(steps: Steps) -> None:
    steps.graphs.is_paused = True
    steps.alone(1, 3 * ENOUGH)
    assert steps.graphs.tally.captured == 0
