"""The stack: the order of the layers around one application. Knows the order and nothing else; see ``server.edge``."""

from __future__ import annotations

from fastapi import FastAPI

from server.edge import answers
from server.edge.access_log import AccessLog, Count
from server.edge.auth import Auth
from server.edge.body import BodyLimit
from server.edge.boundary import ErrorBoundary
from server.edge.cors import Cors, Origins
from server.edge.encodings import ContentEncodings
from server.edge.keys import Keyring
from server.edge.lingering_close import LingeringClose
from server.edge.methods import Methods
from server.edge.paths import Paths
from server.edge.request_id import RequestIds
from server.edge.rpc_errors import RpcErrors
from server.jobs.budget import Budget
from server.settings import Settings


def install(
    app: FastAPI, settings: Settings, keyring: Keyring, *, count: Count | None = None, budget: Budget | None = None
) -> None:
    """Put every layer around ``app`` and give its own failures the one shape. Once, before it serves.

    ``count`` is told the route template and status of every request, for metrics. ``budget``: the bytes that all may
    hold; default: as many as the settings say.
    """
    answers.install(app)
    app.router.redirect_slashes = False  # Starlette builds that redirect from the Host header
    # Starlette puts each added layer outside those before it: innermost first.
    app.add_middleware(ContentEncodings, max_bytes=settings.max_body_bytes)
    app.add_middleware(
        BodyLimit,
        max_bytes=settings.max_body_bytes,
        timeout_s=settings.body_timeout_s,
        budget=budget or Budget(settings.held_bytes),
    )
    app.add_middleware(Methods, routed=app)
    app.add_middleware(Auth, settings=settings, keyring=keyring)
    app.add_middleware(Paths)
    app.add_middleware(ErrorBoundary)
    app.add_middleware(RpcErrors)
    app.add_middleware(AccessLog, count=count)
    app.add_middleware(LingeringClose)
    app.add_middleware(RequestIds)
    app.add_middleware(Cors, origins=Origins(settings))
