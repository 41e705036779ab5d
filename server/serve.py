"""Running an application on a socket until a signal says stop.

Knows uvicorn, sockets and signals; knows nothing of models or pictures.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI

from server.app import create_app
from server.edge.deadlines import protocol_with_deadlines
from server.edge.request_id import WithRequestId
from server.errors import ConfigError
from server.settings import Settings
from server.telemetry import configure_logging


class _Server(uvicorn.Server):
    """Tells the application to drain the moment a signal arrives, not when the last connection has closed."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # A signal handler may run between any two bytecodes: the loop does it at a safe moment.
        self._loop.call_soon_threadsafe(self._app.state.services.queue.drain)
        super().handle_exit(sig, frame)

    def stop_early(self, sig: int, frame: FrameType | None) -> None:
        self.should_exit = True

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; running jobs then finish within drain_timeout_s. Raises ConfigError."""
    configure_logging(settings.log_level, process="front")
    logging.getLogger().handlers[0].addFilter(WithRequestId())
    app = create_app(settings)
    listener = _listen(settings)
    config = uvicorn.Config(
        app,
        http=protocol_with_deadlines(settings),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # X-Forwarded-* is the client's word; public_url is the operator's
        timeout_graceful_shutdown=max(1, round(settings.drain_timeout_s)),
        lifespan="on",
        ws="none",
    )
    host, port = listener.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    print(f"Darkroom listens on {address}{_openness(settings, app)}", file=sys.stderr, flush=True)
    server = _Server(config, app)
    # Outside uvicorn's own handlers: a signal before it has started must stop it too, and the one that uvicorn
    # raises again after a clean shutdown must not turn that into a failure.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.stop_early)
    server.run(sockets=[listener])


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host.strip("[]"), settings.port), family=family, backlog=2048)
    except (OSError, ValueError) as error:  # ValueError: no name of a host
        reason = error.strerror if isinstance(error, OSError) else "no host has such a name"
        raise ConfigError(f"cannot listen on {settings.host} port {settings.port}: {reason}") from None


def _openness(settings: Settings, app: FastAPI) -> str:
    if not app.state.keyring.empty:
        return ""
    if not settings.allow_open and app.state.keyring.had_keys:
        return (
            " (its last key has been revoked: it refuses every request until `darkroom keys create NAME` makes a new"
            " one, or it is started with DARKROOM_ALLOW_OPEN=1)"
        )
    if settings.this_machine_only:
        return " (no keys configured: this machine only; `darkroom keys create NAME` makes one)"
    return " (no keys configured and allow_open is set: ANYONE who reaches it may use it)"
