"""What lighttpd's CGI tells a program of a request, as JSON: its environment, and what a program reads of arguments."""

import json
import os
import sys
from urllib.parse import parse_qs

query = parse_qs(os.environ.get("QUERY_STRING", ""), keep_blank_values=True)
sent = sys.stdin.buffer.read(int(os.environ.get("CONTENT_LENGTH") or 0)).decode("utf-8", "replace")
form = parse_qs(sent, keep_blank_values=True) if "form" in os.environ.get("CONTENT_TYPE", "") else {}
try:
    body = json.loads(sent)
except ValueError:
    body = {}


def read(name: str) -> list[object]:
    given = body.get(name) if isinstance(body, dict) else None
    values = given if isinstance(given, list) else [given] * (given is not None)
    return [*query.get(name, []), *form.get(name, []), *values]


def number(value: object) -> list[float]:
    try:
        return [float(str(value))]
    except ValueError:
        return []


told = dict(os.environ) | {
    "texts": [str(value) for value in read("size")],
    "numbers": [found for value in read("pages") for found in number(value) if abs(found) < 1e300],
    "flags": [str(value).strip().lower() in ("true", "1", "yes", "on") for value in read("deep")],
}
sys.stdout.write("Content-Type: application/json\r\n\r\n" + json.dumps(told))
