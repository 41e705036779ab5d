"""The worker process: reads messages from the inherited socket, draws, writes messages back.

Started by module name with the socket's file descriptor. This package is the only code above ``pipelines`` that
imports torch. Knows messages and the process; knows nothing of HTTP, opens no port, fetches nothing.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
from importlib.metadata import version
from pathlib import Path

from pipelines.models import allocator

# Before any import that reads them: nothing is ever fetched, nothing is ever reported.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    DIFFUSERS_DISABLE_TELEMETRY="1",
    DO_NOT_TRACK="1",
    TRANSFORMERS_VERBOSITY="error",
    DIFFUSERS_VERBOSITY="error",
)

if __name__ == "__main__":
    # Ctrl-C reaches the whole process group, also while torch is still being imported; the front decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a closed terminal: the front drains
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as service managers send it to all processes of a service
    os.environ.update(allocator.settings(version("torch"), os.environ))

import torch

from pipelines.models import device, fullness, loader
from pipelines.models.records import Records
from server import __version__
from server.telemetry import configure_logging
from server.worker import protocol
from server.worker.child.device import Device
from server.worker.child.link import Link

log = logging.getLogger("darkroom.worker")


def serve(
    sock: socket.socket,
    device_setting: str,
    device_memory: str = "",
    checks: Path | None = None,
    share: int = 1,
    refuse_full: bool = False,
) -> None:
    """Read and obey messages until the front says stop or goes away. What checks at load find is kept in ``checks``.

    So many workers ``share`` this machine. A device that others have filled is refused where ``refuse_full`` says so.
    """
    loader.quiet_libraries()
    link = Link(sock)
    try:
        choice = device.choose(device_setting)
        if refuse_full:
            fullness.refuse_full(choice.device)
    except device.DeviceRefused as refusal:
        link.send(protocol.Refused(str(refusal)))
        link.close()
        return
    if choice.problem:
        log.error("the device cannot be used; drawing on the CPU", extra={"reason": choice.problem})
    dtype = device.choose_dtype("auto", choice.device)
    chosen = {"device": str(choice.device), "device_name": choice.name, "dtype": str(dtype)}
    log.info("device chosen", extra={**chosen, "threads": torch.get_num_threads()})
    name = f"CPU, {torch.get_num_threads()} threads" if choice.device.type == "cpu" else choice.name
    records = Records(checks, darkroom=__version__, device=name)
    models = Device(choice.device, link, device_memory, records, share=share)
    link.send(protocol.Hello(str(choice.device), choice.name, str(torch.__version__), choice.problem))
    while (message := link.receive()) is not None:
        match message:
            case protocol.Load(plan):
                models.preload(plan)
            case protocol.Leave(plan, place):
                models.leave(plan, place)
            case protocol.Serve(plans):
                models.serve(plans)
            case protocol.Draw(drawing, encoding):
                models.reporter.expect(drawing, encoding)
                models.draw(drawing)
            case protocol.Cancel(job_id):
                models.cancel(job_id)
            case protocol.Stop():
                break
    if message is None:
        os._exit(1)  # the front is gone: nobody waits for what is still being drawn
    models.close()
    link.close()


def _end_process(failure: threading.ExceptHookArgs) -> None:
    log.critical(
        "worker thread failed", exc_info=(failure.exc_type, failure.exc_value or Exception(), failure.exc_traceback)
    )
    sys.stderr.flush()
    os._exit(1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--device-memory", default="")
    parser.add_argument("--checks", type=Path, default=None)
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--name", default="")  # of the device, where the server has several
    parser.add_argument("--share", type=int, default=1)
    parser.add_argument("--refuse-full", action="store_true")
    arguments = parser.parse_args()
    configure_logging(arguments.log_level, process="worker", device=arguments.name)
    threading.excepthook = _end_process  # a thread of ours that fails would leave drawings waiting for ever
    code = 0
    try:
        with socket.socket(fileno=arguments.fd) as sock:
            serve(
                sock,
                arguments.device,
                arguments.device_memory,
                arguments.checks,
                arguments.share,
                arguments.refuse_full,
            )
    except Exception:  # OSErrors too: one that is not the link's was taken for a front that is gone, and never told
        log.exception("worker failed")
        code = 1
    # At once: a thread that still waits would keep the process for ever, and Python takes seconds to unload torch.
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
