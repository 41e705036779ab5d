"""A batch by itself: one forward for several calls, and what becomes of each when that fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from pipelines.engine.adapters import Adapters
from pipelines.engine.batch import Batch
from pipelines.engine.call import Call, History
from pipelines.engine.collate import Merger
from pipelines.engine.model import Model
from pipelines.engine.shared import SharedModule, Stage
from pipelines.errors import OutOfMemory
from pipelines.plan import Drawing

_DRAWING = cast(Drawing, SimpleNamespace(principal="p", spec=SimpleNamespace(adapters=())))


class Doubling(torch.nn.Module):
    """Doubles its sample; ``refuse`` looks at the sample first, and may raise."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.refuse: Callable[[torch.Tensor], None] = lambda sample: None

    def forward(self, sample: torch.Tensor) -> tuple[torch.Tensor]:
        self.sizes.append(sample.shape[0])
        self.refuse(sample)
        return (sample * 2,)


@pytest.fixture
def module() -> Doubling:
    return Doubling()


@pytest.fixture
def shared(module: Doubling) -> SharedModule:
    return SharedModule("unet", module, module, Stage.DENOISE)


def call(shared: SharedModule, *values: float) -> Call:
    """A run's call with a row for each value."""
    model = cast(Model, SimpleNamespace(shares=True, adapters=Adapters(), shared_modules={id(shared.module): shared}))
    sample = torch.tensor(values).reshape(-1, 1)
    return Call(model, _DRAWING, History(steps_of=1), shared, (sample,), {}, None)


def run(*calls: Call) -> Counter[str]:
    counts: Counter[str] = Counter()
    Batch(calls, Merger(), counts).run()
    return counts


def values(call: Call) -> list[float]:
    assert call.error is None
    output: list[float] = call.output[0].flatten().tolist()
    return output


def no_room_for_more_than(rows: int) -> Callable[[torch.Tensor], None]:
    def refuse(sample: torch.Tensor) -> None:
        if sample.shape[0] > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return refuse


def test_calls_share_one_forward(shared: SharedModule, module: Doubling) -> None:
    first, second = call(shared, 1, 2), call(shared, 3)
    counts = run(first, second)
    assert (values(first), values(second)) == ([2, 4], [6])
    assert module.sizes == [3]
    assert counts == {"unet_forwards": 1, "unet_rows": 3}


def test_a_failure_is_left_with_the_call_that_fails_alone(shared: SharedModule, module: Doubling) -> None:
    def refuse(sample: torch.Tensor) -> None:
        if 3 in sample:
            raise ValueError("three")

    module.refuse = refuse
    good, bad, other = call(shared, 1), call(shared, 3), call(shared, 5)
    counts = run(good, bad, other)
    assert (values(good), values(other)) == ([2], [10])
    assert isinstance(bad.error, ValueError)
    assert bad.error.__traceback__ is None, "frames would keep the forward's tensors"
    assert counts["retried_alone"] == 1


def test_a_full_device_gets_half_of_the_calls(shared: SharedModule, module: Doubling) -> None:
    module.refuse = no_room_for_more_than(2)
    calls = [call(shared, number) for number in range(4)]
    counts = run(*calls)
    assert [values(one) for one in calls] == [[0], [2], [4], [6]]
    assert module.sizes == [4, 2, 2]
    assert counts["out_of_memory"] == 1
    assert shared.learned_rows == {1: 2}


def test_a_full_device_gets_one_calls_rows_in_ever_smaller_pieces(shared: SharedModule, module: Doubling) -> None:
    module.refuse = no_room_for_more_than(1)
    one = call(shared, 1, 2, 3, 4, 5)
    counts = run(one)
    assert values(one) == [2, 4, 6, 8, 10]
    assert shared.learned_rows == {1: 1}
    assert counts["out_of_memory"] == sum(size > 1 for size in module.sizes), "each is counted"


def test_no_room_for_one_row_is_out_of_memory(shared: SharedModule, module: Doubling) -> None:
    module.refuse = no_room_for_more_than(0)
    one = call(shared, 1, 2)
    run(one)
    assert isinstance(one.error, OutOfMemory)


def test_a_decode_that_is_cut_does_not_do_again_what_was_done(module: Doubling) -> None:
    decoder: Any = SharedModule("vae", module, module.forward, Stage.DECODE)
    decoder.learned_rows = {1: 2}
    one = call(decoder, 1, 2, 3, 4)

    def refuse(sample: torch.Tensor) -> None:
        if 3 in sample and sample.shape[0] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    module.refuse = refuse
    run(one)
    assert values(one) == [2, 4, 6, 8]
    assert module.sizes == [2, 2, 1, 1], "the first two rows were decoded once"


