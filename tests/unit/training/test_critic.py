"""The critic: what it learns to tell apart, and what it teaches the maker of pixels."""

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from training import critic

CPU = torch.device("cpu")


def stripes(count: int, soft: bool) -> Tensor:
    """(B, 3, 48, 48) upright edges at random places; soft ones rise over eight pixels."""
    at = torch.randint(12, 36, (count, 1)).float()
    rise = (torch.arange(48.0) - at) / (4 if soft else 0.5)
    return rise.clamp(-1, 1)[:, None, None].expand(-1, 3, 48, -1).contiguous()


def as_it_is() -> nn.Conv2d:
    """A maker of pixels that leaves them soft."""
    maker = nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        maker.weight.copy_(torch.eye(3)[..., None, None])
        cast(Tensor, maker.bias).zero_()
    return maker


def learn(told: critic.Critic, steps: int) -> float:
    """So many steps of the critic alone; returns its last loss."""
    maker, sure = as_it_is(), torch.zeros(())
    _, own = critic.groups(maker, told)
    optimizer = torch.optim.AdamW([{**own, "lr": 1e-3}])
    for _ in range(steps):
        true, made = stripes(8, soft=False), maker(stripes(8, soft=True))
        other = (made - true).abs().mean()
        judged, sure = critic.judged(told, (made, true), other, maker.weight, torch.ones(()))
        optimizer.zero_grad()
        judged.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return sure.item()


def test_it_learns_what_is_true_and_its_answers_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only differences of its answers are asked for, and those need not grow for ever."""
    largest = []
    for calm in (critic.CALM, 0.0):
        monkeypatch.setattr(critic, "CALM", calm)
        told = critic.fresh(CPU)
        torch.manual_seed(7)
        assert learn(told, 40) < 0.4
        largest.append(told(stripes(8, soft=False)).abs().max().item())
    assert largest[0] < 0.3 * largest[1]


def test_what_it_teaches_the_maker_is_a_share_of_the_other_losses_gradient() -> None:
    told, maker = critic.fresh(CPU), nn.Conv2d(3, 3, 3, padding=1)
    true, soft = stripes(4, soft=False), stripes(4, soft=True)
    made = maker(soft)
    judged, sure = critic.judged(told, (made, true), (made - true).abs().mean(), maker.weight, torch.ones(()))
    assert sure.item() == pytest.approx(0.69, abs=0.01)
    assert judged.item() == pytest.approx(sure.item(), abs=0.01), "one who can tell nothing is not heard"
    learn(told, 40)
    norms = {}
    for heard in (0.0, 0.5, 1.0):
        made = maker(soft)
        other = (made - true).abs().mean()
        (own,) = torch.autograd.grad(other, maker.weight, retain_graph=True)
        judged, _ = critic.judged(told, (made, true), other, maker.weight, torch.tensor(heard))
        (theirs,) = torch.autograd.grad(judged, maker.weight)
        norms[heard] = (theirs.norm() / own.norm()).item()
    assert norms == {
        0.0: 0.0,
        0.5: pytest.approx(critic.SHARE / 2, rel=0.01),
        1.0: pytest.approx(critic.SHARE, rel=0.01),
    }


def test_the_makers_loss_leaves_the_critic_alone() -> None:
    """The critic's gradient is that of its own loss, however much it is heard."""
    true, soft = stripes(4, soft=False), stripes(4, soft=True)
    seen = []
    for heard in (0.0, 1.0):
        told = critic.fresh(CPU)
        maker = nn.Conv2d(3, 3, 3, padding=1)
        with torch.no_grad():
            maker.weight.fill_(0.1)
            cast(Tensor, maker.bias).zero_()
        made = maker(soft)
        other = (made - true).abs().mean()
        judged, _ = critic.judged(told, (made, true), other, maker.weight, torch.tensor(heard))
        judged.backward()  # type: ignore[no-untyped-call]
        seen.append([cast(Tensor, weight.grad).clone() for weight in told.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*seen, strict=True))


def test_a_fresh_one_is_the_same_everywhere_and_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(1)
    first, after = critic.fresh(CPU), torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), after)
    second = critic.fresh(CPU)
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters(), strict=True))


def test_one_that_has_become_no_number_begins_anew_with_the_next_optimizer() -> None:
    told = critic.fresh(CPU)
    with torch.no_grad():
        for weight in told.parameters():
            weight.fill_(float("nan"))
    critic.groups(as_it_is(), told)
    pairs = zip(told.parameters(), critic.fresh(CPU).parameters(), strict=True)
    assert all(torch.equal(weight, first) for weight, first in pairs)


def test_it_sees_as_much_as_it_says() -> None:
    told = critic.fresh(CPU)
    pixels = torch.zeros(1, 3, 128, 128, requires_grad=True)
    told(pixels)[0, 0, 8, 8].backward()
    rows = cast(Tensor, pixels.grad).abs().sum((0, 1, 3)).nonzero()
    assert rows.max() - rows.min() + 1 == 54
