"""image-generation-mcp, an MCP server that draws through AUTOMATIC1111's API: run by the Python that has it.

Speaks to it as an agent does. Prints one JSON line: what became of a picture and of one made from it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from mcp import ClientSession, StdioServerParameters  # type: ignore[import-not-found,unused-ignore]
from mcp.client.stdio import stdio_client  # type: ignore[import-not-found,unused-ignore]

OUT = Path(os.environ["OUT"])
COMMAND = Path(sys.executable).with_name("image-generation-mcp")
WAIT_S = 60


async def finished(session: Any, answer: Any) -> dict[str, Any]:
    """Wait for the picture that a tool's answer speaks of."""
    made = json.loads(answer.content[0].text)
    for _ in range(WAIT_S * 2):
        status = await session.call_tool("check_generation_status", {"image_id": made["image_id"]})
        found: dict[str, Any] = json.loads(status.content[0].text)
        if found["status"] != "generating":
            return found
        await asyncio.sleep(0.5)
    return {"status": "still generating"}


async def main() -> None:
    environment = {
        **os.environ,
        "IMAGE_GENERATION_MCP_SD_WEBUI_HOST": os.environ["URL"],
        "IMAGE_GENERATION_MCP_SCRATCH_DIR": str(OUT),
        "IMAGE_GENERATION_MCP_READ_ONLY": "false",
    }
    server = StdioServerParameters(command=str(COMMAND), args=["serve"], env=environment)
    async with stdio_client(server) as (reading, writing), ClientSession(reading, writing) as session:
        await session.initialize()
        listed = await session.call_tool("list_providers", {})
        report: dict[str, Any] = {"providers": "".join(item.text for item in listed.content if item.type == "text")}
        asked = {"prompt": "a red apple", "provider": "sd_webui"}
        report["made"] = await finished(session, await session.call_tool("generate_image", asked))
        changed = {
            "prompt": "a bear",
            "provider": "sd_webui",
            "reference_images": [report["made"]["image_id"]],
            "strength": 0.6,
        }
        report["changed"] = await finished(session, await session.call_tool("transform_image", changed))
    print(json.dumps(report))


if __name__ == "__main__":
    asyncio.run(main())
