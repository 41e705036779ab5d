"""One exchange of an agent with this server: a message by POST, answered by JSON or by a stream, as the client reads.

Knows the SDK's transport, and how a call becomes requests to the application around it: with the headers of the POST,
through every layer, as any client sends them. So whose key it is, permits, quotas, limits and the log are theirs.
The SDK keeps nothing between two exchanges: any front can answer any of them, and a restart loses none.

A client of the protocol's handshake versions cancels a call by a message of its own. To find that call, ``initialize``
names a session: a random word that such clients send with all that follows. It stands for nothing that is kept, and
one that is unknown here is as good as any other. A client of later versions cancels by leaving, and leaving counts for
all.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

import anyio
import httpx
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from sse_starlette.sse import AppStatus
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from server.agents import sdk_log
from server.agents.api_client import ApiClient, Place
from server.agents.calls import Answer, Tell, call
from server.agents.in_process import InProcess
from server.agents.protocol import make_server
from server.agents.refusals import CallFailed
from server.edge.answers import internal_error, log_unforeseen, request_id_of
from server.edge.body import hold_of
from server.edge.headers import only, values
from server.edge.pieces import send_pieces
from server.edge.request_id import current_request_id

_SESSION: Final = b"mcp-session-id"
_MAX_SESSION: Final = 64  # characters
_PASSED_ON: Final = (
    b"authorization",
    b"api-key",
    b"x-api-key",
    b"host",
    b"origin",
)  # who asks, for auth to judge again
_STREAM: Final = "text/event-stream"
_NO_TIMEOUT: Final = httpx.Timeout(None)  # nothing is dialled, and the server has deadlines of its own
_PLACE: Final = Place("This server")

# Who cancels a call must be whom it is of, in the session that it is of: ids of messages are counted by each client.
_Key = tuple[str, str, str, object]
Running = MutableMapping[_Key, anyio.CancelScope]


def prepare() -> None:
    """Have the SDK behave as this server does. May be called again."""
    # It ends every stream the moment a signal arrives; here what is drawn may be finished meanwhile.
    AppStatus.disable_automatic_graceful_drain()
    sdk_log.quieten(lambda error: log_unforeseen(error, current_request_id.get()))


class Exchange(Response):
    """The answer to one message."""

    def __init__(self, body: bytes, message: Mapping[str, Any], running: Running) -> None:
        super().__init__()
        self._whole = body
        self._message = message
        self._running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._message.get("method") == "notifications/cancelled":
            self._cancel(scope)
        manager = StreamableHTTPSessionManager(
            make_server(self._do, files=False),
            stateless=True,
            json_response=not _reads_streams(scope),
            max_request_body_size=len(self._whole) + 1,
        )
        async with manager.run():
            await manager.handle_request(scope, self._again(receive), self._sending(send))

    async def _do(self, name: str, arguments: Mapping[str, Any], tell: Tell, request: Request) -> Answer:
        """Do one call. Raises CallFailed."""
        scope = request.scope
        key = _key(scope, self._message.get("id"))
        with anyio.CancelScope() as cancelling:
            if key is not None:
                self._running[key] = cancelling
            try:
                async with _client(scope) as client:
                    answer = await call(name, arguments, ApiClient(client, _PLACE), tell)
                hold_of(scope).take(answer.size_bytes, owed=True)
                return answer
            except CallFailed:
                raise
            except Exception as error:
                log_unforeseen(error, request_id_of(scope))
                raise CallFailed(internal_error().message) from None
            finally:
                if key is not None and self._running.get(key) is cancelling:
                    del self._running[key]
        raise CallFailed("The call was cancelled.")

    def _cancel(self, scope: Scope) -> None:
        """End the call that this message names, if it goes on here and is the sender's."""
        params = self._message.get("params")
        key = _key(scope, params.get("requestId") if isinstance(params, dict) else None)
        if key is not None and (cancelling := self._running.get(key)) is not None:
            cancelling.cancel()

    def _again(self, receive: Receive) -> Receive:
        """The body, which has been read already, and then whatever comes."""
        left = [self._whole]

        async def next_message() -> Message:
            if left:
                return {"type": "http.request", "body": left.pop(), "more_body": False}
            return await receive()

        return next_message

    def _sending(self, send: Send) -> Send:
        named = self._message.get("method") == "initialize"

        async def next_message(message: Message) -> None:
            if message["type"] == "http.response.body":
                await send_pieces(send, message.get("body", b""), more=message.get("more_body", False))
                return
            if message["type"] == "http.response.start" and named:
                message["headers"] = [*message["headers"], (_SESSION, secrets.token_hex(16).encode())]
            await send(message)

        return next_message


def _client(scope: Scope) -> httpx.AsyncClient:
    """A client of the application around this exchange, which is to it who sent the message."""
    headers = [(name, value) for name, value in scope["headers"] if name in _PASSED_ON]
    headers.append((b"x-request-id", request_id_of(scope).encode()))
    ends = {name: scope[name] for name in ("server", "client") if scope.get(name)}
    return httpx.AsyncClient(
        transport=InProcess(scope["app"], ends), base_url="http://darkroom", headers=headers, timeout=_NO_TIMEOUT
    )


def _key(scope: Scope, id_: object) -> _Key | None:
    session, principal = only(scope, _SESSION), scope["state"]["principal"]
    if session is None or len(session) > _MAX_SESSION or not isinstance(id_, str | int) or isinstance(id_, bool):
        return None
    return principal.id, session, type(id_).__name__, id_


def _reads_streams(scope: Scope) -> bool:
    """Does the client say that it reads streams of events? The SDK refuses one that reads neither."""
    accepted = b",".join(values(scope, b"accept")).decode("latin-1").lower()
    kinds = {kind.partition(";")[0].strip() for kind in accepted.split(",")}
    return bool(kinds & {_STREAM, "text/*", "*/*"})
