"""What is drawn for a comparison, and how what was found is judged."""

from __future__ import annotations

import pytest

from pipelines.facts.comparison import (
    MAX_PROMPTS,
    MIN_PROMPTS,
    Company,
    Difference,
    Found,
    LeftOut,
    Likeness,
    Nearer,
    Shared,
    nearer,
    prompts,
    tolerance,
)

NONE = Difference(0, 0, 0)


def found(*p99: float) -> Found:
    return Found("CPU", "float32", 2.0, tuple(Shared(Company.PLAIN, Difference(99, 1, each), 4.0) for each in p99))


def left_out(cached: list[float], plain: list[float], cached_ssim: list[float], plain_ssim: list[float]) -> LeftOut:
    near, far = Likeness(tuple(cached), tuple(cached_ssim)), Likeness(tuple(plain), tuple(plain_ssim))
    return LeftOut((18,) * len(cached), NONE, NONE, near, far, 120, near, near, far)


@pytest.mark.parametrize("count", [MIN_PROMPTS, 8, MAX_PROMPTS])
def test_prompts_are_always_the_same_and_all_different(count: int) -> None:
    assert len(set(prompts(count))) == count
    assert prompts(MAX_PROMPTS)[:count] == prompts(count)


def test_the_worst_company_counts_and_the_largest_difference_does_not() -> None:
    assert found(0.2, 1.0).within(1.0)
    assert not found(0.2, 1.1).within(1.0)
    assert not found(float("nan")).within(1.0)


def test_half_precision_may_differ_more() -> None:
    assert tolerance("float32") < tolerance("bfloat16") == tolerance("float16")


@pytest.mark.parametrize(
    ("cached", "plain", "cached_ssim", "plain_ssim", "judged"),
    [
        ([40, 41, 42], [35, 36, 37], [0.99] * 3, [0.98] * 3, Nearer.CACHED),
        ([35, 36, 37], [40, 41, 42], [0.98] * 3, [0.99] * 3, Nearer.PLAIN),
        ([40, 41, 42], [39, 40, 41], [0.99] * 3, [0.98] * 3, Nearer.UNCLEAR),  # a decibel says nothing
        ([40, 41, 42], [35, 36, 37], [0.98] * 3, [0.99] * 3, Nearer.UNCLEAR),  # SSIM says otherwise
        ([40, 40], [35, 45], [0.99, 0.98], [0.98, 0.99], Nearer.UNCLEAR),  # the prompts disagree
    ],
)
def test_who_is_nearer(
    cached: list[float], plain: list[float], cached_ssim: list[float], plain_ssim: list[float], judged: Nearer
) -> None:
    assert nearer(left_out(cached, plain, cached_ssim, plain_ssim)) is judged
