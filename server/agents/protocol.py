"""The Model Context Protocol: the tools as its SDK serves them, over whatever transport.

Knows the SDK; knows neither HTTP nor pictures. Whoever serves says how a call is done.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import mcp_types as types
from mcp.server.lowlevel.server import Server

from server import __version__
from server.agents.calls import Answer, Tell
from server.agents.refusals import CallFailed
from server.agents.tools import INSTRUCTIONS, TOOLS, Tool

# Does one call: its name, its arguments, how to tell of progress, and the HTTP request that it came with, if any.
Do = Callable[[str, Mapping[str, Any], Tell, Any], Awaitable[Answer]]


def make_server(do: Do, *, files: bool) -> Server[Any]:
    """A server of the protocol. ``do`` raises CallFailed, and nothing else; ``files``: may files be named?"""

    async def list_tools(context: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_shape(tool, files=files) for tool in TOOLS])

    async def call_tool(context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        try:
            answer = await do(params.name, params.arguments or {}, context.session.report_progress, context.request)
        except CallFailed as failure:
            return types.CallToolResult(content=[types.TextContent(type="text", text=failure.message)], is_error=True)
        return types.CallToolResult(content=_content(answer))

    return Server(
        "darkroom",
        title="Darkroom",
        version=__version__,
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def _shape(tool: Tool, *, files: bool) -> types.Tool:
    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.schema(files=files),
        annotations=types.ToolAnnotations(
            read_only_hint=tool.reads_only,
            destructive_hint=tool.destroys,
            idempotent_hint=tool.reads_only or tool.destroys,
            open_world_hint=False,
        ),
    )


def _content(answer: Answer) -> list[Any]:
    """Words first: where a program shows only the beginning, the URLs are there."""
    text = types.TextContent(type="text", text=answer.text)
    pictures = [
        types.ImageContent(type="image", data=base64.b64encode(shown.data).decode("ascii"), mime_type=shown.mime)
        for shown in answer.pictures
    ]
    return [text, *pictures]
