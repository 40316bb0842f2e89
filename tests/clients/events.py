"""What the parser of the Python client makes of streams of events; else as events.mjs."""

import base64
import json
import sys

import httpx2

with open(sys.argv[1]) as file:
    streams = json.load(file)


def events(stream: bytes) -> list:
    headers = {"content-type": "text/event-stream"}
    request = httpx2.Request("GET", "http://gate.test/")
    response = httpx2.Response(200, headers=headers, content=stream, request=request)
    return [[event.event, event.id or "", event.data] for event in httpx2.EventSource(response)]


print(json.dumps([events(base64.b64decode(stream)) for stream in streams]))
