"""A server of PyPI aiohttp for tests/servers.rs: JSON-RPC without an SDK, and a route.

Says its port in one line of JSON on stdout, {"port": N}. GET /ran tells what was carried out, in order.
"""

import asyncio
import json

from aiohttp import web

ran: list[str] = []


async def message(request: web.Request) -> web.Response:
    body = await request.json()
    params = body.get("params") or {}
    if body.get("method") == "tools/call":
        depth = (params.get("arguments") or {}).get("depth") or ""
        ran.append(f"{params.get('name')} {depth}".strip())
    return web.json_response({"jsonrpc": "2.0", "id": body.get("id"), "result": {}})


async def trigger(request: web.Request) -> web.Response:
    ran.append(f"trigger {request.match_info['project']}")
    return web.json_response({})


async def told(_: web.Request) -> web.Response:
    return web.json_response(ran)


async def main() -> None:
    app = web.Application()
    app.add_routes([
        web.post("/mcp", message),
        web.post("/api/projects/{project}/trigger", trigger),
        web.get("/ran", told),
    ])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
