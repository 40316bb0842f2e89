"""The server of mcp_server.py as frameworks mount it: below /mcp, so that it is at /mcp/ and /mcp answers 307."""

import json
import socket
from contextlib import asynccontextmanager

import uvicorn
from mcp_server import server
from starlette.applications import Starlette
from starlette.routing import Mount

mounted = server.streamable_http_app(streamable_http_path="/", json_response=True, stateless_http=True)


@asynccontextmanager
async def lifespan(_: Starlette):
    async with server.session_manager.run():
        yield


listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen(128)
print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
app = Starlette(routes=[Mount("/mcp", mounted)], lifespan=lifespan)
uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
