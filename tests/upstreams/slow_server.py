"""A real MCP server for the tests, of PyPI mcp, with sessions, whose tools end when they are told to.

Listens on a free port of 127.0.0.1 and says which in one line of JSON on stdout, {"port": N}. image_generate and search wait
for search of "release:NAME" if they are called with "wait:NAME" or "fail:NAME", and then the latter fails; search of "waiting"
says which do. Answers are events, with `json` they are not.
"""

import asyncio
import json
import socket
import sys

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("studio")
waiting: dict[str, asyncio.Event] = {}


async def obey(words: str) -> None:
    what, _, name = words.partition(":")
    if what == "release":
        waiting[name].set()
    if what not in ("wait", "fail"):
        return
    waiting[name] = asyncio.Event()
    await waiting[name].wait()
    del waiting[name]
    if what == "fail":
        raise ToolError("it failed")


@server.tool()
async def image_generate(prompt: str) -> str:
    """Draws an image."""
    await obey(prompt)
    return "an image"


@server.tool()
async def search(query: str) -> str:
    """Searches the library."""
    if query == "waiting":
        return f"waiting: {','.join(waiting)}."
    await obey(query)
    return "found"


def main() -> None:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    app = server.streamable_http_app(json_response="json" in sys.argv)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


main()
