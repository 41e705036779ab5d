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


_CUDA_NO_MEMORY = 2  # cudaErrorMemoryAllocation and its twins: the driver's own, where torch's allocator did not ask
# How libraries say that they found no memory, a workspace's or a handle's, in a plain RuntimeError.
_NO_MEMORY = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "HIP error: out of memory",
    "MPS backend out of memory",
    "_STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN, cuSOLVER
    "_STATUS_NOT_INITIALIZED",
    "unable to find an engine",  # cuDNN's: none has a workspace that is small enough
)


def is_out_of_memory(error: BaseException) -> bool:
    """Had the device no room, or the host? Told by name, code and message: the front, which reads this, has no torch,
    and not all who look for memory ask torch's allocator."""
    code = getattr(error, "error_code", None)
    if code is not None and _is_named(error, "AcceleratorError"):
        return bool(code == _CUDA_NO_MEMORY)
    if _is_named(error, "OutOfMemoryError") or isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(spelling in str(error) for spelling in _NO_MEMORY)


def is_device_lost(error: BaseException) -> bool:
    """Is the device lost to this process? Then every later call fails, and the process ends; another takes its place.

    A shortage of memory that the driver told is none: should the device be lost all the same, the next call tells.
    """
    return _is_named(error, "AcceleratorError") and not is_out_of_memory(error)


def _is_named(error: BaseException, name: str) -> bool:
    return any(kind.__name__ == name for kind in type(error).__mro__)
