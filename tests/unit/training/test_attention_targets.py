"""Which parts a cell shows: a mistake here would only show after hours of training."""

import pytest
import torch

from training import codes, scenes
from training.attention_targets import AttentionLoss, attention_targets, row_shares
from training.nets.unet import UNet, UNetShape
from training.plans import SQUARE, TALL, WIDE


def test_each_cell_of_a_box_is_shown_its_share_of_the_parts() -> None:
    table = row_shares()
    boxes = torch.full((2, scenes.MAX_OBJECTS, 4), -1)
    boxes[0, 0] = torch.tensor([0, 1, 3, 12])
    boxes[1, 0], boxes[1, 1] = torch.tensor([0, 1, 1, 10]), torch.tensor([1, 8, 8, 7])
    parts = attention_targets(boxes, table, SQUARE)
    covered = parts.sum(-1)
    assert covered[0].sum().round() == 12 * 12
    assert covered[0, 3, 1].round() == 1
    assert covered[0, 2, 1] == 0
    assert parts[0, 3, 1, 0].round(decimals=4) == 1  # twelve cells: each shows one part, the corner the first
    assert parts[1, 8, 8, codes.PARTS :].sum().round(decimals=4) == 1  # the second object lies over the first
    assert parts[1, 8, 8, : codes.PARTS].sum() == 0


@pytest.mark.parametrize("cells", [WIDE, TALL])
def test_in_long_pictures_a_box_has_its_place_too(cells: tuple[int, int]) -> None:
    boxes = torch.full((1, scenes.MAX_OBJECTS, 4), -1)
    boxes[0, 0] = torch.tensor([0, *(12 if side > 12 else 1 for side in reversed(cells)), 9])
    covered = attention_targets(boxes, row_shares(), cells)[0].sum(-1).round()
    assert covered.shape == cells
    rows, columns = (slice(12, 21) if side > 12 else slice(1, 10) for side in cells)
    assert covered[rows, columns].eq(1).all()
    assert covered.sum() == 81


@pytest.mark.parametrize("cells", [SQUARE, WIDE, TALL])
def test_looking_at_the_right_parts_costs_less_than_looking_anywhere(cells: tuple[int, int]) -> None:
    net = UNet(UNetShape((16, 16, 16), context=8))
    loss = AttentionLoss(net)
    boxes = torch.full((2, scenes.MAX_OBJECTS, 4), -1)
    boxes[:, 0] = torch.tensor([0, 1, 1, 10])
    targets, signal = attention_targets(boxes, row_shares(), cells), torch.full((2, 1, 1, 1), 0.5)
    loss.record(True)
    net(torch.randn(2, 4, *cells), torch.tensor([3, 999]), torch.randn(2, codes.LENGTH, 8))
    anywhere = loss(targets, signal)
    fours, *others = net.looking()
    right = torch.cat((torch.zeros(2, cells[0] * cells[1], codes.FIRST), targets.flatten(1, 2)), -1)
    for attention in others:
        attention.probabilities = right[:, None].expand(-1, 4, -1, -1)
    below = right.view(2, cells[0] // 2, 2, cells[1] // 2, 2, -1).permute(0, 2, 4, 1, 3, 5)
    fours.probabilities = below.reshape(2, 4, -1, codes.LENGTH)
    assert loss(targets, signal) < 0.5 * anywhere
    loss.record(False)
    with pytest.raises(ValueError, match="not recorded"):
        loss(targets, signal)
