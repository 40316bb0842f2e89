//! MCP messages as clients of both eras write them.

use crate::Request;
use serde_json::{Value, json};

/// The path of the shipped policy's MCP service.
pub const PATH: &str = "/mcp";
/// The first protocol version that repeats the body in headers.
pub const MODERN: &str = "2026-07-28";

/// A request.
pub fn request(method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
}

/// A notification.
pub fn notification(method: &str) -> Value {
    json!({"jsonrpc": "2.0", "method": method})
}

/// A `tools/call`.
pub fn call(tool: &str, arguments: Value) -> Value {
    request("tools/call", json!({"name": tool, "arguments": arguments}))
}

/// A call of the free read-only tool.
pub fn search() -> Value {
    call("search", json!({"query": "lighthouses"}))
}

/// A call of the priced tool, 5 credits times the quality's factor.
pub fn image(quality: &str) -> Value {
    call("image_generate", json!({"prompt": "a lighthouse", "quality": quality}))
}

/// A `tools/list`.
pub fn list() -> Value {
    request("tools/list", json!({}))
}

/// An `initialize`.
pub fn initialize() -> Value {
    request(
        "initialize",
        json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}),
    )
}

/// The POST that carries a message.
pub fn post(message: &Value) -> Request {
    post_bytes(message.to_string().as_bytes())
}

/// The POST that carries bytes that may be no message.
pub fn post_bytes(body: &[u8]) -> Request {
    Request::post(PATH)
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .body(body)
}

/// A modern message with the headers that repeat it.
pub fn modern(mut message: Value) -> Request {
    message["params"]["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let method = message["method"].as_str().expect("a message has a method").to_owned();
    let request = post(&message).header("mcp-protocol-version", MODERN).header("mcp-method", &method);
    match message["params"]["name"].as_str() {
        Some(name) => request.header("mcp-name", name),
        None => request,
    }
}
