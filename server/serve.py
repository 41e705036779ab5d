"""Running an application on a socket until a signal says stop.

Knows uvicorn, sockets and signals; knows nothing of models or pictures.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from types import FrameType

import uvicorn
from fastapi import FastAPI

from server.app import create_app
from server.edge.certificate import Certificate, open_certificate
from server.edge.connections import Connections, max_connections, raise_descriptors
from server.edge.request_id import WithRequestId
from server.edge.tls import protocol_of
from server.errors import ConfigError
from server.settings import Settings
from server.telemetry import Metrics, configure_logging
from server.worker.launch import Early

BACKLOG = 2048  # connections that wait to be accepted
ACCEPTED_AT_ONCE = 32  # between two looks at how many there are
LAST_WORDS_S = 2.0
MIN_DRAIN_S = 1.0

log = logging.getLogger("darkroom.serve")


class _Server(uvicorn.Server):
    """Tells the application to drain the moment a signal arrives, not when the last connection has closed.

    When the time to drain is over, those that still wait are told so, and only then does the application end.
    """

    def __init__(
        self, config: uvicorn.Config, app: FastAPI, *, drain_s: float, certificate: Certificate | None = None
    ) -> None:
        super().__init__(config)
        self._certificate = certificate
        self._app = app
        self._drain_s = max(MIN_DRAIN_S, drain_s)
        self._had_terminal = _has_terminal()
        self.refusal = ""

    def refuse(self, reason: str) -> None:
        """Stop: what the settings ask for cannot be done here, as only the worker could find out."""
        self.refusal = reason
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # A signal handler may run between any two bytecodes: the loop does it at a safe moment.
        self._loop.call_soon_threadsafe(self._app.state.services.queue.drain)
        super().handle_exit(sig, frame)

    def stop_early(self, sig: int, frame: FrameType | None) -> None:
        if sig in (signal.SIGTERM, signal.SIGINT) or self._terminal_closed():  # models.yaml is only now being read
            self.should_exit = True

    def _terminal_closed(self) -> bool:
        return self._had_terminal and not _has_terminal()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        watch = None if self._certificate is None else asyncio.create_task(self._certificate.watch(), name="watch-tls")
        try:
            with self._hangup_rereads():
                await super().serve(sockets)
        finally:
            if watch is not None:
                watch.cancel()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(BACKLOG)  # asyncio takes its batch for the length of the queue too

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        cutting_off = asyncio.create_task(self._cut_off(), name="cut-off")
        try:
            await super().shutdown(sockets)
        finally:
            cutting_off.cancel()

    async def _cut_off(self) -> None:
        """End what outlasts the time to drain. uvicorn's own limit calls it an error, and stops the worker before the
        requests that it draws for are cancelled."""
        await asyncio.sleep(self._drain_s)
        if tasks := list(self.server_state.tasks):
            log.info("requests cut off at shutdown", extra={"requests": len(tasks)})
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=LAST_WORDS_S)  # they say so to their clients
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        self.server_state.tasks.clear()  # nobody is left who would wait for these

    @contextlib.contextmanager
    def _hangup_rereads(self) -> Iterator[None]:
        """SIGHUP has models.yaml read again while inside. Under nohup it is ignored, and stays so.

        The one that a closed terminal sends stops like SIGTERM.
        """
        hangup = getattr(signal, "SIGHUP", None)
        if hangup is None or signal.getsignal(hangup) is signal.SIG_IGN:
            yield
            return
        before = signal.signal(hangup, self._hung_up)
        try:
            yield
        finally:
            signal.signal(hangup, before)

    def _hung_up(self, sig: int, frame: FrameType | None) -> None:
        services = self._app.state.services
        if self._terminal_closed():
            self._loop.call_soon_threadsafe(services.queue.drain)
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(services.served.reload_soon)


def serve(settings: Settings, early: Early | None = None) -> None:
    """Serve until SIGTERM, SIGINT or a closed terminal; running jobs then finish within drain_timeout_s.

    ``early``: worker processes that were started before. Raises ConfigError.
    """
    configure_logging(settings.log_level, process="front")
    logging.getLogger().handlers[0].addFilter(WithRequestId())
    raise_descriptors(settings)
    certificate = open_certificate(settings)
    app = create_app(settings, early)
    connections = _connections(settings, app.state.services.metrics)
    listener = _listen(settings)
    app.state.services.worker.connect()
    config = uvicorn.Config(
        app,
        http=protocol_of(
            settings,
            connections,
            certificate,
            failed=app.state.services.metrics.connections_closed.labels("handshake").inc,
        ),
        backlog=ACCEPTED_AT_ONCE,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # X-Forwarded-* is the client's word; public_url is the operator's
        lifespan="on",
        ws="none",
    )
    host, port = listener.getsockname()[:2]
    address = f"{settings.scheme}://[{host}]:{port}" if ":" in host else f"{settings.scheme}://{host}:{port}"
    print(f"Darkroom listens on {address}{_openness(settings, app)}", file=sys.stderr, flush=True)
    server = _Server(config, app, drain_s=settings.drain_timeout_s, certificate=certificate)
    app.state.services.worker.on_refused = server.refuse
    # Outside uvicorn's own handlers: a signal before it has started must stop it too, and the one that uvicorn
    # raises again after a clean shutdown must not turn that into a failure.
    for number in (signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGHUP", None)):
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, server.stop_early)
    server.run(sockets=[listener])
    if server.refusal:
        raise ConfigError(f"{settings.devices_as_set}: {server.refusal}")


def _has_terminal() -> bool:
    """Does this process belong to a terminal that is still there?"""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _connections(settings: Settings, metrics: Metrics) -> Connections:
    connections = Connections(
        max_connections(settings),
        per_address=settings.max_connections_per_address,
        count=lambda what: metrics.connections_closed.labels(what).inc(),
    )
    metrics.connections.set_function(lambda: len(connections))
    return connections


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host.strip("[]"), settings.port), family=family, backlog=BACKLOG)
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
