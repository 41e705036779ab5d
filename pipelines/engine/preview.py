"""What a run's picture would be if it stopped here: the clean latents that the denoiser predicts, decoded.

Knows schedulers' formulas and latents' layouts; knows neither runs nor clients. Approximate by nature: it is a
preview, and only made when someone asked.

Sources: for a noise schedule with ᾱ, x0 = (x − √(1−ᾱ)·ε) / √ᾱ (Ho et al. 2020) or √ᾱ·x − √(1−ᾱ)·v (Salimans & Ho
2022); for sigma schedulers x0 = x − σ·ε (Karras et al. 2022); for flow matching x0 = x − σ·v (Lipman et al. 2023).
"""

from __future__ import annotations

from typing import Any

import torch


def clean_latents(scheduler: Any, output: torch.Tensor, timestep: Any, sample: torch.Tensor) -> torch.Tensor | None:
    """The predicted clean latents at a step about to be made; None for a scheduler that tells no noise level."""
    kind = getattr(scheduler.config, "prediction_type", None)
    if hasattr(scheduler, "sigmas") and _index(scheduler, timestep) is not None:
        sigma = scheduler.sigmas[_index(scheduler, timestep)].to(sample.device, torch.float32)
        if kind is None or "Flow" in type(scheduler).__name__:
            flow: torch.Tensor = sample - sigma * output
            return flow
        if "Euler" in type(scheduler).__name__:  # samples are scaled by √(σ²+1)
            scaled = sample / (sigma**2 + 1).sqrt()
            return _from_alpha(kind, output, scaled, 1 / (sigma**2 + 1))
        alpha = 1 / (sigma**2 + 1)
        return _from_alpha(kind, output, sample, alpha)
    if hasattr(scheduler, "alphas_cumprod") and torch.is_tensor(timestep):
        alpha = scheduler.alphas_cumprod[int(timestep)].to(sample.device, torch.float32)
        return _from_alpha(kind, output, sample, alpha)
    return None


def decodable(pipeline: Any, latents: torch.Tensor, width: int, height: int) -> torch.Tensor | None:
    """Latents as the VAE's decoder takes them; None for a layout that is not known here."""
    config = pipeline.vae.config
    if latents.dim() == 3 and hasattr(pipeline, "_unpack_latents"):  # FLUX packs 2×2 patches into a sequence
        try:
            latents = pipeline._unpack_latents(latents, height, width, pipeline.vae_scale_factor)
        except TypeError:
            return None
    if latents.dim() != 4:
        return None
    unscaled: torch.Tensor = latents / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)
    return unscaled


def to_picture(decoded: torch.Tensor) -> torch.Tensor:
    """A decoder's output, -1..1, as a picture (B, 3, H, W), 0..1."""
    return (decoded.float() / 2 + 0.5).clamp(0, 1)


def _from_alpha(kind: str | None, output: torch.Tensor, sample: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    signal, noise = alpha.sqrt(), (1 - alpha).sqrt()
    if kind == "v_prediction":
        return signal * sample - noise * output
    if kind == "sample":
        return output
    # At zero terminal signal a noise prediction says nothing of the picture.
    return (sample - noise * output) / signal.clamp(min=1e-3)


def _index(scheduler: Any, timestep: Any) -> int | None:
    """Where in its sigmas the scheduler is; it may not have looked yet before its first step."""
    index = getattr(scheduler, "step_index", None)
    if index is not None:
        return int(index)
    found = (scheduler.timesteps == timestep).nonzero()
    return int(found[0]) if len(found) else None
