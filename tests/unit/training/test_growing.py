"""Halves of the autoencoder grow, and give what they gave."""

import pytest
import torch

from training import growing
from training.nets.autoencoder import Autoencoder, AutoencoderShape

OLD = AutoencoderShape(8, (8,) * 3, (0, 1, 1), (1, 1, 0))
NEW = AutoencoderShape(12, (12,) * 3, (0, 2, 3), (3, 2, 0))


@torch.no_grad()
def test_a_grown_autoencoder_gives_the_same_latents_and_pictures() -> None:
    torch.manual_seed(2)
    small, large = Autoencoder(OLD), Autoencoder(NEW)
    large.load_state_dict(growing.fitted(large, small.state_dict()))
    latents, pixels = torch.randn(2, 4, 3, 5), torch.rand(2, 3, 24, 40)
    assert torch.allclose(large.encoder(pixels), small.encoder(pixels), atol=1e-5)
    assert torch.allclose(large.decoder(latents), small.decoder(latents), atol=1e-5)


def test_the_shape_of_a_half_is_told_from_its_weights() -> None:
    for shape in (OLD, NEW):
        net = Autoencoder(shape)
        assert growing.encoder_of(net.encoder.state_dict()) == (shape.width, shape.encoder_blocks)
        assert growing.decoder_of(net.decoder.state_dict()) == (shape.decoder[0], shape.decoder_blocks)


def test_what_cannot_grow_is_refused_and_left_as_it_was() -> None:
    small, large = Autoencoder(OLD), Autoencoder(NEW)
    with pytest.raises(ValueError, match="does not shrink"):
        growing.grown(large.decoder.state_dict(), NEW, small.decoder, OLD)
    with pytest.raises(ValueError, match="does not shrink"):
        growing.grown(large.encoder.state_dict(), NEW, small.encoder, OLD)
    some = AutoencoderShape(12, (12,) * 3, (1, 2, 3), (3, 2, 1))
    with pytest.raises(ValueError, match="gets none"):
        growing.grown(small.decoder.state_dict(), OLD, Autoencoder(some).decoder, some)
    given = large.state_dict()
    assert all(torch.equal(weight, given[key]) for key, weight in growing.fitted(small, given).items())
