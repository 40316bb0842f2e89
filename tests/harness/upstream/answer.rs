//! What the upstream answers, and how it misbehaves: the words of the request's `x-test` header.
//!
//! | word | what happens |
//! | --- | --- |
//! | `close` | the connection is closed before any answer |
//! | `close-after-headers`, `close-mid-body` | it is closed then |
//! | `raw=B` | these bytes, in base64, in pieces of `size=N`; then `then=close`, `then=reset` or `then=hang` |
//! | `hang` | no answer, until the client leaves |
//! | `delay-ms=N` | the answer comes so much later |
//! | `status=N` | this status |
//! | `is-error`, `rpc-error`, `input-required` | the tool's result says so |
//! | `task`, `legacy-task` | the tool's result is a task, as a server of either era makes one |
//! | `sse` | an answer as events; `sse-open` leaves the stream open, `sse-empty` ends it without the answer |
//! | `fails=TOOL` | calls of this tool end with an error of the tool |
//! | `events=N` | so many notes of 1000 bytes come before it |
//! | `result-of=N` | a GET is answered with the result of the call with this id |
//! | `cost=N`, `usage` | the result says what it cost, and how many LLM tokens it took: 7 and 9 |
//! | `gzip` | the body is compressed |
//! | `chunked`, `trailers` | the body's framing |
//! | `bytes=N` | the result is padded by so much |
//!
//! Each value of `x-test-session` comes back as an `mcp-session-id`.

use super::Seen;
use crate::http1::BEHAVE;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Tools that this server lists; the last two are not in the policy.
pub const TOOLS: [&str; 5] = ["image_generate", "search", "summarize", "unlisted", "Search"];

/// Names the sessions of the answer.
pub const SESSION: &str = "x-test-session";

struct Behaviour(Vec<String>, Vec<Vec<u8>>);

impl Behaviour {
    fn has(&self, word: &str) -> bool {
        self.0.iter().any(|own| own == word)
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }
}

/// Answers. False if the connection must be closed now.
pub(super) async fn answer(stream: &mut TcpStream, seen: &Seen) -> io::Result<bool> {
    let words = seen.all(BEHAVE).join(" ");
    let sessions = seen.headers.iter().filter(|(name, _)| name == SESSION).map(|(_, value)| value.clone());
    let behaviour = Behaviour(words.split([' ', ',']).map(str::to_owned).collect(), sessions.collect());
    if seen.all("upgrade").iter().any(|value| value.eq_ignore_ascii_case("websocket")) {
        return upgrade(stream).await;
    }
    if behaviour.has("close") {
        return Ok(false);
    }
    if let Some(bytes) = behaviour.text("raw") {
        return raw(stream, bytes, &behaviour).await;
    }
    if behaviour.has("hang") {
        // Reading ends when the other side leaves.
        return stream.read(&mut [0]).await.map(|_| false);
    }
    if let Some(delay_ms) = behaviour.number("delay-ms") {
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    }
    let message = serde_json::from_slice::<Value>(&seen.body).unwrap_or_default();
    let is_mcp = seen.target.split('?').next() == Some("/mcp");
    let requests = message.as_array().map(|all| all.iter().filter(|one| one.get("id").is_some()));
    let wants_none = requests.clone().map_or(message.get("id").is_none(), |requests| requests.count() == 0);
    if is_mcp && seen.method == "POST" && wants_none {
        write_head(stream, 202, &[("content-length", "0")], &behaviour.1).await?;
        return Ok(true);
    }
    let mut body = match requests {
        // In another order than requested, as a server may do.
        Some(requests) if is_mcp => requests.rev().map(|one| rpc(one, seen, &behaviour)).collect(),
        _ if is_mcp => rpc(&message, seen, &behaviour),
        _ => seen.echo(),
    };
    if let Some(padding) = behaviour.number("bytes") {
        let place = if is_mcp { &mut body["result"]["_meta"] } else { &mut body["padding"] };
        *place = json!({ "padding": "x".repeat(usize::try_from(padding).unwrap_or(0)) });
    }
    if behaviour.has("usage") && !is_mcp {
        body["usage"] = json!({"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16});
    }
    let status = behaviour.number("status").and_then(|status| u16::try_from(status).ok()).unwrap_or(200);
    if behaviour.has("sse-empty") {
        body = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {}});
    }
    if behaviour.has("sse") || behaviour.has("sse-open") || behaviour.has("sse-empty") {
        return events(stream, status, &body, &behaviour).await;
    }
    let mut bytes = body.to_string().into_bytes();
    let mut headers = vec![("content-type", "application/json")];
    if behaviour.has("gzip") {
        bytes = gzip(&bytes);
        headers.push(("content-encoding", "gzip"));
    }
    whole(stream, status, headers, &bytes, seen.method == "HEAD", &behaviour).await
}

