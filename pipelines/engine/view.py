"""A run's own view of a shared pipeline: same weights, its own scheduler, stand-ins where it meets the engine.

Knows how a diffusers pipeline keeps its components; knows neither threads nor scheduling. The pipeline's code
is not changed: its call runs on a shallow copy whose denoiser, VAE, encoders and scheduler are this run's.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import diffusers
import torch

from pipelines.engine import flow_solvers, preview
from pipelines.engine.collate import Signature
from pipelines.engine.controls import Controls
from pipelines.engine.embeddings import EmbeddingCache, tells_in_tokens
from pipelines.engine.shared import SharedModule, Stage
from pipelines.engine.spacing import densify
from pipelines.errors import BadPicture, Cancelled, is_device_lost
from pipelines.facts import schedulers

log = logging.getLogger("darkroom.view")

Forward = Callable[..., Any]
_CPU = torch.device("cpu")
_DEVICE = "_darkroom_execution_device"
# Their steps look numbers up in tables on the CPU, by the timestep: on a device, the host waits at each look, four
# or five times a step. Nothing but the denoiser's time embedding is computed from it, and that gets it on the device.
_COUNT_ON_CPU = ("DDIMScheduler", "LCMScheduler")


class Rendezvous(Protocol):
    """Where a run's stand-ins hand over their calls."""

    width: int  # pixels that the run draws
    height: int

    def share(
        self,
        shared: SharedModule,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        known: Callable[[], Any] | None = None,
    ) -> Any:
        """Make this call together with other runs' calls. May raise to stop the run.

        ``known`` is asked again while the call waits: if it gives something, that is the output."""

    def alone(self, work: Callable[[], Any], module: torch.nn.Module | None = None) -> Any:
        """Do this work on the engine's thread, with no other run in between, and this run's adapters on ``module``."""

    def adapters(self, module: torch.nn.Module) -> Hashable:
        """What this run's adapters make of ``module``: equal for runs that may take each other's outputs."""

    def stepped(self, done: int, of: int) -> None:
        """The run's scheduler has done a step."""

    def wants_preview(self, done: int, of: int) -> bool:
        """Did the client ask to see the picture as it is after this step?"""

    def previewed(self, done: int, of: int, picture: torch.Tensor) -> None:
        """What the picture would be: (n, 3, h, w), 0..1, at the VAE's own size."""


def bind(
    pipeline: Any,
    rendezvous: Rendezvous,
    *,
    modules: Mapping[int, SharedModule],
    scheduler: str | None = None,
    sigmas: str = "default",
    dense_steps: int | None = None,
    embeddings: EmbeddingCache | None = None,
    controls: Sequence[SharedModule] = (),
) -> Any:
    """A shallow copy of ``pipeline`` for one run, whose heavy modules work through ``rendezvous``.

    ``dense_steps``: of a run with a dense start, how many steps it really draws. ``controls``: the ControlNets that the
    run calls, in its order, of a pipeline that has more.
    """
    view = copy.copy(pipeline)
    if isinstance(pipeline, diffusers.DiffusionPipeline):
        _know_device(view, pipeline)
    own = copy.deepcopy(pipeline.scheduler) if scheduler is None else make_scheduler(pipeline.scheduler, scheduler)
    if sigmas != "default" and schedulers.takes_sigmas(type(own).__name__, own.config, sigmas):
        own = type(own).from_config(own.config, **schedulers.SIGMAS[sigmas])
        _begin_at_first(own)
    if type(own).__name__ in _COUNT_ON_CPU:
        _count_on_cpu(own)
    if dense_steps is not None:
        densify(own, dense_steps)
    _count_steps(own, view, rendezvous)
    _put(view, "scheduler", own)
    for name, component in pipeline.components.items():
        if not isinstance(component, torch.nn.Module):
            continue
        shared = modules.get(id(component))
        if name == "controlnet" and controls:
            parks = [_parking(net, rendezvous) for net in controls]
            _put(view, name, Controls([net.module for net in controls], parks))
        elif name == "vae":
            _put(view, name, _vae(component, shared, rendezvous))
        elif shared is not None and shared.stage is not Stage.ENCODE:
            _put(view, name, stand_in(component, forward=_parking(shared, rendezvous)))
        else:
            _put(view, name, stand_in(component, forward=_encoder(component, shared, rendezvous, embeddings)))
    return view


def _know_device(view: Any, pipeline: Any) -> None:
    """Spare each run the search of all modules for hooks, 2 ms of a small model's and more of a large one's: while runs
    draw, a pipeline's device is always the same."""
    if _DEVICE not in pipeline.__dict__:
        pipeline.__dict__[_DEVICE] = pipeline._execution_device
    view.__dict__[_DEVICE] = pipeline.__dict__[_DEVICE]
    pipeline_class: Any = type(pipeline)
    view.__class__ = _with_known_device(pipeline_class)


