"""Noise that tells where things lie: a mistake here would only show after hours of training."""

import pytest
import torch

from training import unet
from training.plans import SQUARE, TALL, WIDE


@pytest.mark.parametrize("cells", [SQUARE, WIDE, TALL])
def test_noise_tells_where_things_lie_and_stays_noise(cells: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    before = torch.randn(64, 4, *cells, generator=generator)
    chosen = torch.randint(-1, 2, (64, 3), generator=generator)
    noise = unet.encode_choices(before, chosen)
    assert torch.equal(noise.abs().flatten(2).sort().values, before.abs().flatten(2).sort().values)
    assert torch.equal(noise[:, 3], before[:, 3])
    half = cells[1] // 2
    right = noise[:, 0, :, half:].sum((1, 2)) > noise[:, 0, :, :half].sum((1, 2))
    asked = chosen[:, 0] >= 0
    assert torch.equal(right[asked], chosen[asked, 0] == 1)
    assert torch.equal(noise[~asked, 0], before[~asked, 0])
