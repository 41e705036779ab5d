"""What torch says, asked in a process of its own: this one never imports it.

Knows how that process is started and how long it may take; judges nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec

from server import interpreter
from server.catalog.catalog import Catalog
from server.commands.failure import CommandFailed
from server.settings import ENV_PREFIX, Settings
from server.worker.child.inspection import Answer, Inquiry

_TIMEOUT_S = 300.0  # to import torch from a slow disk, and to read the headers of many models


def ask(catalog: Catalog, settings: Settings) -> Answer:
    """What torch says of this machine and these models. Raises CommandFailed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    asked = msgspec.json.encode(
        Inquiry(settings.device_kind, tuple(catalog.plans.values()), settings.device_memory or "")
    )
    try:
        done = subprocess.run(  # noqa: S603, our own module
            interpreter.python("server.worker.child.inspection"),
            input=asked,
            capture_output=True,
            env=interpreter.environment(kept),
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CommandFailed(f"torch did not answer within {_TIMEOUT_S:.0f} s: the driver may hang") from None
    if done.returncode != 0:
        sys.stderr.write(done.stderr.decode(errors="replace")[-2000:])
        raise CommandFailed(f"the process with torch ended with exit code {done.returncode}; what it said is above")
    return msgspec.json.decode(done.stdout.rpartition(b"\n")[2] or done.stdout, type=Answer)
