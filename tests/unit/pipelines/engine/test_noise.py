"""Noise: what torch's functions draw while Float32Noise is entered, and that turns of a run carry it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipelines.engine import noise, thread_state
from pipelines.engine.noise import Float32Noise

HALF = [torch.bfloat16, torch.float16]


class OtherTorch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A version of torch that draws other numbers in half precision than in float32, as 2.11 did."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        random = func.overloadpacket in (torch.ops.aten.randn, torch.ops.aten.randn_like, torch.ops.aten.normal_)
        return made.mul_(3) if random and made.dtype in HALF else made


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


DRAWS: dict[str, Callable[[torch.dtype], torch.Tensor]] = {
    "few": lambda dtype: torch.randn(5, generator=seeded(), dtype=dtype),
    "many": lambda dtype: torch.randn((2, 4, 16, 16), generator=seeded(), dtype=dtype),
    "layout": lambda dtype: torch.randn((2, 40), generator=seeded(), device="cpu", dtype=dtype, layout=torch.strided),
    "in place": lambda dtype: torch.zeros(40, dtype=dtype).normal_(1.0, 2.0, generator=seeded()),
    "like": lambda dtype: (torch.manual_seed(7), torch.randn_like(torch.zeros(40, dtype=dtype)))[1],
    "like, another type": lambda dtype: (torch.manual_seed(7), torch.randn_like(torch.zeros(40), dtype=dtype))[1],
}


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("draw", DRAWS)
def test_half_precision_noise_is_float32_noise_rounded_whatever_torch_draws(draw: str, dtype: torch.dtype) -> None:
    """A seed was another picture under another version of torch, and another one in bfloat16 than in float32."""
    with torch.random.fork_rng(devices=[]):
        exact = DRAWS[draw](torch.float32)
        with OtherTorch():  # type: ignore[no-untyped-call]
            other = DRAWS[draw](dtype)
            with Float32Noise():
                drawn = DRAWS[draw](dtype)
    assert drawn.dtype is dtype
    assert torch.equal(drawn, exact.to(dtype))
    assert not torch.equal(other, drawn), "without it, this torch's own numbers"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("draw", DRAWS)
def test_other_noise_is_what_it_was(draw: str, dtype: torch.dtype) -> None:
    with torch.random.fork_rng(devices=[]):
        plain = DRAWS[draw](dtype)
        with Float32Noise():
            assert torch.equal(DRAWS[draw](dtype), plain)


def test_noise_of_no_named_type_is_float32_while_another_model_loads() -> None:
    """Loading sets torch's default type for the whole process."""
    before = torch.get_default_dtype()
    exact = torch.randn(40, generator=seeded())
    torch.set_default_dtype(torch.bfloat16)
    try:
        with Float32Noise():
            drawn = torch.randn(40, generator=seeded())
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(drawn, exact)


def test_numbers_of_no_named_type_are_what_they_are_while_another_model_loads() -> None:
    """LCM makes a tensor of its guidance scale: what was drawn while a half-precision model loaded was another picture,
    a quarter of the range away."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with Float32Noise():
            assert torch.tensor(7.3 - 1).item() == pytest.approx(6.3)
            assert torch.tensor([0.1, 0.2]).dtype is torch.float32
            assert torch.tensor([1, 2]).dtype is torch.int64
            assert torch.tensor(0.1, dtype=torch.float16).dtype is torch.float16
            assert torch.tensor(np.array([0.1], np.float16)).dtype is torch.float16
    finally:
        torch.set_default_dtype(before)


def test_only_pipelines_with_half_precision_pay_for_it() -> None:
    exact, half = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, dtype=torch.bfloat16)
    assert not isinstance(noise.in_float32([exact, None, "tokenizer"]), Float32Noise)
    assert isinstance(noise.in_float32([exact, half]), Float32Noise)


def test_it_goes_with_a_runs_turns_and_spares_forwards() -> None:
    """Function modes are the thread's: left where a run waits, one would slow every step and draw for other runs."""
    outside = thread_state.current()
    seen: list[int] = []

    def look() -> None:
        seen.append(len(thread_state.modes()))

    with Float32Noise() as mode:
        mine = thread_state.current()
        mine.changed_to(outside, look)
        with noise.suspended():
            look()
        assert thread_state.modes() == (mode,)
        with torch.device("cpu"):  # a mode, too
            thread_state.current().changed_to(mine, look)
            look()
    assert seen == [0, 0, 1, 2]
    assert thread_state.current() == outside
