"""The server that the MCP conformance suite wants to talk to: every tool, prompt and resource that its scenarios name.

PyPI mcp, streamable HTTP, both eras, sessions in the legacy one. Listens on a free port of 127.0.0.1 and says which in
one line of JSON on stdout, {"port": N}. What it answers follows the descriptions of the scenarios.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import socket
import struct
import zlib

import mcp_types as types
import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, PromptsListChanged, ToolsListChanged
from mcp.shared.exceptions import MCPError

CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
CACHE = {"ttlMs": 60000, "cacheScope": "public"}
bus = InMemorySubscriptionBus()


def png() -> str:
    """One red pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    picture = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\xff\0\0")) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + picture).decode()


def wav() -> str:
    """One silent sample."""
    form = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16) + b"data" + struct.pack("<I", 2)
    return base64.b64encode(b"RIFF" + struct.pack("<I", len(form) + 2) + form + b"\0\0").decode()


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def image() -> dict:
    return {"type": "image", "data": png(), "mimeType": "image/png"}


def embedded(uri: str, words: str, mime_type: str = "text/plain") -> dict:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime_type, "text": words}}


# Results that are asked for: what a round needs, and what it says about the rounds before.

SEAL = secrets.token_bytes(32)


def sealed(state: str) -> str:
    return state + "." + hmac.new(SEAL, state.encode(), hashlib.sha256).hexdigest()


def unsealed(sealed_state: str | None) -> str | None:
    if sealed_state is None:
        return None
    state = sealed_state.rpartition(".")[0]
    if not hmac.compare_digest(sealed(state), sealed_state):
        raise MCPError(code=-32602, message="requestState is not what this server gave")
    return state


def form(message: str, name: str, kind: str = "string") -> dict:
    schema = {"type": "object", "properties": {name: {"type": kind}}, "required": [name]}
    return {"method": "elicitation/create", "params": {"message": message, "requestedSchema": schema}}


def sample(words: str) -> dict:
    messages = [{"role": "user", "content": text(words)}]
    return {"method": "sampling/createMessage", "params": {"messages": messages, "maxTokens": 100}}


ROOTS = {"method": "roots/list", "params": {}}


def required(requests: dict, state: str | None = None) -> types.InputRequiredResult:
    wanted = {"resultType": "input_required", "inputRequests": requests}
    if state is not None:
        wanted["requestState"] = sealed(state)
    return types.InputRequiredResult.model_validate(wanted)


def answered(params, *names: str) -> bool:
    responses = params.input_responses or {}
    return all(name in responses for name in names)


def done(words: str) -> types.CallToolResult:
    return types.CallToolResult.model_validate({"content": [text(words)]})


def asks_name(params):
    return done("Hello!") if answered(params, "user_name") else required({"user_name": form("What is your name?", "name")})


def asks_sample(params):
    question = {"capital_question": sample("What is the capital of France?")}
    return done("Paris it is.") if answered(params, "capital_question") else required(question)


def asks_roots(params):
    return done("Those roots.") if answered(params, "client_roots") else required({"client_roots": ROOTS})


def keeps_state(params):
    if unsealed(params.request_state) == "confirming" and answered(params, "confirm"):
        return done("state-ok")
    return required({"confirm": form("Please confirm", "ok", "boolean")}, "confirming")


def asks_three(params):
    requests = {"user_name": form("What is your name?", "name"), "greeting": sample("Greet me"), "client_roots": ROOTS}
    return done("All three.") if answered(params, *requests) else required(requests, "three")


def asks_twice(params):
    match unsealed(params.request_state):
        case "first" if answered(params, "step1"):
            return required({"step2": form("What is your favorite color?", "color")}, "second")
        case "second" if answered(params, "step2"):
            return done("Both steps.")
    return required({"step1": form("What is your name?", "name")}, "first")


def asks_what_the_client_can(params):
    declared = (params.meta or {}).get(CAPABILITIES) or {}
    requests = {}
    if "sampling" in declared:
        requests["greeting"] = sample("Greet me")
    if "elicitation" in declared:
        requests["user_name"] = form("What is your name?", "name")
    return done("Thank you.") if answered(params, *requests) else required(requests)


INPUT = {
    "test_input_required_result_elicitation": asks_name,
    "test_input_required_result_sampling": asks_sample,
    "test_input_required_result_list_roots": asks_roots,
    "test_input_required_result_request_state": keeps_state,
    "test_input_required_result_multiple_inputs": asks_three,
    "test_input_required_result_multi_round": asks_twice,
    "test_input_required_result_tampered_state": keeps_state,
    "test_input_required_result_capabilities": asks_what_the_client_can,
}

