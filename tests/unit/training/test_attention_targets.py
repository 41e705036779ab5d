"""Which parts a cell shows: a mistake here would only show after hours of training."""

import pytest
import torch
from torch import Tensor

from training import codes, scenes
from training.attention_targets import AttentionLoss, Targets, attention_targets, row_shares
from training.nets.unet import UNet, UNetShape
from training.plans import SQUARE, TALL, WIDE
from training.windows import FINE


def dense(targets: Targets) -> Tensor:
    """(B, rows, columns, 2 * PARTS)."""
    empty = torch.zeros(*targets.shares.shape[:-1], 2 * codes.PARTS)
    return empty.scatter_add(-1, targets.parts, targets.shares)


def test_each_cell_of_a_box_is_shown_its_share_of_the_parts() -> None:
    table = row_shares()
    boxes = torch.full((2, scenes.MAX_OBJECTS, 4), -1)
    boxes[0, 0] = torch.tensor([0, 1, 3, 12])
    boxes[1, 0], boxes[1, 1] = torch.tensor([0, 1, 1, 10]), torch.tensor([1, 8, 8, 7])
    parts, cells = map(dense, attention_targets(boxes, table, SQUARE))
    assert torch.allclose(cells, parts.view(2, 16, 2, 16, 2, -1).mean((2, 4)), atol=1e-5)
    assert parts.shape == (2, 32, 32, 2 * codes.PARTS)
    covered = parts.sum(-1)
    assert covered[0].sum().round() == (FINE * 12) ** 2
    assert covered[0, 6, 2].round() == 1
    assert covered[0, 5, 2] == 0
    corner = parts[0, 6:8, 2:4, 0]  # twelve cells: all four latents of each show one part, the corner the first
    assert torch.equal(corner.round(decimals=4), torch.ones(2, 2))
    assert parts[1, 16, 16, codes.PARTS :].sum().round(decimals=4) == 1  # the second object lies over the first
    assert parts[1, 16, 16, : codes.PARTS].sum() == 0
    boxes[0, 0] = torch.tensor([0, 1, 3, 8])  # three parts to two cells: the cell's halves show other parts
    row = dense(attention_targets(boxes, table, SQUARE)[0])[0, 6, 2:6].view(4, 2, codes.GRID, codes.GRID)[:, 0, 0, :3]
    assert torch.allclose(row, torch.tensor([[1, 0, 0], [1 / 3, 2 / 3, 0], [0, 2 / 3, 1 / 3], [0, 0, 1]]), atol=1e-4)


@pytest.mark.parametrize("cells", [WIDE, TALL])
def test_in_long_pictures_a_box_has_its_place_too(cells: tuple[int, int]) -> None:
    boxes = torch.full((1, scenes.MAX_OBJECTS, 4), -1)
    boxes[0, 0] = torch.tensor([0, *(12 if side > 12 else 1 for side in reversed(cells)), 9])
    covered = dense(attention_targets(boxes, row_shares(), cells)[0])[0].sum(-1).round()
    assert covered.shape == tuple(FINE * side for side in cells)
    rows, columns = (slice(24, 42) if side > 12 else slice(2, 20) for side in cells)
    assert covered[rows, columns].eq(1).all()
    assert covered.sum() == 18 * 18


@pytest.mark.parametrize("cells", [SQUARE, WIDE, TALL])
def test_looking_at_the_right_parts_costs_less_than_looking_anywhere(cells: tuple[int, int]) -> None:
    net = UNet(UNetShape((16, 16, 16, 16), context=8))
    loss = AttentionLoss(net)
    boxes = torch.full((2, scenes.MAX_OBJECTS, 4), -1)
    boxes[:, 0] = torch.tensor([0, 1, 1, 10])
    targets, signal = attention_targets(boxes, row_shares(), cells), torch.full((2, 1, 1, 1), 0.5)
    loss.record(True)
    net(torch.randn(2, 4, *(2 * side for side in cells)), torch.tensor([3, 999]), torch.randn(2, codes.LENGTH, 8))
    anywhere = loss(*targets, signal)
    below, first, last = net.looking()
    right, cells_right = (torch.nn.functional.pad(dense(each), (codes.FIRST, 0)) for each in targets)
    for attention, wanted in ((below, cells_right), (first, right)):
        rows, columns = (side // 2 for side in wanted.shape[1:3])
        split = wanted.reshape(2, rows, 2, columns, 2, -1).permute(0, 2, 4, 1, 3, 5)
        attention.probabilities = split.reshape(2, 4, -1, codes.LENGTH)
    last.probabilities = cells_right.flatten(1, 2)[:, None].expand(-1, 4, -1, -1)
    assert loss(*targets, signal) < 0.5 * anywhere
    loss.record(False)
    with pytest.raises(ValueError, match="not recorded"):
        loss(*targets, signal)
