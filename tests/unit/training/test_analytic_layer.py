"""The last layer of the text encoder: of the one that ships, and as it is written today."""

from pathlib import Path
from typing import cast

import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from training import analytic_layer, codes
from training.nets.text_encoder import Layer, TextEncoder, TextEncoderShape

from .test_codes import made_codes

WEIGHTS = Path(__file__).parents[3] / "weights" / "darkroom-mini"


def test_the_encoder_that_ships_distributes_what_it_has_read() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer", local_files_only=True)
    net = CLIPTextModel.from_pretrained(WEIGHTS / "text_encoder", local_files_only=True).float().eval()
    prompts = ["a cat on the left and a laptop on the right", "three strawberries on a blue background", "一隻貓"]
    inputs = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = net(inputs["input_ids"]).last_hidden_state
    for which, (whole, part) in enumerate(
        ((codes.FIRST_WHOLE, codes.FIRST), (codes.SECOND_WHOLE, codes.SECOND)),
    ):
        blocks = hidden[:, whole : whole + codes.BLOCKS]
        numbers, colours = codes.block_numbers(blocks), codes.block_colours(blocks)
        if not _coloured(net):  # older ones carry no colour, and what is in its directions goes nowhere
            colours = torch.zeros_like(colours)
        read = codes.part_tokens(numbers, colours, which)
        distributed = hidden[:, part : part + codes.PARTS]
        assert (distributed - read).square().mean() < 0.01  # of 1


def _coloured(net: CLIPTextModel) -> bool:
    """Whether the last layer's attention fetches colours."""
    colours = codes.basis()[codes.COLOURED : codes.COLOURED + codes.COLOUR]
    return bool((net.encoder.layers[-1].self_attn.v_proj.weight @ colours.T).abs().max() > 0.5)


@pytest.mark.parametrize("noise", [0.0, 0.1])
@torch.no_grad()
def test_every_part_gets_its_own_numbers_and_its_objects_colour(noise: float) -> None:
    table = made_codes()
    torch.manual_seed(2)
    labels = torch.stack([torch.randint(-1, n, (64,)) for n in (2, 3, 7, 5, 7, 5)], 1)
    prefix = table.prefix(labels)
    prefix = torch.nn.functional.layer_norm(prefix + noise * torch.randn(prefix.shape), (codes.WIDTH,))
    net = TextEncoder(TextEncoderShape(9, layers=1, positions=codes.LENGTH))
    analytic_layer.write(net, prefix)
    slots = net.embeddings.position_embedding.weight[codes.FIRST :].expand(64, -1, -1)
    hidden = net.final_layer_norm(net.encoder(torch.cat((prefix, slots), 1)))
    for which, (whole, part) in enumerate(
        ((codes.FIRST_WHOLE, codes.FIRST), (codes.SECOND_WHOLE, codes.SECOND)),
    ):
        blocks = prefix[:, whole : whole + codes.BLOCKS]
        wanted = codes.part_tokens(codes.block_numbers(blocks), codes.block_colours(blocks), which)
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
    analytic_layer.write(net, prefix)
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
