"""The arithmetic that training stands on: what a mistake in would only show after hours."""

from pathlib import Path

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from training import codes, runtime, scenes, unet
from training.gaze import parts_of_cells, shares

WEIGHTS = Path(__file__).parents[2] / "weights" / "darkroom-mini"


def test_a_quarter_holds_all_its_parts() -> None:
    mosaics = torch.randn(3, codes.PARTS, codes.NUMBERS)
    numbers = codes.quarters(mosaics)
    assert numbers.shape == (3, codes.QUARTERS, codes.QUARTER)
    assert torch.equal(codes.parts_of(numbers), mosaics)
    upper_left = mosaics.view(3, codes.GRID, codes.GRID, codes.NUMBERS)[:, : codes.HALF, : codes.HALF]
    assert torch.equal(numbers[:, 0].sort().values, upper_left.flatten(1).sort().values)


def test_tokens_of_parts_have_a_layer_norms_length_and_say_whose_they_are() -> None:
    numbers = codes.quarters(torch.randn(2, codes.PARTS, codes.NUMBERS))
    first, second = (codes.part_tokens(numbers, which) for which in range(2))
    assert torch.allclose(first.square().mean(-1), torch.ones(2, codes.PARTS), atol=1e-3)
    waves = codes.mark_waves(3) @ codes.part_slots(0).T
    assert torch.allclose(waves[0], waves[0].view(12, 12)[:, :1].expand(12, 12).flatten(), atol=1e-4)  # a row's wave
    assert ((first - second).square().mean(-1) > 0.01).all()


def test_each_cell_of_a_box_is_shown_its_share_of_the_parts() -> None:
    table = shares()
    boxes = torch.full((2, scenes.MOST, 4), -1)
    boxes[0, 0] = torch.tensor([0, 1, 3, 12])
    boxes[1, 0], boxes[1, 1] = torch.tensor([0, 1, 1, 10]), torch.tensor([1, 8, 8, 7])
    parts = parts_of_cells(boxes, table)
    covered = parts.sum(-1)
    assert covered[0].sum().round() == 12 * 12
    assert covered[0, 3, 1].round() == 1
    assert covered[0, 2, 1] == 0
    assert parts[0, 3, 1, 0].round(decimals=4) == 1  # twelve cells: each shows one part, the corner the first
    assert parts[1, 8, 8, codes.PARTS :].sum().round(decimals=4) == 1  # the second object lies over the first
    assert parts[1, 8, 8, : codes.PARTS].sum() == 0


def test_noise_says_where_things_lie_and_stays_noise() -> None:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(64, 4, 16, 16, generator=generator)
    before, chosen = noise.clone(), torch.randint(-1, 2, (64, 3), generator=generator)
    unet.say_choices(noise, chosen)
    assert torch.equal(noise.abs().flatten(2).sort().values, before.abs().flatten(2).sort().values)
    assert torch.equal(noise[:, 3], before[:, 3])
    right = noise[:, 0, :, 8:].sum((1, 2)) > noise[:, 0, :, :8].sum((1, 2))
    asked = chosen[:, 0] >= 0
    assert torch.equal(right[asked], chosen[asked, 0] == 1)
    assert torch.equal(noise[~asked, 0], before[~asked, 0])


def test_an_average_follows_weights_by_name_whatever_their_order() -> None:
    net = torch.nn.Linear(3, 2)
    average = runtime.Average(net, 0.0)
    average.weights = {key: torch.zeros_like(value) for key, value in sorted(net.state_dict().items())}
    assert list(average.weights) != list(net.state_dict())  # as weights that come from a file
    average.seen = 10**9
    average.update(net)
    assert all(torch.equal(average.weights[key], value) for key, value in net.state_dict().items())


def test_the_encoder_that_ships_deals_what_it_has_read() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer", local_files_only=True)
    net = CLIPTextModel.from_pretrained(WEIGHTS / "text_encoder", local_files_only=True).float().eval()
    prompts = ["a cat on the left and a laptop on the right", "three strawberries on a blue background", "一隻貓"]
    inputs = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
    with torch.inference_mode():
        said = net(inputs["input_ids"]).last_hidden_state
    for which, (whole, part) in enumerate(
        ((codes.FIRST_WHOLE, codes.FIRST), (codes.SECOND_WHOLE, codes.SECOND)),
    ):
        read = codes.part_tokens(codes.quarter_numbers(said[:, whole : whole + codes.QUARTERS]), which)
        dealt = said[:, part : part + codes.PARTS]
        assert (dealt - read).square().mean() < 0.05  # of 1
