"""The codes' arithmetic: a mistake in it would only show after hours of training."""

import torch
from torch import Tensor

from training import codes

COLOURS = torch.tensor(
    [[0.85, 0.15, 0.15], [0.15, 0.35, 0.8], [0.06, 0.06, 0.07], [0.99, 0.99, 0.99], [0.5, 0.33, 0.2]]
)


class PaintedCards:
    """Cards of noise, another for every object."""

    def cards(self, concepts: Tensor, colours: Tensor) -> tuple[Tensor, Tensor]:
        rows = [torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(int(n))) for n in concepts]
        pixels = torch.stack(rows)
        pixels[:, :, :1, :1] = 0.8
        return pixels, torch.ones(len(concepts), 64, 64)


def made_codes() -> codes.Codes:
    """Tables of seven objects, with a convolution for an encoder."""
    torch.manual_seed(1)
    return codes.make(PaintedCards(), 7, torch.nn.Conv2d(3, 4, 2, 2), COLOURS, 3, 2)


def few_sums(count: int) -> Tensor:
    """(count, PARTS, NUMBERS) of which the sums of a block's halves keep all."""
    chance = torch.Generator().manual_seed(8)
    kinds = torch.randn(20, codes.HALF * codes.NUMBERS, generator=chance)
    halves = torch.randn(count, 2 * codes.BLOCKS, 20, generator=chance) @ kinds / 20**0.5
    laid = halves.view(-1, codes.ACROSS, codes.ACROSS, codes.SIDE, codes.SIDE, codes.NUMBERS)
    return laid.transpose(2, 3).reshape(count, codes.PARTS, codes.NUMBERS)


def test_a_block_holds_all_its_parts() -> None:
    mosaics = few_sums(8)
    axes = codes.half_axes(mosaics)
    assert torch.allclose(axes @ axes.T, torch.eye(codes.KEPT), atol=1e-5)
    numbers = codes.blocks(mosaics, axes)
    assert numbers.shape == (8, codes.BLOCKS, codes.BLOCK)
    assert torch.allclose(codes.parts_of(numbers, axes), mosaics, atol=1e-3)
    other = mosaics.clone().view(8, codes.GRID, codes.GRID, codes.NUMBERS)
    other[:, codes.SIDE - 1, codes.SIDE - 1] += 1  # the last part of the first block
    moved = (codes.blocks(other.flatten(1, 2), axes) - numbers).abs().amax((0, 2)) > 1e-3
    assert moved.tolist() == [True] + [False] * (codes.BLOCKS - 1)


def test_axes_do_not_hang_on_last_digits_and_are_named_after_numbers() -> None:
    mosaics = few_sums(40) + 0.3 * torch.randn(
        40, codes.PARTS, codes.NUMBERS, generator=torch.Generator().manual_seed(3)
    )
    axes = codes.half_axes(mosaics)
    assert torch.allclose(axes, codes.half_axes(mosaics * (1 + 1e-6)), atol=1e-3)
    mosaics[..., codes.FIRST_TEN : codes.LATENTS] *= 0.01  # what is left is eleven numbers of each part
    named = (torch.arange(codes.HALF)[:, None] * codes.NUMBERS + torch.tensor([*range(10), codes.COVER])).flatten()
    assert torch.allclose(codes.half_axes(mosaics)[:, named], torch.eye(codes.KEPT), atol=0.05)


def test_tokens_of_parts_have_a_layer_norms_length_and_say_whose_they_are() -> None:
    mosaics = few_sums(2) / 3  # as large as those of real tables
    axes = codes.half_axes(mosaics)
    numbers = codes.blocks(mosaics, axes)
    colour = torch.zeros(2, codes.BLOCKS, codes.COLOUR)
    first, second = (codes.part_tokens(numbers, colour, which, axes) for which in range(2))
    assert torch.allclose(first.square().mean(-1), torch.ones(2, codes.PARTS), atol=1e-3)
    waves = codes.mark_waves(3) @ codes.part_slots(0).T
    assert torch.allclose(waves[0], waves[0].view(12, 12)[:, :1].expand(12, 12).flatten(), atol=1e-4)  # a row's wave
    assert ((first - second).square().mean(-1) > 0.01).all()


@torch.no_grad()
def test_all_tokens_have_a_layer_norms_length_and_blocks_say_their_numbers_and_their_colour() -> None:
    table = made_codes()
    labels = torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 5, -1, -1, -1]])
    tokens = table.tokens(labels)
    assert tokens.shape == (2, codes.LENGTH, codes.WIDTH)
    assert torch.allclose(tokens.square().mean(-1), torch.ones(2, codes.LENGTH), atol=1e-3)
    whole = tokens[:, codes.FIRST_WHOLE : codes.FIRST_WHOLE + codes.BLOCKS]
    assert torch.allclose(codes.block_numbers(whole), table.numbers[[2, 5]], atol=1e-4)
    assert torch.allclose(codes.block_colours(whole)[0], table.colour[3].expand(codes.BLOCKS, -1), atol=1e-4)
    read = codes.part_tokens(codes.block_numbers(whole), codes.block_colours(whole), 0, table.axes)
    assert torch.allclose(read, tokens[:, codes.FIRST : codes.FIRST + codes.PARTS], atol=1e-3)


@torch.no_grad()
def test_a_colour_changes_an_objects_tokens_and_no_others() -> None:
    table = made_codes()
    labels = torch.tensor([[1, 0, 2, -1, 4, -1], [1, 0, 2, 1, 4, -1]])
    own, blue = table.tokens(labels)
    moved = (own - blue).abs().amax(-1) > 1e-4
    of_first = torch.zeros(codes.LENGTH, dtype=torch.bool)
    of_first[codes.FIRST_WHOLE : codes.FIRST_WHOLE + codes.BLOCKS] = True
    of_first[codes.FIRST : codes.FIRST + codes.PARTS] = True
    assert torch.equal(moved, of_first)


def test_colours_are_far_apart_and_all_of_one_length() -> None:
    points = codes.colour_codes(torch.rand(16, 3, generator=torch.Generator().manual_seed(3)))
    assert points.shape == (17, codes.COLOUR)
    power = torch.full((17,), codes.COLOUR_SHARE * codes.WIDTH)
    assert torch.allclose(points.square().sum(-1), power)
    apart = torch.cdist(points, points) + 9 * torch.eye(17)
    assert apart.min() > 0.75 * power[0].sqrt()
    assert torch.equal(points, codes.colour_codes(torch.rand(16, 3, generator=torch.Generator().manual_seed(3))))
