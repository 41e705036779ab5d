"""The plain networks against the stock classes: the same weights in, the same numbers out."""

import pytest
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from training.nets.autoencoder import Autoencoder, AutoencoderShape
from training.nets.text_encoder import TextEncoder, TextEncoderShape
from training.nets.unet import UNet, UNetShape
from training.nets.upscaler import Upscaler, UpscalerShape

UNETS = (UNetShape((16, 32, 32, 48), context=24), UNetShape((32, 32, 32, 64), 128, 2, context=16, heads=2, groups=8))


@pytest.mark.parametrize("shape", UNETS)
@pytest.mark.parametrize("cells", [(32, 32), (44, 24), (24, 44)])
@torch.no_grad()
def test_the_unet_is_diffusers_own(shape: UNetShape, cells: tuple[int, int]) -> None:
    torch.manual_seed(1)
    net, stock = UNet(shape).eval(), UNet2DConditionModel(**shape.config()).eval()
    stock.load_state_dict(net.state_dict())
    noised, time, tokens = torch.randn(2, 4, *cells), torch.tensor([7, 999]), torch.randn(2, 30, shape.context)
    assert torch.allclose(net(noised, time, tokens), stock(noised, time, tokens).sample, atol=1e-5)


@pytest.mark.parametrize(
    "shape", [AutoencoderShape(8, (8,) * 3), AutoencoderShape(16, (12,) * 3, decoder_blocks=(1, 2, 1))]
)
@torch.no_grad()
def test_the_autoencoder_is_diffusers_own(shape: AutoencoderShape) -> None:
    torch.manual_seed(1)
    net, stock = Autoencoder(shape).eval(), AutoencoderTiny(**shape.config()).eval()
    stock.load_state_dict(net.state_dict())
    pixels, latents = torch.rand(2, 3, 32, 48) * 2 - 1, torch.randn(2, 4, 4, 6)
    assert torch.allclose(net.encoder(pixels), stock.encode(pixels).latents, atol=1e-5)
    assert torch.allclose(net.decoder(latents), stock.decode(latents).sample, atol=1e-5)


@torch.no_grad()
def test_the_text_encoder_is_transformers_own() -> None:
    torch.manual_seed(1)
    shape = TextEncoderShape(50, layers=2, width=24, inner=48, heads=2, positions=20)
    net, stock = TextEncoder(shape).eval(), CLIPTextModel(CLIPTextConfig(**shape.config())).eval()
    stock.load_state_dict(net.state_dict())
    ids = torch.randint(0, 50, (3, 12))
    assert torch.allclose(net(ids), stock(ids).last_hidden_state, atol=1e-5)


@torch.no_grad()
def test_the_upscaler_begins_as_the_nearest_pixels_and_has_the_keys_that_people_have() -> None:
    net = Upscaler(UpscalerShape(8, 2))
    assert list(net.state_dict())[:3] == ["body.0.weight", "body.0.bias", "body.1.weight"]
    assert len(net.body) == 7  # as with num_conv=2: first, two, last, each but the last with its PReLU
    for weight in net.body[-1].parameters():
        weight.zero_()
    pixels = torch.rand(1, 3, 4, 6)
    assert torch.equal(net(pixels), pixels.repeat_interleave(2, 2).repeat_interleave(2, 3))
