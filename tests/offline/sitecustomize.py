"""Imported by every Python process of tests/offline: writes down whom it tries to reach."""

import os
import sys


def _record(event: str, arguments: tuple[object, ...]) -> None:
    if event not in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        return
    target = arguments[0] if event.startswith("socket.get") else arguments[1]
    line = f"{os.getpid()}\t{event}\t{target!r}\n"
    with open(os.environ["WHOM"], "a", encoding="utf-8") as file:  # noqa: PTH123, at any moment of start-up
        file.write(line)


if "WHOM" in os.environ:
    with open(os.environ["WHOM"], "a", encoding="utf-8") as opened:  # noqa: PTH123
        opened.write(f"{os.getpid()}\tstart\t{sys.orig_argv!r}\n")
    sys.addaudithook(_record)
