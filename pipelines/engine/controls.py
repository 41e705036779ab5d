"""A run's ControlNets: each is called by itself, where runs meet, and not at all where it would add nothing.

Knows how diffusers' pipelines call several ControlNets, and what they do with what these give; knows neither runs nor
scheduling. Weights are a run's own: the network computes the same whatever its weight is, and its output is multiplied
afterwards, so that runs of different weights share its calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import torch

Park = Callable[..., Any]


class Controls(diffusers.MultiControlNetModel):  # type: ignore[misc]
    """The ControlNets of one run, in its order, as its pipeline calls them."""

    def __init__(self, nets: Sequence[torch.nn.Module], parks: Sequence[Park]) -> None:
        """``parks`` call the nets, each where other runs' calls of it are waited for."""
        super().__init__(list(nets))
        # Not a list of modules, which would be searched for parameters once more.
        self.__dict__["_parks"] = tuple(parks)
        # What leaves out steps tells a step's calls of one network by their order: of one that is called twice, none
        # may be left out alone.
        self.__dict__["_twice"] = tuple(sum(other is net for other in nets) > 1 for net in nets)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: Any,
        encoder_hidden_states: torch.Tensor,
        controlnet_cond: Sequence[torch.Tensor],
        conditioning_scale: Sequence[float],
        *,
        guess_mode: bool = False,
        **others: Any,
    ) -> tuple[list[torch.Tensor] | None, torch.Tensor | None]:
        """What is added to the denoiser's down blocks and to its middle: sums over the networks, each times its scale.

        A scale of 0 is one whose range does not reach this step. Where all are, there is nothing to add, and the
        denoiser's call is that of a run without a ControlNet.
        """
        down: list[torch.Tensor] | None = None
        middle: torch.Tensor | None = None
        for park, twice, image, scale in zip(
            self._parks, self._twice, controlnet_cond, conditioning_scale, strict=True
        ):
            if scale == 0 and not twice and not guess_mode:  # in guess mode pipelines look into what comes back
                continue
            ours, ours_middle = park(
                sample,
                timestep,
                encoder_hidden_states=encoder_hidden_states,
                controlnet_cond=image,
                conditioning_scale=1.0,
                guess_mode=guess_mode,
                **others,
            )
            ours, ours_middle = [each * scale for each in ours], ours_middle * scale
            down = ours if down is None else [one + other for one, other in zip(down, ours, strict=True)]
            middle = ours_middle if middle is None else middle + ours_middle
        return down, middle
