"""Training goes on from the weights that ship, and from a checkpoint, as far as they fit."""

import json
from dataclasses import replace

import pytest
import torch

from training import checkpoint, codes, growing, resume
from training.nets.autoencoder import Autoencoder, AutoencoderShape
from training.nets.text_encoder import TextEncoder, TextEncoderShape
from training.nets.unet import UNet, UNetShape
from training.nets.upscaler import Upscaler, UpscalerShape
from training.text_encoder import shape_of


def test_every_network_goes_on_from_the_weights_that_ship() -> None:
    given = resume.read(resume.SHIPPED)
    seen = json.loads(resume.SEEN.read_text(encoding="utf-8"))
    nets = {
        "autoencoder": Autoencoder(AutoencoderShape()),
        "text_encoder": TextEncoder(shape_of(len(given.vocabulary))),
        "unet": UNet(UNetShape()),
        "upscaler": Upscaler(UpscalerShape()),
    }
    autoencoder = nets["autoencoder"]
    assert isinstance(autoencoder, Autoencoder)
    shipped = given.weights["autoencoder"]
    grown = growing.fitted(autoencoder, shipped)  # where a half of the plan's is larger than the one that ships
    for name, net in nets.items():
        weights = grown if net is autoencoder else given.weights[name]
        taken = resume.take(net, weights, given.vocabulary, given.vocabulary)
        assert (taken.weights, taken.left) == (taken.of, ())
        assert given.seen[name] == seen[name]
        assert all(torch.equal(value, weights[key].float()) for key, value in net.state_dict().items())
    width, blocks = growing.decoder_of({k.removeprefix("decoder."): v for k, v in shipped.items() if "decoder" in k})
    _, before = growing.encoder_of({k.removeprefix("encoder."): v for k, v in shipped.items() if "encoder" in k})
    small = Autoencoder(AutoencoderShape(64, (width,) * len(blocks), before, blocks))
    small.load_state_dict({key: weight.float() for key, weight in shipped.items()})
    generator = torch.Generator().manual_seed(1)
    latents, pixels = torch.randn(1, 4, 6, 5, generator=generator), torch.rand(1, 3, 32, 40, generator=generator)
    with torch.no_grad():
        assert torch.allclose(autoencoder.encoder(pixels), small.encoder(pixels), atol=1e-4)
        assert torch.allclose(autoencoder.decoder(latents), small.decoder(latents), atol=1e-4)


def test_rows_of_the_table_go_to_their_tokens_wherever_they_are_now() -> None:
    torch.manual_seed(1)
    shape = TextEncoderShape(4, layers=1, width=8, inner=8, heads=2, positions=5)
    old, new = ["a", "b", "c", "d"], ["d", "x", "a", "b", "y"]
    given, net = TextEncoder(shape), TextEncoder(replace(shape, vocabulary=5))
    before = net.embeddings.token_embedding.weight.clone()
    taken = resume.take(net, given.state_dict(), old, new)
    table, source = net.embeddings.token_embedding.weight, given.embeddings.token_embedding.weight
    assert torch.equal(table[[0, 2, 3]], source[[3, 0, 1]])
    assert torch.equal(table[[1, 4]], before[[1, 4]])
    assert taken.left == ("2 rows of embeddings.token_embedding.weight",)


def test_what_does_not_fit_begins_anew_and_is_told() -> None:
    given, net = UNet(UNetShape((16, 16, 16, 16), context=8)), UNet(UNetShape((16, 16, 16, 32), context=8))
    before = net.state_dict()["down_blocks.3.resnets.0.conv1.weight"].clone()
    taken = resume.take(net, given.state_dict(), [], [])
    assert 0 < taken.weights < taken.of
    assert torch.equal(net.conv_in.weight, given.conv_in.weight)
    assert torch.equal(net.state_dict()["down_blocks.3.resnets.0.conv1.weight"], before)
    assert "begin anew: down_blocks.3.resnets.0" in taken.told("unet")


@torch.no_grad()
def test_a_unet_that_knows_no_colours_does_not_react_to_them() -> None:
    net = UNet(UNetShape((16, 16, 16, 16)))
    resume.forget_colours(net)
    directions = codes.basis()[codes.PART_COLOUR : codes.PART_COLOUR + codes.COLOUR]
    for attention in net.looking():
        assert attention.to_k(directions).abs().max() < 1e-5
        assert attention.to_v(directions).abs().max() < 1e-5


def test_a_folder_without_weights_is_told() -> None:
    with pytest.raises(FileNotFoundError, match="neither a checkpoint"):
        resume.read(resume.SHIPPED / "tokenizer")
    assert not checkpoint.exists(resume.SHIPPED)
