"""Logs and metrics: JSON lines on stderr, Prometheus counters in a registry of this server's own.

Knows names and shapes; keeps prompts, keys and bodies out by never being given them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """One JSON object a record; ``extra`` fields become keys. JSON escaping keeps newlines from forging records."""

    def __init__(self, process: str, device: str = "") -> None:
        super().__init__()
        self._process = {"process": process, **({"device": device} if device else {})}

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            **self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        ours = {
            key: value for key, value in vars(record).items() if key not in _STANDARD and key[0] != "_"
        }  # not Ray's
        line |= ours | self._process
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Seldom(logging.Filter):
    """Lets one warning of each kind through in ``every_s``; the next one says how many were left out: ``left_out``.

    For the loggers of libraries, which warn of every malformed connection. Anybody can make thousands in a second.
    """

    def __init__(self, *loggers: str, every_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._loggers = loggers
        self._every_s = every_s
        self._clock = clock
        # By the line of code: when it was last told, and how many were left out since.
        self._told: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] not in self._loggers or record.levelno > logging.WARNING or record.exc_info:
            return True
        now, kind = self._clock(), (record.pathname, record.lineno)
        told_s, left_out = self._told.get(kind, (now - self._every_s, 0))
        if now - told_s < self._every_s:
            self._told[kind] = told_s, left_out + 1
            return False
        if left_out:
            record.left_out = left_out
        self._told[kind] = now, 0
        return True


def configure_logging(level: str, *, process: str, device: str = "") -> None:
    """Send this process's log to stderr as JSON lines. Called once, by a process's main; ``device`` is the one that it
    draws on, where a server has several."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(process, device))
    handler.addFilter(Seldom("uvicorn", "asyncio"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("darkroom").setLevel(level.upper())


class Metrics:
    """The server's Prometheus metrics. Labels come from models.yaml and tables here, never from requests."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "darkroom_requests", "HTTP requests answered", ["route", "status"], registry=self.registry
        )
        self.connections = Gauge("darkroom_connections", "Connections open now", registry=self.registry)
        self.connections_closed = Counter(
            "darkroom_connections_closed",
            "Connections closed because there were too many: gave_way, refused_all, refused_address; or without a whole"
            " TLS handshake: handshake",
            ["how"],
            registry=self.registry,
        )
        self.jobs = Counter("darkroom_jobs", "Jobs ended", ["model", "outcome"], registry=self.registry)
        self.pictures = Counter("darkroom_pictures", "Pictures made", ["model"], registry=self.registry)
        self.steps = Counter("darkroom_steps", "Denoising steps done, by run", registry=self.registry)
        self.megapixel_steps = Counter(
            "darkroom_megapixel_steps",
            "Drawn width × height × steps computed × pictures / 1,000,000",
            ["model"],
            registry=self.registry,
        )
        self.device_seconds = Counter(
            "darkroom_device_seconds",
            "Seconds of forwards, each divided among the jobs that shared it",
            ["model"],
            registry=self.registry,
        )
        self.quota_refused = Counter(
            "darkroom_quota_refused",
            "Requests beyond their key's quota: pictures, megapixel_steps, jobs",
            ["quota"],
            registry=self.registry,
        )
        self.queue_jobs = Gauge("darkroom_queue_jobs", "Jobs holding a permit", ["state"], registry=self.registry)
        self.async_jobs = Gauge(
            "darkroom_async_jobs", "Jobs of Prefer: respond-async that have not ended", registry=self.registry
        )
        self.job_seconds = Histogram(
            "darkroom_job_seconds",
            "From admission to the last picture",
            ["model"],
            buckets=(0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600),
            registry=self.registry,
        )
        self.draw_seconds = Histogram(
            "darkroom_draw_seconds",
            "Device time of one job",
            ["model"],
            buckets=(0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300),
            registry=self.registry,
        )
        self.worker_restarts = Counter(
            "darkroom_worker_restarts", "Workers replaced after death or hang", registry=self.registry
        )
        self.model_shared = Gauge(
            "darkroom_model_shared",
            "1 when the model's runs share denoiser steps, 0 when the check at load found that they may not",
            ["model", "device"],
            registry=self.registry,
        )
        self.engine = Gauge(
            "darkroom_engine",
            "The engine's counters since its worker started: forwards and rows by module, fallbacks",
            ["counter", "device"],
            registry=self.registry,
        )
        self.device_memory = Gauge(
            "darkroom_device_memory_bytes",
            "Device memory of the worker: in_use by weights and pictures, reserved from the device; not on the CPU",
            ["kind", "device"],
            registry=self.registry,
        )
        self.device_out_of_memory = Gauge(
            "darkroom_device_out_of_memory",
            "How often the device had no room, since the worker started; not on the CPU",
            ["device"],
            registry=self.registry,
        )
        self.model_ready = Gauge(
            "darkroom_model_ready", "1 when the model can be served", ["model", "device"], registry=self.registry
        )

        self.device_drawings = Gauge(
            "darkroom_device_drawings", "Drawings that a device has now", ["device"], registry=self.registry
        )
        self.device_steps = Counter(
            "darkroom_device_steps", "Denoising steps done, by run, of each device", ["device"], registry=self.registry
        )
        self.device_restarts = Counter(
            "darkroom_device_restarts", "Workers replaced after death or hang", ["device"], registry=self.registry
        )

    def stepped(self, device: str, steps: int) -> None:
        """So many more steps were done."""
        self.steps.inc(steps)
        self.device_steps.labels(device).inc(steps)

    def restarted(self, device: str) -> None:
        """A worker is replaced."""
        self.worker_restarts.inc()
        self.device_restarts.labels(device).inc()

    def tell(self, counts: dict[str, int], memory: dict[str, int], device: str) -> None:
        """Set what a worker has counted: the engine's counters, and bytes of its device's memory if it has its own."""
        for name, value in counts.items():
            self.engine.labels(name, device).set(value)
        for name in memory.keys() & {"in_use", "reserved"}:
            self.device_memory.labels(name, device).set(memory[name])
        if "out_of_memory" in memory:
            self.device_out_of_memory.labels(device).set(memory["out_of_memory"])

    def forget_drawings(self, device: str) -> None:
        """The device is gone, or has another name now."""
        with contextlib.suppress(KeyError):
            self.device_drawings.remove(device)

    def forget_memory(self, device: str) -> None:
        """A worker has ended: what it held is free, and nothing is known of the device until the next has come up."""
        for kind in ("in_use", "reserved"):
            with contextlib.suppress(KeyError):
                self.device_memory.remove(kind, device)
