"""A real MCP client for the tests: PyPI mcp 1.x, which speaks the legacy era only.

    mcp1_client.py URL ERA STEP...

As mcp_client.py, which is for 2.x.
"""

import asyncio
import json
import os
import sys

import httpx
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import McpError


def shown(error: BaseException) -> dict:
    """The innermost cause: task groups wrap what happened in them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, McpError):
        return {"error": {"code": error.error.code, "message": error.error.message, "data": error.error.data}}
    return {"error": {"type": type(error).__name__, "message": str(error)}}


async def connected(url: str, steps: list[str], answers: list) -> None:
    """Connects and takes steps until all are taken, or one ended the connection."""
    headers = {"authorization": f"Bearer {os.environ['AGENTRELAY_API_KEY']}"}
    # trust_env: past any proxy of the environment.
    async with httpx.AsyncClient(headers=headers, trust_env=False, timeout=15) as http:
        async with streamable_http_client(url, http_client=http) as (read, write, _):
            async with ClientSession(read, write) as session:
                hello = await session.initialize()
                if not answers:
                    answers.append({"protocolVersion": hello.protocolVersion})
                while len(answers) <= len(steps):
                    what, *rest = json.loads(steps[len(answers) - 1])
                    asked = session.list_tools() if what == "list" else session.call_tool(*rest)
                    try:
                        answer = await asyncio.wait_for(asked, 10)
                        answers.append(answer.model_dump(mode="json", by_alias=True, exclude_none=True))
                    except McpError as error:
                        answers.append(shown(error))


async def main() -> list:
    url, _, *steps = sys.argv[1:]
    answers = []
    while len(answers) <= len(steps):
        try:
            await connected(url, steps, answers)
        except Exception as error:
            # This line gives up the connection where 2.x reports an error: the next step needs another one.
            answers.append(shown(error))
    return answers


print(json.dumps(asyncio.run(main())))
