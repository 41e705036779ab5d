"""How alike pictures are, on pictures whose likeness is known."""

from __future__ import annotations

import pytest
import torch

from pipelines.pictures.likeness import levels_apart, psnr, ssim


@pytest.fixture
def noise() -> torch.Tensor:
    """Two pictures, (2, 3, 20, 20)."""
    return torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(1)) * 0.8


def test_equal_pictures_are_not_apart(noise: torch.Tensor) -> None:
    assert levels_apart(noise, noise) == (0, 0, 0)
    assert psnr(noise, noise) == pytest.approx([120, 120])
    assert ssim(noise, noise) == pytest.approx([1, 1])


def test_an_even_shift_is_so_many_levels_and_decibels(noise: torch.Tensor) -> None:
    assert levels_apart(noise + 10 / 255, noise) == pytest.approx((10, 10, 10), rel=1e-4)
    assert psnr(noise + 0.1, noise) == pytest.approx([20, 20], rel=1e-4)


def test_a_spot_is_in_the_maximum_and_in_the_worst_pictures_percentile(noise: torch.Tensor) -> None:
    """Twelve of a picture's 1,200 numbers may be anything; with the thirteenth the percentile tells."""
    spotted = noise.clone()
    spotted[1].view(-1)[:12] += 20 / 255
    largest, mean, p99 = levels_apart(spotted, noise)
    assert (largest, mean) == pytest.approx((20, 20 * 12 / 2400), rel=1e-3)
    assert p99 == 0
    spotted[1].view(-1)[12] += 20 / 255
    assert levels_apart(spotted, noise)[2] == pytest.approx(20, rel=1e-3)


def test_ssim_hears_structure_and_psnr_does_not(noise: torch.Tensor) -> None:
    """Two ways to be as far away, of which one leaves the structure."""
    shifted, other = (
        noise + 0.05,
        noise + 0.05 * torch.randn(noise.shape, generator=torch.Generator().manual_seed(2)).sign(),
    )
    assert psnr(shifted, noise) == pytest.approx(psnr(other, noise), rel=1e-3)
    assert min(ssim(shifted, noise)) > max(ssim(other, noise))