# Tools that answer at once.

CONTENT = {
    "test_simple_text": [text("This is a simple text response for testing.")],
    "test_image_content": [image()],
    "test_audio_content": [{"type": "audio", "data": wav(), "mimeType": "audio/wav"}],
    "test_embedded_resource": [embedded("test://embedded-resource", "This is an embedded resource content.")],
    "test_multiple_content_types": [
        text("Multiple content types test:"),
        image(),
        embedded("test://mixed-content-resource", '{"test":"data","value":123}', "application/json"),
    ],
    "test_logging_tool": [text("Nothing was logged.")],
    "test_streaming_elicitation": [text("Nothing was asked.")],
}

# Tools that talk to the client while they run.


def choice(*names: str) -> list[dict]:
    return [{"const": name, "title": name.title()} for name in names]


OPTIONS = ["option1", "option2", "option3"]
DEFAULTS = {
    "name": {"type": "string", "default": "John Doe"},
    "age": {"type": "integer", "default": 30},
    "score": {"type": "number", "default": 95.5},
    "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
    "verified": {"type": "boolean", "default": True},
}
ENUMS = {
    "untitledSingle": {"type": "string", "enum": OPTIONS},
    "titledSingle": {"type": "string", "oneOf": choice("value1", "value2", "value3")},
    "legacyEnum": {"type": "string", "enum": ["opt1", "opt2"], "enumNames": ["Option One", "Option Two"]},
    "untitledMulti": {"type": "array", "items": {"type": "string", "enum": OPTIONS}},
    "titledMulti": {"type": "array", "items": {"anyOf": choice("value1", "value2", "value3")}},
}


async def elicit(ctx, message: str, properties: dict) -> types.CallToolResult:
    answer = await ctx.session.elicit_form(message, {"type": "object", "properties": properties}, ctx.request_id)
    return done(f"Elicitation completed: action={answer.action}, content={json.dumps(answer.content)}")


async def talk(ctx, params) -> types.CallToolResult | None:
    arguments = params.arguments or {}
    match params.name:
        case "test_tool_with_logging":
            for words in ("Tool execution started", "Tool processing data", "Tool execution completed"):
                await ctx.session.send_log_message("info", words, related_request_id=ctx.request_id)
                await asyncio.sleep(0.05)
            return done("Logged.")
        case "test_tool_with_progress":
            for progress in (0, 50, 100):
                await ctx.session.report_progress(progress, 100, f"Completed step {progress} of 100")
                await asyncio.sleep(0.05)
            return done("Progressed.")
        case "test_sampling":
            messages = [types.SamplingMessage(role="user", content=types.TextContent(text=arguments["prompt"]))]
            answer = await ctx.session.create_message(messages, max_tokens=100, related_request_id=ctx.request_id)
            return done(f"LLM response: {answer.content.text}")
        case "test_elicitation":
            return await elicit(ctx, arguments["message"], {"response": {"type": "string"}})
        case "test_elicitation_sep1034_defaults":
            return await elicit(ctx, "Please review", DEFAULTS)
        case "test_elicitation_sep1330_enums":
            return await elicit(ctx, "Please choose", ENUMS)
        case "test_missing_capability":
            if "sampling" not in ((params.meta or {}).get(CAPABILITIES) or {}):
                needed = {"requiredCapabilities": {"sampling": {}}}
                raise MCPError(code=-32021, message="this tool needs sampling", data=needed)
            return done("Sampled.")
        case "test_trigger_tool_change":
            await bus.publish(ToolsListChanged())
            return done("Told.")
        case "test_trigger_prompt_change":
            await bus.publish(PromptsListChanged())
            return done("Told.")
    return None


TALKING = {
    "test_tool_with_logging": {},
    "test_tool_with_progress": {},
    "test_sampling": {"prompt": {"type": "string"}},
    "test_elicitation": {"message": {"type": "string"}},
    "test_elicitation_sep1034_defaults": {},
    "test_elicitation_sep1330_enums": {},
    "test_missing_capability": {},
    "test_trigger_tool_change": {},
    "test_trigger_prompt_change": {},
}
TOOLS = {**dict.fromkeys([*CONTENT, *INPUT, "test_error_handling"], {}), **TALKING}

# Schemas that must come through whole.

CONTACT = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {"address": {"$anchor": "addressDef", "type": "object", "properties": {"street": {"type": "string"}}}},
    "properties": {"address": {"$ref": "#/$defs/address"}, "phone": {"type": "string"}, "email": {"type": "string"}},
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"required": ["phone"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}
REGION = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
SCHEMAS = {"json_schema_2020_12_tool": CONTACT, "test_custom_headers": REGION}