async fn raw(stream: &mut TcpStream, bytes: &str, behaviour: &Behaviour) -> io::Result<bool> {
    let bytes = STANDARD.decode(bytes).expect("a test writes base64");
    let size = behaviour.number("size").and_then(|size| usize::try_from(size).ok()).unwrap_or(usize::MAX);
    for piece in bytes.chunks(size) {
        stream.write_all(piece).await?;
    }
    match behaviour.text("then") {
        Some("hang") => stream.read(&mut [0]).await.map(|_| false),
        Some("reset") => stream.set_zero_linger().map(|()| false),
        Some("close") => Ok(false),
        _ => Ok(true),
    }
}

async fn whole(
    stream: &mut TcpStream,
    status: u16,
    mut headers: Vec<(&str, &str)>,
    bytes: &[u8],
    is_head: bool,
    behaviour: &Behaviour,
) -> io::Result<bool> {
    let length = bytes.len().to_string();
    let is_chunked = behaviour.has("chunked") || behaviour.has("trailers");
    headers.push(if is_chunked { ("transfer-encoding", "chunked") } else { ("content-length", &length) });
    write_head(stream, status, &headers, &behaviour.1).await?;
    if is_head {
        return Ok(true);
    }
    if behaviour.has("close-after-headers") {
        return Ok(false);
    }
    if behaviour.has("close-mid-body") {
        // Sent before the answer to the call.
        stream.write_all(&bytes[..bytes.len().min(10)]).await?;
        return Ok(false);
    }
    if !is_chunked {
        stream.write_all(bytes).await?;
        return Ok(true);
    }
    for chunk in bytes.chunks(7) {
        stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await?;
        stream.write_all(chunk).await?;
        stream.write_all(b"\r\n").await?;
    }
    let end: &[u8] = if behaviour.has("trailers") { b"0\r\nx-checksum: 1\r\n\r\n" } else { b"0\r\n\r\n" };
    stream.write_all(end).await?;
    Ok(true)
}

async fn events(
    stream: &mut TcpStream,
    status: u16,
    body: &Value,
    behaviour: &Behaviour,
) -> io::Result<bool> {
    let headers = [("content-type", "text/event-stream"), ("transfer-encoding", "chunked")];
    write_head(stream, status, &headers, &behaviour.1).await?;
    let note = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}});
    let padded =
        json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "x".repeat(1000)}});
    let padding = behaviour.number("events").unwrap_or(0);
    let notes = (0..padding).map(|_| padded.to_string());
    let answers = body.as_array().cloned().unwrap_or_else(|| vec![body.clone()]);
    let answers = answers.iter().map(Value::to_string);
    for event in notes.chain([note.to_string()]).chain(answers) {
        let event = format!("event: message\ndata: {event}\n\n");
        stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await?;
        stream.flush().await?;
    }
    if behaviour.has("sse-open") {
        return stream.read(&mut [0]).await.map(|_| false);
    }
    stream.write_all(b"0\r\n\r\n").await?;
    Ok(true)
}