@functools.cache
def _with_known_device(pipeline_class: Any) -> Any:
    own = {"__module__": pipeline_class.__module__, "__qualname__": pipeline_class.__qualname__}
    device = property(lambda view: view.__dict__[_DEVICE])
    return type(pipeline_class.__name__, (pipeline_class,), {**own, "_execution_device": device})


def stand_in(module: torch.nn.Module, **methods: Forward) -> torch.nn.Module:
    """A clone that shares the module's parameters, config and children, with some methods replaced.

    A real nn.Module of the same class: isinstance, ``.config``, ``.dtype`` and ``.device`` go on working (a plain
    proxy object breaks a pipeline's device discovery).
    """
    clone = copy.copy(module)
    for name, method in methods.items():
        clone.__dict__[name] = method
    # A compiled module would call its graph and pass the replaced forward by.
    clone.__dict__["_compiled_call_impl"] = None
    # The real module is called through its own hooks; they must not run twice.
    clone.__dict__["_forward_hooks"] = OrderedDict()
    clone.__dict__["_forward_pre_hooks"] = OrderedDict()
    return clone


def _put(view: Any, name: str, component: Any) -> None:
    # Past DiffusionPipeline.__setattr__, which would rewrite the config that all views share.
    view.__dict__[name] = component


def _parking(shared: SharedModule, rendezvous: Rendezvous) -> Forward:
    def forward(*args: Any, **kwargs: Any) -> Any:
        values = (*args, *kwargs.values())
        device = next((v.device for v in values if isinstance(v, torch.Tensor) and v.dim() > 1), _CPU)
        if device != _CPU:
            args = tuple(_brought(value, device) for value in args)
            kwargs = {name: _brought(value, device) for name, value in kwargs.items()}
        return rendezvous.share(shared, args, kwargs)

    return forward


def _brought(value: Any, device: torch.device) -> Any:
    """A timestep that is on the CPU, brought to the other arguments' device: a number goes with the kernel that fills
    it in, and the host waits for no copy."""
    if not isinstance(value, torch.Tensor) or value.dim() > 1 or value.device != _CPU:
        return value
    if value.numel() == 1:
        return torch.full(value.shape, value.item(), dtype=value.dtype, device=device)
    return value.to(device, non_blocking=True)


def _encoder(
    module: torch.nn.Module, shared: SharedModule | None, rendezvous: Rendezvous, embeddings: EmbeddingCache | None
) -> Forward:
    """A module that is called before the first step; where it is a text encoder, together with other runs."""
    signature = Signature(module.forward)

    def forward(*args: Any, **kwargs: Any) -> Any:
        arguments = signature.normalise(args, kwargs)
        meets = shared is not None and tells_in_tokens(arguments)

        def make(known: Callable[[], Any] | None = None) -> Any:
            if shared is not None and meets:
                return rendezvous.share(shared, args, kwargs, known)
            return rendezvous.alone(lambda: module(*args, **kwargs), module)

        key = None if embeddings is None else embeddings.key(module, arguments, rendezvous.adapters(module))
        if key is None or embeddings is None:
            return make()
        return _kept_or_made(embeddings, key, make)

    return forward


def _kept_or_made(embeddings: EmbeddingCache, key: Hashable, make: Callable[..., Any]) -> Any:
    """What is kept of such a call, or what comes of it: another run may make the same one while this one waits."""
    found = embeddings.get(key, make)
    if found is not None:
        return found

    def known() -> Any:
        nonlocal found
        found = embeddings.get(key, make, again=True)
        return found

    output = make(known)
    return output if output is found else embeddings.put(key, output)


def _vae(vae: torch.nn.Module, shared: SharedModule | None, rendezvous: Rendezvous) -> torch.nn.Module:
    plain: Any = vae

    def encode(*args: Any, **kwargs: Any) -> Any:
        return rendezvous.alone(lambda: plain.encode(*args, **kwargs))

    def decode(*args: Any, **kwargs: Any) -> Any:
        if shared is None:
            return rendezvous.alone(lambda: plain.decode(*args, **kwargs))
        return rendezvous.share(shared, args, kwargs)

    return stand_in(vae, encode=encode, decode=_guarded(decode, vae, rendezvous))


