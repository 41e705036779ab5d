"""MCP's route, POST /mcp: agents' way to this server, by the protocol's streamable HTTP, without sessions.

Knows whether it is served, and how little a front that no agent asks may pay for it: the SDK is imported by the first
request, on a thread. What an exchange is, ``mcp_exchange`` knows. GET and DELETE are 405, as the protocol has it for a
server that neither speaks first nor keeps sessions.
"""

from __future__ import annotations

from types import ModuleType

import anyio.to_thread
from fastapi import APIRouter, Request, Response

from server.api.json_body import content_type_of, read_object, whole_body
from server.api.services import Services
from server.edge.body import hold_of
from server.edge.rpc_errors import PATH
from server.errors import BadRequest, NotFound
from server.setting_values import MCP_EXTRA, has_mcp


def router(services: Services) -> APIRouter:
    routes = APIRouter()
    running: dict[object, object] = {}  # calls that go on, for those who cancel them

    async def mcp(request: Request) -> Response:
        """One message of an agent."""
        if not services.settings.mcp:
            raise NotFound("MCP is switched off on this server; DARKROOM_MCP=true (--mcp) switches it on.")
        if not has_mcp():
            raise NotFound(f"MCP needs a package that is not installed on this server: {MCP_EXTRA}.")
        if content_type_of(request) != "application/json":
            raise BadRequest("The body must be one JSON-RPC message, Content-Type: application/json.")
        exchange = await anyio.to_thread.run_sync(_exchange)
        body = await whole_body(request)
        message = await read_object(request, body, lambda message: message)
        hold_of(request.scope).take(2 * len(body))  # as the SDK reads it, and as the API is asked
        response: Response = exchange.Exchange(bytes(body), message, running)
        return response

    routes.add_api_route(PATH, mcp, methods=["POST"], include_in_schema=False)
    return routes


def _exchange() -> ModuleType:
    """The module that has the SDK: half a second and 25 MB, the first time."""
    from server.api import mcp_exchange

    mcp_exchange.prepare()
    return mcp_exchange
