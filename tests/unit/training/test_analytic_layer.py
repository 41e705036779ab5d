"""The last layer of the text encoder: of the one that ships, and as it is written today."""

from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from training import analytic_layer, codes
from training.nets.text_encoder import Layer, TextEncoder, TextEncoderShape

from .test_codes import made_codes

WEIGHTS = Path(__file__).parents[3] / "weights" / "darkroom-mini"


@torch.no_grad()
def test_the_encoder_that_ships_distributes_what_it_has_read() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer", local_files_only=True)
    net = CLIPTextModel.from_pretrained(WEIGHTS / "text_encoder", local_files_only=True).float().eval()
    prompts = ["a cat on the left and a laptop on the right", "three strawberries on a blue background", "一隻貓"]
    inputs = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
    found = net(inputs["input_ids"], output_hidden_states=True)
    hidden, given = found.last_hidden_state, net.final_layer_norm(found.hidden_states[-2])  # what the layer is given
    for which, (whole, part) in enumerate(
        ((codes.FIRST_WHOLE, codes.FIRST), (codes.SECOND_WHOLE, codes.SECOND)),
    ):
        blocks = given[:, whole : whole + codes.BLOCKS]
        numbers, colours = codes.block_numbers(blocks), codes.block_colours(blocks)
        read = codes.part_tokens(numbers, colours, which, _axes(net))
        distributed = hidden[:, part : part + codes.PARTS]
        assert (distributed - read).square().mean() < 0.01  # of 1


def _axes(net: CLIPTextModel) -> Tensor:
    """(KEPT, HALF * NUMBERS): the codes' axes, read back from the last layer."""
    count = codes.HALF * codes.NUMBERS
    pairs = net.encoder.layers[-1].mlp.fc1.weight[: 2 * count].view(count, 2, -1)
    first = analytic_layer.FIRST_FETCHED
    axes: Tensor = codes.basis()[first : first + codes.KEPT] @ (pairs[:, 0] - pairs[:, 1]).T / 2
    assert torch.allclose(axes @ axes.T, torch.eye(codes.KEPT), atol=0.01)
    return axes


@pytest.mark.parametrize("noise", [0.0, 0.1])
@torch.no_grad()
def test_every_part_gets_its_own_numbers_and_its_objects_colour(noise: float) -> None:
    table = made_codes()
    torch.manual_seed(2)
    labels = torch.stack([torch.randint(-1, n, (64,)) for n in (2, 3, 7, 5, 7, 5)], 1)
    prefix = table.prefix(labels)
    prefix = torch.nn.functional.layer_norm(prefix + noise * torch.randn(prefix.shape), (codes.WIDTH,))
    net = TextEncoder(TextEncoderShape(9, layers=1, positions=codes.LENGTH))
    analytic_layer.write(net, prefix, table.axes)
    slots = net.embeddings.position_embedding.weight[codes.FIRST :].expand(64, -1, -1)
    hidden = net.final_layer_norm(net.encoder(torch.cat((prefix, slots), 1)))
    for which, (whole, part) in enumerate(
        ((codes.FIRST_WHOLE, codes.FIRST), (codes.SECOND_WHOLE, codes.SECOND)),
    ):
        blocks = prefix[:, whole : whole + codes.BLOCKS]
        wanted = codes.part_tokens(codes.block_numbers(blocks), codes.block_colours(blocks), which, table.axes)
        made = hidden[:, part : part + codes.PARTS]
        assert (made - wanted).square().mean() < 0.02  # of 1
        directions = codes.basis()[codes.PART_COLOUR : codes.PART_COLOUR + codes.COLOUR]
        assert ((made - wanted) @ directions.T).square().mean() < 0.03 * (wanted @ directions.T).square().mean()


@torch.no_grad()
def test_what_the_readers_layers_add_to_the_slots_is_taken_from_them() -> None:
    """They have learnt nothing about slots. What they had added was an eighth of the power of the parts' numbers."""
    torch.manual_seed(3)
    reader = TextEncoder(TextEncoderShape(9, layers=2, positions=codes.LENGTH))
    for layer in reader.encoder.layers:
        cast(Layer, layer).mlp.fc2.weight.mul_(60)  # as large as those that have learnt
    ids = torch.randint(0, 7, (64, codes.WORDS))
    net = TextEncoder(TextEncoderShape(9, layers=3, positions=codes.LENGTH))
    net.load_state_dict(reader.state_dict(), strict=False)
    prefix = reader(torch.nn.functional.pad(ids, (0, codes.PREFIX - codes.WORDS), value=8))
    analytic_layer.write(net, prefix, made_codes().axes)
    wanted = net.embeddings.position_embedding.weight[codes.FIRST :].clone()
    every = torch.nn.functional.pad(ids[:8], (0, codes.LENGTH - codes.WORDS), value=8)

    def off() -> float:
        found = net.embeddings(every)
        for layer in net.encoder.layers[:-1]:
            found = layer(found)
        return float((found[:, codes.FIRST :] - wanted).square().mean())

    before = off()
    analytic_layer.settle(net, every)
    assert off() < 0.02 * before
