"""A run's own view of a shared pipeline: same weights, its own scheduler, stand-ins where it can be stopped.

Knows how a diffusers pipeline keeps its components; knows neither threads nor scheduling. The pipeline's code
is not changed: its call runs on a shallow copy whose denoiser, VAE and scheduler are this run's.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import diffusers
import torch

from pipelines import schedulers
from pipelines.errors import BadPicture

Forward = Callable[..., Any]


def bind(
    pipeline: Any,
    *,
    scheduler: str | None,
    before_step: Callable[[], None],
    after_step: Callable[[int, int], None],
) -> Any:
    """A shallow copy of ``pipeline`` for one run.

    ``before_step`` is called before each forward of the denoiser and may raise to stop the run;
    ``after_step(done, of)`` after each step of the scheduler.
    """
    view = copy.copy(pipeline)
    own = copy.deepcopy(pipeline.scheduler) if scheduler is None else _make_scheduler(pipeline.scheduler, scheduler)
    _count_steps(own, view, after_step)
    _put(view, "scheduler", own)
    for name in ("unet", "transformer", "prior"):
        module = getattr(pipeline, name, None)
        if isinstance(module, torch.nn.Module):
            _put(view, name, stand_in(module, forward=_stoppable(module.forward, before_step)))
    if isinstance(getattr(pipeline, "vae", None), torch.nn.Module):
        _put(view, "vae", stand_in(pipeline.vae, decode=_guarded_decode(pipeline.vae)))
    return view


def stand_in(module: torch.nn.Module, **methods: Forward) -> torch.nn.Module:
    """A clone that shares the module's parameters, config and children, with some methods replaced.

    A real nn.Module of the same class: isinstance, ``.config``, ``.dtype``, ``.device`` and hooks go on working
    (a plain proxy object breaks a pipeline's device discovery).
    """
    clone = copy.copy(module)
    for name, method in methods.items():
        clone.__dict__[name] = method
    # A compiled module would call its graph and pass the replaced forward by.
    clone.__dict__["_compiled_call_impl"] = None
    return clone


def _put(view: Any, name: str, component: Any) -> None:
    # Past DiffusionPipeline.__setattr__, which would rewrite the config that all views share.
    view.__dict__[name] = component


def _stoppable(forward: Forward, before_step: Callable[[], None]) -> Forward:
    def run(*args: Any, **kwargs: Any) -> Any:
        before_step()
        return forward(*args, **kwargs)

    return run


def _count_steps(scheduler: Any, view: Any, after_step: Callable[[int, int], None]) -> None:
    step = scheduler.step
    done = 0

    @functools.wraps(step)  # pipelines ask step's signature whether to pass their generator
    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal done
        result = step(*args, **kwargs)
        done += 1
        # Pipelines note how many steps this call really takes (fewer than asked for when strength < 1).
        after_step(done, max(done, getattr(view, "_num_timesteps", 0) or len(scheduler.timesteps)))
        return result

    scheduler.step = counted


def _guarded_decode(vae: torch.nn.Module) -> Forward:
    """Decode; where half precision overflowed to NaN (diffusers#5803), decode once more in float32."""

    def decode(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if not bool(torch.isfinite(latents).all()):
            raise BadPicture("the denoiser made NaN latents")
        result = vae.decode(latents, *args, **kwargs)  # type: ignore[operator]
        sample = result[0] if isinstance(result, tuple) else result.sample
        if bool(torch.isfinite(sample).all()):
            return result
        return copy.deepcopy(vae).float().decode(latents.float(), *args, **kwargs)  # type: ignore[operator]

    return decode


def _make_scheduler(own: Any, name: str) -> Any:
    class_name, options = schedulers.lookup(name)
    return getattr(diffusers, class_name).from_config(own.config, **options)
