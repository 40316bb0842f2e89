"""A real MCP server for the tests and for scripts/run: PyPI mcp, streamable HTTP, both eras.

Listens on a free port of 127.0.0.1 and says which in one line of JSON on stdout, {"port": N}. A prompt that starts
with "fail:" makes image_generate fail in that way, so that a refund can be seen. Answers are JSON, with --sse events. With --sessions it keeps the sessions that
clients of the legacy era begin.
"""

import json
import socket
import sys

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError

server = MCPServer("studio")


@server.tool()
def image_generate(prompt: str, quality: str = "standard") -> str:
    """Draws an image."""
    if prompt == "fail:tool":
        raise ToolError("the image could not be drawn")
    if prompt == "fail:protocol":
        raise MCPError(code=-32603, message="the image server is confused")
    return f"{quality} image of {prompt}"


@server.tool()
def search(query: str) -> str:
    """Searches the library."""
    return f"3 results for {query}"


@server.tool()
def summarize(text: str) -> str:
    """Says it in fewer words."""
    return text[:40]


@server.tool()
def unlisted(text: str = "") -> str:
    """Exists here, but no policy names it."""
    return f"reached with {text}"


def main() -> None:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    app = server.streamable_http_app(
        json_response="--sse" not in sys.argv, stateless_http="--sessions" not in sys.argv
    )
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    main()
