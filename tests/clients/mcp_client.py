"""A real MCP client for the tests: PyPI mcp, streamable HTTP, either era.

    mcp_client.py URL MODE STEP...

MODE is `legacy`, `auto` or a protocol version; the api key is in AGENTRELAY_API_KEY. A step is JSON, ["list"] or
["call", NAME, ARGUMENTS]. Prints one JSON list: the protocol version, then an answer for each step, which is what the
server sent, or {"error": ...} with what the application would see.
"""

import asyncio
import json
import os
import sys

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError


def shown(error: BaseException) -> dict:
    """The innermost cause: task groups wrap what happened in them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, MCPError):
        return {"error": {"code": error.error.code, "message": error.error.message, "data": error.error.data}}
    return {"error": {"type": type(error).__name__, "message": str(error)}}


async def step(client: Client, text: str) -> dict:
    what, *rest = json.loads(text)
    try:
        answer = await (client.list_tools() if what == "list" else client.call_tool(*rest))
    except Exception as error:
        return shown(error)
    return answer.model_dump(mode="json", by_alias=True, exclude_none=True)


async def main() -> list:
    url, mode, *steps = sys.argv[1:]
    headers = {"authorization": f"Bearer {os.environ['AGENTRELAY_API_KEY']}"}
    answers = []
    try:
        # trust_env: past any proxy of the environment.
        async with httpx2.AsyncClient(headers=headers, trust_env=False, timeout=15) as http:
            async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
                answers.append({"protocolVersion": client.protocol_version})
                for text in steps:
                    answers.append(await step(client, text))
    except Exception as error:
        answers.append(shown(error))
    return answers


print(json.dumps(asyncio.run(main())))
