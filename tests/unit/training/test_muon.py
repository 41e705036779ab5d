"""Steps that turn a matrix evenly, whatever its gradient, and on the weights themselves."""

import pytest
import torch
from torch import nn

from training import muon
from training.muon import Muon


def test_a_step_moves_all_directions_alike_however_small_their_gradients_are() -> None:
    torch.manual_seed(1)
    layer = nn.Linear(24, 16, bias=False)
    sides = torch.linalg.qr(torch.randn(16, 16))[0], torch.linalg.qr(torch.randn(24, 24))[0][:16]
    gradient = sides[0] @ torch.diag(torch.logspace(0, -2, 16)) @ sides[1]
    before = layer.weight.detach().clone()
    Muon([layer.weight]).step([gradient], 0.01)
    moved = torch.linalg.svdvals(layer.weight.detach() - before * (1 - 0.01 * muon.WEIGHT_DECAY))
    of_adamw = 0.01 * 0.2 * 24**0.5  # what makes the step as large as one of AdamW's
    assert moved.max() < 1.4 * of_adamw
    assert moved.min() > 0.2 * of_adamw  # where the gradient has a hundredth


@pytest.mark.parametrize("kernel", [1, 3])
def test_convolutions_are_matrices_however_their_weights_lie(kernel: int) -> None:
    torch.manual_seed(2)
    made = []
    start, gradient = torch.randn(8, 4, kernel, kernel), torch.randn(8, 4, kernel, kernel)
    for layout in (torch.contiguous_format, torch.channels_last):
        layer = nn.Conv2d(4, 8, kernel, bias=False)
        layer.load_state_dict({"weight": start})
        layer.to(memory_format=layout)  # type: ignore[call-overload]
        Muon([layer.weight]).step([gradient], 0.1)
        assert not torch.equal(layer.weight, start)
        made.append(layer.weight.detach())
    one, other = made
    assert torch.allclose(one, other, atol=0.02)


def test_what_is_no_matrix_or_is_kept_apart_stays_with_the_other_optimizer() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 3, 3))
    net[3].bias.requires_grad_(False)
    rest, matrices = muon.groups(net, net[0], net[3])
    assert matrices["matrices"]
    assert [id(weight) for weight in matrices["params"]] == [id(net[1].weight)]
    assert len(rest["params"]) == 6
    assert not any(weight is net[3].bias for weight in rest["params"])
