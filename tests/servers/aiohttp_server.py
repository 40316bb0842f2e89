"""A server of PyPI aiohttp for tests/servers.rs: JSON-RPC without an SDK, and a route.

Says its port in one line of JSON on stdout, {"port": N}. GET /ran tells what was carried out, in order.
"""

import asyncio
import json
import math
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

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


def parsed(value: object, parse: Callable[[Any], float]) -> list[float]:
    try:
        return [parse(value)]
    except (TypeError, ValueError, OverflowError):
        return []


async def draw(request: web.Request) -> web.Response:
    """What servers read of arguments, by the ways that are usual."""
    plain = parse_qs(request.query_string, keep_blank_values=True)
    form = await request.post()
    try:
        body = await request.json()
    except ValueError:
        body = {}

    def read(name: str) -> list[object]:
        values = [*request.query.getall(name, []), *plain.get(name, []), *form.getall(name, [])]
        given = body.get(name) if isinstance(body, dict) else None
        return values + (given if isinstance(given, list) else [given] * (given is not None))

    numbers = [number for value in read("pages") for parse in (int, float) for number in parsed(value, parse)]
    return web.json_response({
        "texts": [str(value) for value in read("size")],
        "numbers": [number for number in numbers if math.isfinite(number)],
        "flags": [str(value).strip().lower() in ("true", "1", "yes", "on", "t", "y") for value in read("deep")],
    })


async def told(_: web.Request) -> web.Response:
    return web.json_response(ran)


async def main() -> None:
    app = web.Application()
    app.add_routes([
        web.post("/mcp", message),
        web.post("/api/projects/{project}/trigger", trigger),
        web.route("*", "/draw/{what}", draw),
        web.get("/ran", told),
    ])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
