"""Errors at /mcp: the one shape of failure, said as JSON-RPC says it, with the same status and headers.

Knows both shapes; knows nothing of what failed. Clients of the protocol show their user the message of a JSON-RPC error
whatever its status is; of any other body they say that the server returned an error.
"""

from __future__ import annotations

import json
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATH: Final = "/mcp"
_INVALID_REQUEST: Final = -32600
_INTERNAL_ERROR: Final = -32603
_MAX_BYTES: Final = 64 * 1024  # of an error's body; what is larger is none of ours


class RpcErrors:
    """The layer that rewrites them."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun: Message | None = None  # an error's head, which waits for its body

        async def rewriting(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start" and message["status"] >= 400 and scope["path"] == PATH:
                begun = message
                return
            if begun is not None:
                start, begun = begun, None
                more = message.get("more_body", False)
                whole = None if more else _rewritten(message.get("body", b""), start["status"])
                if whole is not None:
                    length = (b"content-length", str(len(whole)).encode())
                    others = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
                    start, message = {**start, "headers": [*others, length]}, {**message, "body": whole}
                await send(start)
            await send(message)

        await self.app(scope, receive, rewriting)


def _rewritten(body: bytes, status: int) -> bytes | None:
    """The same error in the other shape; None for what is no error of ours."""
    try:
        said = json.loads(body) if len(body) <= _MAX_BYTES else None
    except ValueError:
        return None
    error: Any = said.get("error") if isinstance(said, dict) and set(said) == {"error"} else None
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return None
    code = _INTERNAL_ERROR if status >= 500 else _INVALID_REQUEST
    data = {name: error.get(name) for name in ("type", "param", "code")}
    rpc = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": error["message"], "data": data}}
    return json.dumps(rpc, ensure_ascii=True).encode("ascii")
