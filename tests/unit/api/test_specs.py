"""Which size is drawn for a size that is asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.facts.presets import DrawingArea, Preset, overlay
from server.api.specs import make_seeds
from server.api.wire import ImageFields

SMALL = DrawingArea(64, 64, 16, 64 * 64 // 4, 64 * 64 * 5 // 4)
LARGE = DrawingArea(1024, 1024, 16, 1024 * 1024 // 4, 1024 * 1024 * 5 // 4)
NATIVE_ONLY = DrawingArea(128, 128, 32, 128 * 128, 128 * 128)


@pytest.mark.parametrize(
    ("area", "asked", "drawn"),
    [
        (SMALL, (64, 64), (64, 64)),
        (SMALL, (1024, 1024), (64, 64)),
        (SMALL, (1792, 1024), (80, 48)),
        (SMALL, (1024, 1792), (48, 80)),
        (SMALL, (48, 64), (48, 64)),
        (SMALL, (16, 16), (64, 64)),
        (LARGE, (1024, 1024), (1024, 1024)),
        (LARGE, (1000, 1000), (992, 992)),
        (LARGE, (512, 512), (512, 512)),
        (LARGE, (256, 256), (1024, 1024)),
        (NATIVE_ONLY, (64, 64), (128, 128)),
        (NATIVE_ONLY, (1024, 1792), (96, 160)),
    ],
)
def test_draw_sizes(area: DrawingArea, asked: tuple[int, int], drawn: tuple[int, int]) -> None:
    assert area.size_for(*asked) == drawn


@given(
    st.integers(16, 8192),
    st.integers(16, 8192),
    st.sampled_from([SMALL, LARGE, DrawingArea(512, 768, 8, 10**5, 10**6)]),
)
def test_every_drawn_size_is_divisible_and_near_the_native_area(width: int, height: int, area: DrawingArea) -> None:
    drawn = area.size_for(width, height)
    assert all(side % area.multiple == 0 and side >= area.multiple for side in drawn)
    if max(width, height) / min(width, height) <= 2:
        native = area.native_width * area.native_height
        assert native / 5 <= drawn[0] * drawn[1] <= max(native, area.max_pixels) * 1.4
        assert (width < height) <= (drawn[0] <= drawn[1])


def test_a_later_preset_wins_where_it_says_something() -> None:
    low, high = Preset(steps=4, guidance=0.0, scheduler="ddim"), Preset(steps=9)
    assert overlay(low, high) == Preset(steps=9, guidance=0.0, scheduler="ddim")
    assert overlay() == Preset()


def test_seeds_follow_the_requests_and_wrap_around() -> None:
    assert make_seeds(ImageFields(prompt="x", n=3, seed=2**63 - 2)) == (2**63 - 2, 2**63 - 1, 0)
    assert len(set(make_seeds(ImageFields(prompt="x", n=10)))) == 10
