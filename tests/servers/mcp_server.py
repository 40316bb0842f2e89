"""An MCP server of PyPI mcp for tests/servers.rs.

Says its port in one line of JSON on stdout, {"port": N}. GET /ran tells what was carried out, in order.
"""

import json
import socket

import uvicorn
from mcp.server.mcpserver import MCPServer
from starlette.responses import JSONResponse
from starlette.routing import Route

server = MCPServer("studio")
ran: list[str] = []


@server.tool()
def search(depth: str = "") -> str:
    """Searches the library."""
    ran.append(f"search {depth}".strip())
    return "found"


@server.tool()
def image_generate() -> str:
    """Draws an image."""
    ran.append("image_generate")
    return "drawn"


@server.resource("docs://{area}/{name}")
def docs(area: str, name: str) -> str:
    """Reads a document."""
    ran.append(f"read {area}/{name}")
    return "text"


@server.resource("docs://private/one")
def private() -> str:
    """Reads the private document."""
    ran.append("read private/one")
    return "text"


def main() -> None:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    app = server.streamable_http_app(json_response=True, stateless_http=True)
    app.routes.append(Route("/ran", lambda _: JSONResponse(ran)))
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


main()
