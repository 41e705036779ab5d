"""What can go wrong while loading and drawing.

Knows kinds; the worker sends the kind's name to the front, which owns the wording for clients.

    DrawError
    ├── LoadRefused     the model folder is missing, broken or not safe to load
    ├── AdapterRefused  a LoRA that was asked for is missing, broken or made for another model
    ├── OutOfMemory     the device has no room for even the smallest batch
    ├── BadPicture      the denoiser or the VAE made NaN or nothing but black
    ├── Unsupported     the pipeline cannot do what the spec asks
    └── Cancelled       the run was told to stop
"""

from __future__ import annotations


class DrawError(Exception):
    """Base of all failures of this package. The message may go to the log, never to a client as it is."""


class LoadRefused(DrawError):
    pass


class AdapterRefused(DrawError):
    pass


class OutOfMemory(DrawError):
    pass


class BadPicture(DrawError):
    pass


class Unsupported(DrawError):
    pass


class Cancelled(DrawError):
    pass


def is_out_of_memory(error: BaseException) -> bool:
    """Had the device no room, or the host? Told by name and message: the front, which reads this, has no torch, and
    torch's CPU allocator raises a plain RuntimeError."""
    kinds = (kind.__name__ for kind in type(error).__mro__)
    return "OutOfMemoryError" in kinds or isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)
