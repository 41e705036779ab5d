"""The worker process from its start: what is decided before anything heavy is imported."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading

import pytest
import torch

from pipelines.models import device
from server.worker import protocol
from server.worker.child import __main__ as child
from server.worker.child.link import Link
from tests.running import ROOT

# Stops at the first import of a library that reads the environment, and shows what it would have read.
STOP_AT_THE_FIRST = """
import json, os, sys

class Stop:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "diffusers", "transformers", "huggingface_hub", "numpy"):
            print(json.dumps({"first": name, **os.environ}))
            raise SystemExit(0)

sys.meta_path.insert(0, Stop())
import server.worker.child.__main__
"""


def test_libraries_are_told_to_stay_offline_before_the_first_of_them_is_imported() -> None:
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    done = subprocess.run(
        [sys.executable, "-c", STOP_AT_THE_FIRST], capture_output=True, text=True, cwd=ROOT, env=outside, check=True
    )
    seen = json.loads(done.stdout)
    assert seen["first"] == "torch"
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        assert seen[name] == "1"


STOP_AT_TORCH = """
import importlib.metadata, json, os, runpy, sys

class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(json.dumps(dict(os.environ)))
            raise SystemExit(0)

importlib.metadata.version = lambda name: "2.11.0"
sys.meta_path.insert(0, Stop())
runpy.run_module("server.worker.child", run_name="__main__")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="nowhere else do they exist")
def test_segments_can_grow_from_the_first_allocation_on() -> None:
    """An allocator reads its settings once: three times what was in use was reserved."""
    outside = {name: value for name, value in os.environ.items() if not name.endswith("ALLOC_CONF")}
    done = subprocess.run(
        [sys.executable, "-c", STOP_AT_TORCH], capture_output=True, text=True, cwd=ROOT, env=outside, check=True
    )
    assert json.loads(done.stdout)["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"


def test_a_failure_of_the_worker_is_not_taken_for_a_front_that_is_gone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that was missing was an OSError, as a broken link is: workers were started for ever, in silence."""

    def fail(*_: object) -> None:
        raise FileNotFoundError("/proc/meminfo")

    ours, theirs = socket.socketpair()
    codes: list[int] = []
    monkeypatch.setattr(child, "serve", fail)
    monkeypatch.setattr(child, "configure_logging", lambda *_, **__: None)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(sys, "argv", ["child", "--fd", str(theirs.detach()), "--device", "cpu"])
    with ours:
        child.main()
    assert codes == [1]
    assert "FileNotFoundError" in caplog.text


def test_a_link_that_breaks_is_a_front_that_is_gone() -> None:
    ours, theirs = socket.socketpair()
    link = Link(theirs)
    theirs.close()
    assert link.receive() is None
    link.close()
    ours.close()


def served(device_setting: str) -> list[protocol.ToFront]:
    """What a worker says from its start to its end, if it is told to stop at once."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(protocol.pack(protocol.Stop()))
        child.serve(theirs, device_setting)
        theirs.shutdown(socket.SHUT_RDWR)
        said = []
        while (body := protocol.receive(ours)) is not None:
            said.append(protocol.unpack_to_front(body))
    return said


def test_a_worker_says_where_it_draws_and_why_not_elsewhere(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    choice = device.Choice(torch.device("cpu"), "CPU", "the driver is too old")
    monkeypatch.setattr(device, "choose", lambda setting: choice)
    with caplog.at_level("INFO", "darkroom.worker"):
        said = served("auto")
    assert said == [protocol.Hello("cpu", "CPU", str(torch.__version__), "the driver is too old")]
    chosen = {record.message: record for record in caplog.records}
    assert chosen["the device cannot be used; drawing on the CPU"].levelname == "ERROR"
    assert chosen["device chosen"].__dict__["dtype"] == "torch.float32"


def test_a_worker_that_cannot_use_its_device_says_so_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(setting: str) -> device.Choice:
        raise device.DeviceRefused(f"no {setting} here")

    monkeypatch.setattr(device, "choose", refuse)
    assert served("cuda") == [protocol.Refused("no cuda here")]