def test_a_lost_device_is_nobodys_error(shared: SharedModule, module: Doubling) -> None:
    def refuse(sample: torch.Tensor) -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    module.refuse = refuse
    one = call(shared, 1)
    with pytest.raises(torch.AcceleratorError):
        run(one)
    assert one.error is None


def driver_error() -> torch.AcceleratorError:
    error = torch.AcceleratorError("CUDA error: out of memory")
    error.error_code = 2  # type: ignore[attr-defined]
    return error


SHORTAGES: dict[str, Callable[[], Exception]] = {
    "driver": driver_error,
    "cublas": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cudnn": lambda: RuntimeError("GET was unable to find an engine to execute this computation"),
}


@pytest.mark.parametrize("spelling", SHORTAGES)
@pytest.mark.parametrize("calls", [1, 4])
def test_memory_that_torch_did_not_ask_for_halves_the_batch_too(
    shared: SharedModule, module: Doubling, spelling: str, calls: int
) -> None:
    """The driver's shortage ended the worker, 3 of 3 jobs lost; cuBLAS's and cuDNN's were tried run by run."""

    def refuse(sample: torch.Tensor) -> None:
        if sample.shape[0] > 2:
            raise SHORTAGES[spelling]()

    module.refuse = refuse
    made = [call(shared, *range(4)) for _ in range(calls)]
    counts = run(*made)
    assert [values(one) for one in made] == [[0, 2, 4, 6]] * calls
    assert counts["retried_alone"] == 0
    assert counts["out_of_memory"] >= 1


def test_a_device_that_is_lost_after_a_shortage_is_lost(shared: SharedModule, module: Doubling) -> None:
    """cuBLAS finds no handle on a lost device either."""

    def refuse(sample: torch.Tensor) -> None:
        if sample.shape[0] == 4:
            raise SHORTAGES["cublas"]()
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    module.refuse = refuse
    with pytest.raises(torch.AcceleratorError):
        run(call(shared, 1, 2, 3, 4))


def test_a_large_call_is_cut_before_it_fails_again(shared: SharedModule, module: Doubling) -> None:
    """Ten pictures of one request ran out of memory at each of their steps, and emptied the cache each time."""
    module.refuse = no_room_for_more_than(8)
    first, later = (call(shared, *range(20)) for _ in range(2))
    counts = run(first)
    assert counts["out_of_memory"] == 2  # 20 rows, then 10
    module.sizes.clear()
    assert run(later)["out_of_memory"] == 0
    assert values(later) == [2 * number for number in range(20)]
    assert module.sizes == [5, 5, 5, 5]


def test_rows_that_a_shortage_took_come_back(shared: SharedModule, module: Doubling) -> None:
    """One shortage, another model's load perhaps, bounded the batches for as long as the model was loaded."""
    module.refuse = no_room_for_more_than(8)
    run(*(call(shared, *range(2)) for _ in range(5)))
    assert shared.learned_rows == {1: 5}
    module.refuse = lambda sample: None
    for _ in range(5 * 50):
        run(call(shared, *range(2)))
    assert shared.most_rows(1) == 10
    for _ in range(60 * 50):
        run(call(shared, 1))
    assert shared.learned_rows == {}, "and are forgotten in the end"


def test_a_row_too_many_is_taken_back_and_tried_less_often(shared: SharedModule, module: Doubling) -> None:
    module.refuse = no_room_for_more_than(8)
    run(call(shared, *range(16)))
    assert shared.learned_rows == {1: 8}
    shortages = Counter[str]()
    for _ in range(1000):
        shortages += run(*(call(shared, 1) for _ in range(shared.most_rows(1))))
        assert shared.learned_rows[1] in (8, 9), "what fitted is kept: it is not halved again"
    assert 3 <= shortages["out_of_memory"] <= 5


def test_a_compiled_call_is_cut_into_sizes_that_it_has_met(shared: SharedModule, module: Doubling) -> None:
    shared.compiled = True
    shared.learned_rows = {1: 7}
    one = call(shared, *range(10))
    run(one)
    assert values(one) == [2 * number for number in range(10)]
    assert set(module.sizes) <= {1, 2, 4}
