"""torch.cuda.CUDAGraph of the fake devices. Knows its methods; what a capture keeps is graphs.py's."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import _disable_current_modes

from tests.device.graphs import VOID, Capture, PoolMemory, Step
from tests.device.machine import Machine, accelerator_error


def graph_class(machine: Machine) -> type:
    """The class, for graphs on the devices of ``machine``."""

    class CUDAGraph:
        """What one capture launched."""

        def __init__(self, keep_graph: bool = False) -> None:
            self._steps: list[Step] | None = None
            self._memory: PoolMemory | None = None
            self._pool: Any = None
            self._capture: Capture | None = None

        def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
            if machine.stream is None:
                raise RuntimeError("CUDA graphs must be captured on a non-default stream.")
            with machine.lock:
                self._pool = machine.captures.handle() if pool is None else pool
                memory = machine.devices[machine.current].memory
                self._capture = machine.captures.begin(self._pool, capture_error_mode, memory)
                self._memory = self._capture.memory

        def capture_end(self) -> None:
            with machine.lock:
                capture = machine.captures.here
                if capture is None or capture is not self._capture:
                    raise RuntimeError("capture_end without a capture")
                machine.captures.end(self._pool)
                self._capture = None
                if capture.is_void:
                    message = "CUDA error: operation failed due to a previous error during capture"
                    raise accelerator_error(message, VOID)
                capture.spoil()
                machine.captures.captured += 1
                self._steps = capture.steps

        def replay(self) -> None:
            if self._steps is None:
                raise RuntimeError("Called CUDAGraph::replay without a preceding successful capture.")
            machine.devices[machine.current].require_alive()
            with machine.lock, _disable_current_modes():
                machine.launches += 1
                machine.captures.replays += 1
                for step in self._steps:
                    step()

        def reset(self) -> None:
            with machine.lock:
                memory, self._memory, self._steps = self._memory, None, None
                if memory is not None:
                    memory.release()

        def __del__(self) -> None:
            self.reset()

    return CUDAGraph