/// A JSON-RPC answer. A GET opens a stream on which the server may send anything; a list of tools is the worst case.
fn rpc(message: &Value, seen: &Seen, behaviour: &Behaviour) -> Value {
    let id = message.get("id").cloned().unwrap_or_else(|| json!(1));
    if behaviour.has("rpc-error") {
        return json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32603, "message": "the tool broke"}});
    }
    let method = message.get("method").and_then(Value::as_str).unwrap_or("tools/list");
    if let Some(call) = behaviour.number("result-of") {
        let result = json!({"content": [], "isError": behaviour.has("is-error")});
        return json!({"jsonrpc": "2.0", "id": call, "result": result});
    }
    let result = match method {
        "tools/list" => {
            let tool = |name: &str| json!({"name": name, "inputSchema": {"type": "object"}});
            json!({"tools": TOOLS.map(tool), "ttlMs": 60000, "cacheScope": "public"})
        }
        "tools/call" if behaviour.has("input-required") => {
            json!({"resultType": "input_required", "requestState": "1"})
        }
        "tools/call" if behaviour.has("task") => json!({
            "resultType": "task", "taskId": "t1", "status": "working", "ttlMs": null,
            "createdAt": "2026-11-22T00:00:00Z", "lastUpdatedAt": "2026-11-22T00:00:00Z",
        }),
        "tools/call" if behaviour.has("legacy-task") => json!({"task": {
            "taskId": "t1", "status": "working", "ttl": 60000,
            "createdAt": "2026-11-22T00:00:00Z", "lastUpdatedAt": "2026-11-22T00:00:00Z",
        }}),
        "tasks/get" | "tasks/cancel" => {
            let status = if behaviour.has("is-error") { "failed" } else { "completed" };
            json!({"resultType": "complete", "taskId": "t1", "status": status, "result": {"content": []}})
        }
        "tools/call" => json!({
            "content": [{"type": "text", "text": "done"}],
            "isError": behaviour.has("is-error") || behaviour.text("fails").is_some_and(|tool| message["params"]["name"] == tool),
            "structuredContent": seen.echo(),
            "_meta": meta(behaviour),
        }),
        "initialize" => json!({
            "protocolVersion": "2025-06-18",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "echo", "version": "1"},
        }),
        _ => json!({}),
    };
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

fn meta(behaviour: &Behaviour) -> Value {
    let usage = behaviour.has("usage").then(|| json!({"inputTokens": 7, "outputTokens": 9}));
    json!({"agentrelay/cost": behaviour.number("cost"), "usage": usage})
}

/// Accepts a WebSocket and echoes its bytes, which is enough to see whether they pass.
async fn upgrade(stream: &mut TcpStream) -> io::Result<bool> {
    let headers = [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-accept", "test")];
    write_head(stream, 101, &headers, &[]).await?;
    let mut buffer = [0; 1024];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok(false);
        }
        stream.write_all(&buffer[..length]).await?;
    }
}

async fn write_head(
    stream: &mut TcpStream,
    status: u16,
    headers: &[(&str, &str)],
    sessions: &[Vec<u8>],
) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {status} Status\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut head = head.into_bytes();
    for session in sessions {
        head.extend_from_slice(&[b"mcp-session-id: ", session.as_slice(), b"\r\n"].concat());
    }
    head.extend_from_slice(b"\r\n");
    stream.write_all(&head).await
}

/// A gzip file with stored bytes: every client reads it, and no compressor is needed.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("a stored block holds 64 KiB");
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    file.extend_from_slice(&length.to_le_bytes());
    file.extend_from_slice(&(!length).to_le_bytes());
    file.extend_from_slice(bytes);
    file.extend_from_slice(&crc32fast::hash(bytes).to_le_bytes());
    file.extend_from_slice(&u32::from(length).to_le_bytes());
    file
}
