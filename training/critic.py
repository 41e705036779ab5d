"""A critic: a network that tells true pictures from made ones, and so what a mean of pixels' differences does not see.

Knows pixels alone. Where an outline is unsure, the mean pays least for one that is soft or wobbles; no true picture has
such, and a critic learns that from pieces of a few dozen pixels. It ends with its stage and is not kept.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812

WIDTH = 32  # channels of the first layer
SHARE = 0.5  # of the other losses' gradient, at the maker's last layer, that the critic's has
RISE = 0.1  # of a stage's time, in which the critic learns before it is fully heard
BETAS = (0.5, 0.98)  # of the optimizer: what the other side does now matters more than what it did
RATE = 0.5  # of the stage's rate
SURE = 0.25  # nats of its loss below that of one who can tell nothing, from which it is fully heard
CALM = 0.01  # weight of the answers' squares: only their differences are asked for, and those grew without end
SEED = 5


class Critic(nn.Module):
    """(B, 3, H, W) pixels of -1..1 to (B, 1, H / 8, W / 8): how true each place looks, seeing 54 pixels around it."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inside, outside in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(inside, outside, 4, 2, 1), nn.LeakyReLU(0.2)]
        layers += [nn.Conv2d(4 * width, 4 * width, 3, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 3, padding=1))

    def forward(self, pixels: Tensor) -> Tensor:
        made: Tensor = self.layers(pixels)
        return made


def fresh(device: torch.device) -> Critic:
    """A critic that knows nothing, the same in all processes that learn as one."""
    with torch.random.fork_rng([]):
        torch.manual_seed(SEED)
        return Critic().to(device)


def heard(done: float, device: torch.device) -> Tensor:
    """How much it is heard after this share of the stage's time, 0..1."""
    return torch.tensor(min(1.0, done / RISE), device=device)


def groups(maker: nn.Module, critic: Critic) -> list[dict[str, Any]]:
    """What learns, for a new optimizer. The critic begins anew: a loss that was no number has left it with none."""
    device = next(critic.parameters()).device
    critic.load_state_dict(fresh(device).state_dict())
    own = {"params": list(critic.parameters()), "share": RATE, "betas": BETAS, "weight_decay": 0.0}
    return [{"params": list(maker.parameters()), "betas": BETAS}, own]


def judged(
    critic: Critic, pair: tuple[Tensor, Tensor], other: Tensor, last: Tensor, heard: Tensor
) -> tuple[Tensor, Tensor]:
    """What is added to the ``other`` losses, for the maker of pixels and for the critic; and the critic's own loss.

    The ``pair`` is what was made and what is true, (B, 3, H, W) both: each place is compared with the same one of the
    true picture (Jolicoeur-Martineau, "The relativistic discriminator", 2018). ``last`` is the maker's last weight;
    there the critic's gradient gets ``SHARE`` times ``heard`` (0..1) of the others' (Esser, Rombach and Ommer, "Taming
    transformers for high-resolution image synthesis", 2021), or less: one that can tell nothing, at a loss of 0.69, has
    nothing to teach, however large its gradient is made.
    """
    made, true = pair
    known = {name: weight.detach() for name, weight in critic.named_parameters()}
    real, fake = critic(torch.cat((true, made.detach()))).float().chunk(2)
    for_critic = F.softplus(fake - real).mean()
    calm = CALM * (real.square().mean() + fake.square().mean())
    for_maker = F.softplus(real.detach() - functional_call(critic, known, (made,)).float()).mean()
    norms = [torch.autograd.grad(of, last, retain_graph=True)[0].norm() for of in (other, for_maker)]
    sure = ((math.log(2) - for_critic) / SURE).clamp(0, 1)
    weight = (SHARE * heard * sure * norms[0] / (norms[1] + 1e-8)).detach()
    return weight * for_maker + for_critic + calm, for_critic