async def list_tools(ctx, params):
    schemas = {name: {"type": "object", "properties": properties} for name, properties in TOOLS.items()} | SCHEMAS
    tools = [{"name": name, "description": name, "inputSchema": schema} for name, schema in schemas.items()]
    return types.ListToolsResult.model_validate({"tools": tools, **CACHE})


async def call_tool(ctx, params):
    if params.name in CONTENT:
        return types.CallToolResult.model_validate({"content": CONTENT[params.name]})
    if params.name in SCHEMAS:
        return done("Understood.")
    if params.name in INPUT:
        return INPUT[params.name](params)
    if params.name == "test_error_handling":
        words = text("This tool intentionally returns an error for testing")
        return types.CallToolResult.model_validate({"content": [words], "isError": True})
    answer = await talk(ctx, params)
    if answer is None:
        raise MCPError(code=-32602, message=f"Unknown tool: {params.name}")
    return answer


RESOURCES = {
    "test://static-text": {"mimeType": "text/plain", "text": "This is the content of the static text resource."},
    "test://static-binary": {"mimeType": "image/png", "blob": png()},
    "test://watched-resource": {"mimeType": "text/plain", "text": "Watched resource content."},
}


async def list_resources(ctx, params):
    resources = [{"uri": uri, "name": uri, "mimeType": kept["mimeType"]} for uri, kept in RESOURCES.items()]
    return types.ListResourcesResult.model_validate({"resources": resources, **CACHE})


async def list_templates(ctx, params):
    template = {"uriTemplate": "test://template/{id}/data", "name": "template", "mimeType": "application/json"}
    return types.ListResourceTemplatesResult.model_validate({"resourceTemplates": [template], **CACHE})


async def read_resource(ctx, params):
    uri = str(params.uri)
    found = RESOURCES.get(uri)
    if uri.startswith("test://template/") and uri.endswith("/data"):
        name = uri.split("/")[3]
        found = {"mimeType": "application/json", "text": json.dumps({"id": name, "templateTest": True})}
    if found is None:
        raise MCPError(code=-32602, message="Resource not found", data={"uri": uri})
    return types.ReadResourceResult.model_validate({"contents": [{"uri": uri, **found}], **CACHE})


PROMPTS = {
    "test_simple_prompt": [],
    "test_prompt_with_arguments": ["arg1", "arg2"],
    "test_prompt_with_embedded_resource": ["resourceUri"],
    "test_prompt_with_image": [],
    "test_input_required_result_prompt": [],
}


async def list_prompts(ctx, params):
    prompts = [
        {"name": name, "description": name, "arguments": [{"name": own, "required": True} for own in arguments]}
        for name, arguments in PROMPTS.items()
    ]
    return types.ListPromptsResult.model_validate({"prompts": prompts, **CACHE})


async def get_prompt(ctx, params):
    arguments = params.arguments or {}
    match params.name:
        case "test_simple_prompt":
            contents = [text("This is a simple prompt for testing.")]
        case "test_prompt_with_arguments":
            contents = [text(f"Prompt with arguments: arg1='{arguments['arg1']}', arg2='{arguments['arg2']}'")]
        case "test_prompt_with_embedded_resource":
            contents = [embedded(arguments["resourceUri"], "Embedded resource content."), text("Please process it.")]
        case "test_prompt_with_image":
            contents = [image(), text("Please analyze the image above.")]
        case "test_input_required_result_prompt":
            if not answered(params, "user_context"):
                return required({"user_context": form("What context should the prompt use?", "context")})
            contents = [text("With that context.")]
        case _:
            raise MCPError(code=-32602, message="Unknown prompt")
    messages = [{"role": "user", "content": content} for content in contents]
    return types.GetPromptResult.model_validate({"messages": messages})


async def nothing(ctx, params):
    return types.EmptyResult()


async def complete(ctx, params):
    return types.CompleteResult.model_validate({"completion": {"values": [], "total": 0, "hasMore": False}})


server = Server(
    "fixture",
    version="1.0.0",
    on_list_tools=list_tools,
    on_call_tool=call_tool,
    on_list_resources=list_resources,
    on_list_resource_templates=list_templates,
    on_read_resource=read_resource,
    on_subscribe_resource=nothing,
    on_unsubscribe_resource=nothing,
    on_subscriptions_listen=ListenHandler(bus),
    on_list_prompts=list_prompts,
    on_get_prompt=get_prompt,
    on_completion=complete,
    on_set_logging_level=nothing,
)


def main() -> None:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    uvicorn.Server(uvicorn.Config(server.streamable_http_app(), log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    main()
