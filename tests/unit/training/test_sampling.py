"""The noise schedule and the sampler against diffusers' own."""

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from training import sampling


class Doubler(torch.nn.Module):
    """A network of no weights: v depends on the latents, the time and the tokens."""

    def forward(self, latents: Tensor, time: Tensor, tokens: Tensor) -> Tensor:
        return 0.3 * latents + 0.001 * time.view(-1, 1, 1, 1) + tokens.mean((1, 2)).view(-1, 1, 1, 1)


def test_the_schedule_is_the_one_that_ships() -> None:
    assert torch.allclose(sampling.alphas(), DDIMScheduler(**sampling.SCHEDULER).alphas_cumprod, atol=1e-5)


def test_the_sampler_takes_diffusers_steps() -> None:
    torch.manual_seed(1)
    noise, cond, uncond = torch.randn(2, 4, 4, 6), torch.randn(2, 5, 3), torch.zeros(1, 5, 3)
    for steps in (4, 8, 20):
        scheduler = DDIMScheduler(**sampling.SCHEDULER)
        scheduler.set_timesteps(steps)
        latents, net = noise, Doubler()
        for time in scheduler.timesteps:
            v_uncond, v_cond = net(torch.cat((latents, latents)), time, torch.cat((uncond, uncond, cond))).chunk(2)
            latents = scheduler.step(v_uncond + 2 * (v_cond - v_uncond), time, latents).prev_sample
        assert torch.allclose(sampling.sample(net, cond, uncond, noise, steps, 2.0), latents, atol=0.05)
