"""From what fails in a worker to the error that a client is told.

Knows the kinds of pipelines.errors, by name, and the wording for clients; knows neither processes nor models. What the
worker gives as the reason goes to the log, never to a client.
"""

from __future__ import annotations

import logging

from server.errors import (
    DarkroomError,
    GenerationFailed,
    ModelUnavailable,
    OutOfDeviceMemory,
    ServerFault,
    Unavailable,
    WorkerLost,
)

log = logging.getLogger("darkroom.worker")


def lost(*, begun: bool = True, started: bool = True) -> WorkerLost:
    """The error of a job whose worker ended under it, or, if not ``begun``, while it waited for its model, or, if not
    ``started``, before it came to it."""
    message = "The process that was drawing this stopped. It is being started again."
    return _lost(message, begun=begun, started=started)


def unheard(*, begun: bool = False, started: bool = True) -> WorkerLost:
    """The error of a drawing whose device is not heard any more: it may be drawn still, and no worker is known to have
    ended under it. One that had not ``started`` is ``begun``, as in ``lost``, unless it waited for its model there."""
    return _lost("The machine that was drawing this is not heard any more.", begun=begun, started=started)


def _lost(message: str, *, begun: bool, started: bool) -> WorkerLost:
    error = WorkerLost(message, retry_after_s=5)
    error.begun = begun
    error.started = started
    return error


def cannot_start() -> Unavailable:
    """The error of a job while no worker comes up."""
    error = Unavailable(
        "The process that draws cannot be started; /readyz and the server's log say why.", retry_after_s=30
    )
    error.started = False
    return error


def unavailable(model: str) -> ModelUnavailable:
    """The error of a request for a model that could not be loaded."""
    return ModelUnavailable(f"{model} cannot be loaded; /readyz and the server's log say why.", param="model")


def failed(kind: str, reason: str, job_id: str, model: str) -> DarkroomError:
    """The error of a job whose drawing failed; ``kind`` is a class name of pipelines.errors, ``model`` the ID."""
    log.warning("job failed in the worker", extra={"job": job_id, "kind": kind, "reason": reason})
    match kind:
        case "AdapterRefused":
            message = f"One of these loras of {model} cannot be loaded; the server's log says which, and why."
            return ModelUnavailable(message, param="loras")
        case "LoadRefused":
            error = unavailable(model)
            error.started = False  # another device, or another machine, may have what this one lacks
            return error
        case "OutOfMemory":
            return OutOfDeviceMemory("The device has no room for this picture; ask for a smaller size or n.")
        case "BadPicture":
            return GenerationFailed(f"{model} made no usable picture (NaN or black); try another seed or scheduler.")
        case "Unsupported":
            return GenerationFailed(f"{model} has no pipeline for this task; /v1/models lists the tasks of each model.")
        case _:
            return ServerFault("Drawing failed; the server's log has the reason under this request's id.")
