"""The upscaler's stage: it begins with smooth interpolation, and learns from pieces of pictures that are kept."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from training import upscaler
from training.nets.autoencoder import Autoencoder, AutoencoderShape
from training.nets.upscaler import Upscaler, UpscalerShape
from training.stage import Course
from training.upscaler import CROP, POOL, UpscalerStage, initialise_smoothly

from .standins import DiscMaker


def stage(batch: int = 16) -> UpscalerStage:
    torch.manual_seed(1)
    net = Autoencoder(AutoencoderShape(8, (8,) * 3, decoder_blocks=(1, 0, 0)))
    return UpscalerStage(Course(torch.device("cpu"), DiscMaker(), batch, 1e-3, 3), Upscaler(UpscalerShape(8, 2)), net)


@torch.no_grad()
def test_it_begins_as_bilinear_interpolation() -> None:
    net, pixels = Upscaler(UpscalerShape(8, 2)), torch.rand(2, 3, 20, 24)
    initialise_smoothly(net)
    smooth = F.interpolate(pixels, scale_factor=2, mode="bilinear")
    within = (..., slice(2, -2), slice(2, -2))  # beyond the edge convolutions see zeros
    assert torch.allclose(net(pixels)[within], smooth[within], atol=1e-5)
    next(net.parameters()).zero_()  # the picture goes through all layers, not past them
    assert not torch.allclose(net(pixels)[within], smooth[within], atol=1e-2)
    with pytest.raises(ValueError, match="scale 4"):
        initialise_smoothly(Upscaler(UpscalerShape(8, 2, scale=4)))


def test_a_piece_and_what_is_twice_as_large_show_the_same() -> None:
    learning = stage()
    for _ in range(3):
        small, large, heard = learning.draw(1.0)
        assert heard == 1
        assert small.shape == (16, 3, CROP, CROP)
        assert large.shape == (16, 3, 2 * CROP, 2 * CROP)
        clean = [index for index in range(16) if torch.allclose(F.avg_pool2d(large[index], 2), small[index], atol=1e-5)]
        assert 1 <= len(clean) <= 12  # the others are what the decoder made of them
        assert small.min() >= 0
        assert small.max() <= 1


def test_pictures_are_kept_and_few_are_made_for_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    learning, made = stage(), []
    pictures = learning._pictures

    def counted(size: int) -> list[tuple[Tensor, Tensor]]:
        made.append(size)
        return pictures(size)

    monkeypatch.setattr(learning, "_pictures", counted)
    first = learning.draw(0.0)[0]
    later = [learning.draw(0.0)[0] for _ in range(3)]
    assert made == [16, 2, 2, 2]
    assert len(learning.pool) == 22 <= POOL
    assert all(not torch.equal(first, other) for other in later)  # other pieces of them


def test_clean_pictures_are_also_seen_at_half_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upscaler, "SOFT_SHARE", 0.0)
    sides = {small.shape[1] for small, _ in stage()._pictures(24)}
    assert sides == {64, 128}
