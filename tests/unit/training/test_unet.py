"""Noise that tells where things lie: a mistake here would only show after hours of training."""

import torch

from training import unet


def test_noise_tells_where_things_lie_and_stays_noise() -> None:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(64, 4, 16, 16, generator=generator)
    before, chosen = noise.clone(), torch.randint(-1, 2, (64, 3), generator=generator)
    unet.encode_choices(noise, chosen)
    assert torch.equal(noise.abs().flatten(2).sort().values, before.abs().flatten(2).sort().values)
    assert torch.equal(noise[:, 3], before[:, 3])
    right = noise[:, 0, :, 8:].sum((1, 2)) > noise[:, 0, :, :8].sum((1, 2))
    asked = chosen[:, 0] >= 0
    assert torch.equal(right[asked], chosen[asked, 0] == 1)
    assert torch.equal(noise[~asked, 0], before[~asked, 0])
