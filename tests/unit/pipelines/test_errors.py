"""A device that is full and one that is lost: told apart by all that torch and its libraries raise."""

from __future__ import annotations

import pytest
import torch

from pipelines.errors import is_device_lost, is_out_of_memory


def accelerator_error(message: str, code: int | None) -> torch.AcceleratorError:
    error = torch.AcceleratorError(message)
    if code is not None:
        error.error_code = code  # type: ignore[attr-defined]
    return error


FULL: list[Exception] = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    accelerator_error("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported", 2),
    accelerator_error("CUDA error: out of memory", None),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"),
]
LOST: list[Exception] = [
    accelerator_error("CUDA error: device-side assert triggered", 710),
    accelerator_error("CUDA error: an illegal memory access was encountered", None),
    accelerator_error("CUDA error: out of memory, says a message; the code says an assertion", 710),
]
NEITHER: list[Exception] = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM"),
    ValueError("a prompt that says CUDA error: out of memory"),
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_memory_is_short_in_many_spellings(error: Exception) -> None:
    """The driver's own shortage was taken for a lost device, and cost the worker with all its jobs; cuBLAS's and
    cuDNN's for bugs, and cost the run."""
    assert is_out_of_memory(error)
    assert not is_device_lost(error)


@pytest.mark.parametrize("error", LOST, ids=str)
def test_a_lost_device_is_no_shortage(error: Exception) -> None:
    assert is_device_lost(error)
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("error", NEITHER, ids=str)
def test_other_failures_are_neither(error: Exception) -> None:
    assert not is_out_of_memory(error)
    assert not is_device_lost(error)
