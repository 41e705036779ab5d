"""Which parts a cell shows: a mistake here would only show after hours of training."""

import torch

from training import codes, scenes
from training.attention_targets import attention_targets, row_shares


def test_each_cell_of_a_box_is_shown_its_share_of_the_parts() -> None:
    table = row_shares()
    boxes = torch.full((2, scenes.MAX_OBJECTS, 4), -1)
    boxes[0, 0] = torch.tensor([0, 1, 3, 12])
    boxes[1, 0], boxes[1, 1] = torch.tensor([0, 1, 1, 10]), torch.tensor([1, 8, 8, 7])
    parts = attention_targets(boxes, table)
    covered = parts.sum(-1)
    assert covered[0].sum().round() == 12 * 12
    assert covered[0, 3, 1].round() == 1
    assert covered[0, 2, 1] == 0
    assert parts[0, 3, 1, 0].round(decimals=4) == 1  # twelve cells: each shows one part, the corner the first
    assert parts[1, 8, 8, codes.PARTS :].sum().round(decimals=4) == 1  # the second object lies over the first
    assert parts[1, 8, 8, : codes.PARTS].sum() == 0
