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
    WorkerLost,
)

log = logging.getLogger("darkroom.worker")


def lost() -> WorkerLost:
    """The error of a job whose worker ended under it."""
    return WorkerLost("The process that was drawing this stopped. It is being started again.", retry_after_s=5)


def unavailable(model: str) -> ModelUnavailable:
    """The error of a request for a model that could not be loaded."""
    return ModelUnavailable(f"{model} cannot be loaded; /readyz and the server's log say why.", param="model")


def failed(kind: str, reason: str, job_id: str) -> DarkroomError:
    """The error of a job whose drawing failed; ``kind`` is a class name of pipelines.errors."""
    log.warning("job failed in the worker", extra={"job": job_id, "kind": kind, "reason": reason})
    match kind:
        case "AdapterRefused":
            return ModelUnavailable("One of these loras cannot be loaded; the server's log says why.", param="loras")
        case "LoadRefused":
            return ModelUnavailable("The model cannot be loaded; /readyz and the server's log say why.", param="model")
        case "OutOfMemory":
            return OutOfDeviceMemory("The device has no room for this picture; ask for a smaller size or n.")
        case "BadPicture":
            return GenerationFailed("The model made no usable picture (NaN or black); try another seed or scheduler.")
        case "Unsupported":
            return GenerationFailed("This model's pipeline cannot do what was asked.")
        case _:
            return ServerFault("Drawing failed; the server's log has the reason under this request's id.")
