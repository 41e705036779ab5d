"""What pictures are compared by: an edge that may lie in two places must not pay for being sharp."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from training.losses import edges, missing_steepness, steepness


def edge(at: int) -> Tensor:
    made = torch.zeros(1, 3, 16, 16)
    made[..., at:] = 1
    return made


def test_a_sharp_edge_beside_its_place_lacks_no_steepness_and_a_soft_one_does() -> None:
    true, near = edge(5), edge(6)
    soft = F.avg_pool2d(F.pad(true, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    assert missing_steepness(near, true, 8) < 1e-6
    assert missing_steepness(soft, true, 8) > 0.05
    assert edges(soft, true) < edges(near, true)  # which is what a mean of pixels' differences prefers


def test_steepness_is_of_blocks_and_those_that_do_not_count_cost_nothing() -> None:
    true = edge(5)
    found = steepness(true, 8)
    assert found.shape == (1, 1, 2, 2)
    assert (found[..., 0] > 0.3).all()
    assert (found[..., 1] < 0.01).all()
    right = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    assert missing_steepness(torch.zeros_like(true), true, 8, right) < 1e-6
    assert missing_steepness(torch.zeros_like(true), true, 8, 1 - right) > 0.3