def _guarded(decode: Forward, vae: torch.nn.Module, rendezvous: Rendezvous) -> Forward:
    """Decode; where low precision overflowed to NaN (diffusers#5803), decode once more in float32.

    The look at the numbers makes a CUDA device wait for the host, so there it is only done for float16; what
    other precisions make is checked with the finished picture.
    """

    def again(latents: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        exact: Any = copy.deepcopy(vae).float()
        return exact.decode(latents.float(), *args, **kwargs)

    def guarded(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        looks = latents.device.type == "cpu" or latents.dtype is torch.float16
        if looks and not bool(torch.isfinite(latents).all()):
            raise BadPicture("the denoiser made NaN or infinite latents")
        result = decode(latents, *args, **kwargs)
        sample = result[0] if isinstance(result, tuple) else result.sample
        if not looks or bool(torch.isfinite(sample).all()):
            return result
        return rendezvous.alone(lambda: again(latents, args, kwargs))

    return guarded


def _count_steps(scheduler: Any, view: Any, rendezvous: Rendezvous) -> None:
    step = scheduler.step
    done = 0

    @functools.wraps(step)  # pipelines ask step's signature whether to pass their generator
    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal done
        # Pipelines note how many steps this call really takes (fewer than asked for when strength < 1).
        of = max(done + 1, getattr(view, "_num_timesteps", 0) or len(scheduler.timesteps))
        clean = None
        if rendezvous.wants_preview(done + 1, of) and len(args) >= 3:
            with _harmless():
                clean = preview.clean_latents(scheduler, *args[:3])
        result = step(*args, **kwargs)
        done += 1
        rendezvous.stepped(done, of)
        if clean is not None:
            _show(view, rendezvous, clean, done, of)
        return result

    scheduler.step = counted


def _count_on_cpu(scheduler: Any) -> None:
    """Keep the timesteps of a run's own scheduler in host memory."""
    set_timesteps = scheduler.set_timesteps

    @functools.wraps(set_timesteps)  # pipelines ask its signature what it takes
    def set_on_cpu(*args: Any, **kwargs: Any) -> None:
        set_timesteps(*args, **kwargs)
        scheduler.timesteps = scheduler.timesteps.to(_CPU)

    scheduler.set_timesteps = set_on_cpu


def _begin_at_first(scheduler: Any) -> None:
    """Have a scheduler begin with its first step. It would look for the one of the first timestep, and of several with
    the same, as noise levels close to each other are rounded to, take the second."""
    if not hasattr(scheduler, "set_begin_index"):
        return
    set_timesteps = scheduler.set_timesteps

    @functools.wraps(set_timesteps)  # pipelines ask its signature what it takes
    def set_and_begin(*args: Any, **kwargs: Any) -> None:
        set_timesteps(*args, **kwargs)
        scheduler.set_begin_index(0)  # a pipeline that begins later, as edits do, says so afterwards

    scheduler.set_timesteps = set_and_begin


def tell_times(scheduler: Any, told: Callable[[Sequence[float]], None]) -> None:
    """Have a run's own scheduler tell its times, 1 to 0, when the pipeline sets them. No device is waited for: they are
    made on the CPU first."""
    set_timesteps = scheduler.set_timesteps
    signature = inspect.signature(set_timesteps)

    @functools.wraps(set_timesteps)  # pipelines ask its signature what it takes
    def set_and_tell(*args: Any, **kwargs: Any) -> None:
        bound = signature.bind(*args, **kwargs)
        if bound.arguments.get("device") is not None and torch.device(bound.arguments["device"]) != _CPU:
            set_timesteps(**{**bound.arguments, "device": _CPU})
            times = scheduler.timesteps
            set_timesteps(*args, **kwargs)
        else:
            set_timesteps(*args, **kwargs)
            times = scheduler.timesteps
        training_steps = float(scheduler.config.get("num_train_timesteps") or 1000)
        told([float(time) / training_steps for time in times.tolist()])

    scheduler.set_timesteps = set_and_tell


@contextlib.contextmanager
def _harmless() -> Iterator[None]:
    """A preview that cannot be made is left out; it never harms its run, whatever the pipeline and its VAE are."""
    try:
        yield
    except Cancelled:
        raise
    except Exception as error:
        if is_device_lost(error):
            raise
        log.warning("preview left out", extra={"error": type(error).__name__})


def _show(view: Any, rendezvous: Rendezvous, clean: torch.Tensor, done: int, of: int) -> None:
    with _harmless():
        latents = preview.decodable(view, clean, rendezvous.width, rendezvous.height)
        if latents is None:
            return
        decoded = view.vae.decode(latents.to(view.vae.dtype), return_dict=False)[0]
        rendezvous.previewed(done, of, preview.to_picture(decoded))


def make_scheduler(own: Any, name: str) -> Any:
    """The scheduler of that name, with the settings of the model's ``own``."""
    class_name, options = schedulers.lookup(name)
    config = own.config
    if name in schedulers.FLOW and "flow_shift" in config:  # what diffusers' solvers for noise call their shift
        options = {"shift": config["flow_shift"], **options}
    found = getattr(flow_solvers, class_name, None) or getattr(diffusers, class_name)
    return found.from_config(config, **options)
