"""An MCP server that knows nothing of the gate, of PyPI mcp: what an operator has, for tests/first_hour.

Listens on a free port of 127.0.0.1 and says which in one line of JSON on stdout, {"port": N}.
"""

import json
import socket

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp_types import ToolAnnotations

server = MCPServer("Office tools", instructions="Tools of the office, for 1-20 credits a call.")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.tool(annotations=ToolAnnotations(destructive_hint=False, open_world_hint=False))
def report(title: str) -> str:
    """Writes a report. Costs 5 credits."""
    return f"{title} is written"


@server.tool(annotations=ToolAnnotations(destructive_hint=True))
def wipe() -> str:
    """Removes all reports."""
    return "all is gone"


@server.tool()
def notify(text: str) -> str:
    """Sends a text to somebody."""
    return f"sent {text}"


def main() -> None:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    app = server.streamable_http_app()
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


main()
