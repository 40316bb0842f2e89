//! Messages that can be read in two ways, are not messages, or are several.

use super::caller;
use harness::{Agent, Gate, Request, Response, mcp, run};
use serde_json::json;

/// Sends a body as an MCP message; it must be refused with this JSON-RPC code and not reach the upstream.
async fn assert_no_message(gate: &Gate, agent: &Agent, what: &str, body: &[u8], code: i64) -> Response {
    let refused = agent.send(mcp::post_bytes(body)).await;
    assert_eq!(refused.status, 400, "{what}: {refused:?}");
    refused.assert_refused(400, "invalid_request");
    assert_eq!(refused.code(), Some(code), "{what}: {refused:?}");
    gate.assert_unseen(&refused.marker);
    refused
}

#[test]
fn json_that_can_be_read_in_two_ways_is_refused() {
    run(async {
        let gate = Gate::shared().await;
        let agent = caller(gate).await;
        let deep = |levels: usize| {
            let (open, close) = ("[".repeat(levels), "]".repeat(levels));
            format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"search","arguments":{{"q":{open}{close}}}}}}}"#
            )
        };
        let utf16 =
            |text: &str, bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
        let message = mcp::search().to_string();
        let mut invalid_utf8 = message.clone().into_bytes();
        let place = invalid_utf8.windows(11).position(|bytes| bytes == b"lighthouses").unwrap();
        invalid_utf8[place] = 0xff;
        let cases: Vec<(&str, Vec<u8>)> = vec![
            ("empty", b"".to_vec()),
            ("blank", b"  \n".to_vec()),
            ("no JSON", b"hello".to_vec()),
            ("half", message.as_bytes()[..message.len() - 1].to_vec()),
            ("two values", format!("{message}{message}").into_bytes()),
            ("rubbish after it", format!("{message}x").into_bytes()),
            ("NUL after it", format!("{message}\0").into_bytes()),
            ("method twice", br#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call","params":{"name":"unlisted"}}"#.to_vec()),
            ("name twice", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","name":"unlisted"}}"#.to_vec()),
            ("name twice by escape", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","n\u0061me":"unlisted"}}"#.to_vec()),
            ("params twice", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search"},"params":{"name":"unlisted"}}"#.to_vec()),
            ("params in other case", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search"},"Params":{"name":"unlisted"}}"#.to_vec()),
            ("name in other case", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","NAME":"unlisted"}}"#.to_vec()),
            ("quality twice", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"image_generate","arguments":{"quality":"standard","quality":"ultra_plus"}}}"#.to_vec()),
            ("deep", deep(65).into_bytes()),
            ("very deep", deep(100_000).into_bytes()),
            ("deep and never closed", vec![b'['; 500_000]),
            ("BOM", format!("\u{feff}{message}").into_bytes()),
            ("UTF-16 LE", utf16(&message, u16::to_le_bytes)),
            ("UTF-16 BE", utf16(&message, u16::to_be_bytes)),
            ("UTF-16 with BOM", [vec![0xff, 0xfe], utf16(&message, u16::to_le_bytes)].concat()),
            ("UTF-32", message.bytes().flat_map(|byte| [byte, 0, 0, 0]).collect()),
            ("invalid UTF-8", invalid_utf8),
            ("overlong UTF-8", message.replace("lighthouses", "\u{1}").into_bytes().iter().flat_map(|byte| if *byte == 1 { vec![0xc0, 0x80] } else { vec![*byte] }).collect()),
            ("lone surrogate", message.replace("lighthouses", "\\ud800").into_bytes()),
            ("number beyond floats", message.replace("\"lighthouses\"", "1e999").into_bytes()),
            ("NaN", message.replace("\"lighthouses\"", "NaN").into_bytes()),
            ("single quotes", message.replace('"', "'").into_bytes()),
            ("a comment", format!("/* */{message}").into_bytes()),
            ("trailing comma", message.replacen('}', ",}", 1).into_bytes()),
            ("control character in a string", message.replace("lighthouses", "light\nhouses").into_bytes()),
        ];
        for (what, body) in &cases {
            assert_no_message(gate, &agent, what, body, -32700).await;
        }
        gate.assert_serving(&agent).await;
        assert_eq!(gate.settled(&agent).await.available.get(), 1000);
    });
}

#[test]
fn messages_of_wrong_types_are_refused() {
    run(async {
        let gate = Gate::shared().await;
        let agent = caller(gate).await;
        let cases = [
            (json!("tools/call"), -32600),
            (json!(1), -32600),
            (json!(null), -32600),
            (json!({}), -32600),
            (json!({"jsonrpc": "1.0", "id": 1, "method": "ping"}), -32600),
            (json!({"jsonrpc": 2.0, "id": 1, "method": "ping"}), -32600),
            (json!({"id": 1, "method": "ping"}), -32600),
            (json!({"jsonrpc": "2.0", "id": {}, "method": "ping"}), -32600),
            (json!({"jsonrpc": "2.0", "id": [1], "method": "ping"}), -32600),
            (json!({"jsonrpc": "2.0", "id": 1.5, "method": "ping"}), -32600),
            (json!({"jsonrpc": "2.0", "id": true, "method": "ping"}), -32600),
            (json!({"jsonrpc": "2.0", "id": null, "method": "ping"}), -32600),
            (json!({"jsonrpc": "2.0", "id": "x".repeat(300), "method": "ping"}), -32600),
            (json!({"jsonrpc": "2.0", "id": 1, "method": 7}), -32600),
            (json!({"jsonrpc": "2.0", "id": 1, "method": ["tools/call"]}), -32600),
            (json!({"jsonrpc": "2.0", "id": 1, "method": ""}), -32600),
            (json!({"jsonrpc": "2.0", "id": 1, "method": "x".repeat(200)}), -32600),
            (json!({"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "search"}}), -32600),
            (json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "result": {}}), -32600),
            (json!({"jsonrpc": "2.0", "id": 1, "result": {}, "error": {}}), -32600),
            (json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call"}), -32602),
            (json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": ["search"]}), -32602),
            (json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {}}), -32602),
            (json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": 5}}), -32600),
            (
                json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": ["search"]}}),
                -32600,
            ),
            (
                json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": {"x": 1}}}),
                -32600,
            ),
            (
                json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "search", "arguments": []}}),
                -32602,
            ),
            (
                json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "search", "arguments": "x"}}),
                -32602,
            ),
        ];
        for (message, code) in cases {
            let body = message.to_string();
            assert_no_message(gate, &agent, &body, body.as_bytes(), code).await;
        }
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn a_refusal_echoes_the_id_exactly() {
    run(async {
        let gate = Gate::shared().await;
        let agent = caller(gate).await;
        for id in
            ["0", "-1", "\"\"", "\"a \\u00e9 \\\" b\"", "123456789012345678901234567890", "9007199254740993"]
        {
            let body = format!(
                r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"unlisted"}}}}"#
            );
            let refused = agent.send(mcp::post_bytes(body.as_bytes())).await;
            refused.assert_refused(404, "unknown_tool");
            assert!(refused.text().contains(&format!("\"id\":{id},")), "{id}: {refused:?}");
            gate.assert_unseen(&refused.marker);
        }
        let refused = assert_no_message(gate, &agent, "no id", b"{", -32700).await;
        assert!(refused.json()["id"].is_null(), "{refused:?}");
    });
}

#[test]
fn an_invalid_batch_or_one_of_another_version_is_refused_as_a_whole() {
    run(async {
        let gate = Gate::shared().await;
        let agent = caller(gate).await;
        let many: Vec<serde_json::Value> =
            (0..33).map(|id| json!({"jsonrpc": "2.0", "id": id, "method": "ping"})).collect();
        for batch in [json!([]), json!([mcp::search(), mcp::search()]), json!(many)] {
            assert_no_message(gate, &agent, "a batch", batch.to_string().as_bytes(), -32600).await;
            assert_no_message(gate, &agent, "after blanks", format!(" \r\n\t{batch}").as_bytes(), -32600)
                .await;
        }
        for version in ["2025-06-18", "2025-11-25", mcp::MODERN] {
            let request = mcp::post(&json!([mcp::search()])).header("mcp-protocol-version", version);
            let refused = agent.send(request).await;
            assert_eq!((refused.status, refused.code()), (400, Some(-32600)), "{version}");
            gate.assert_unseen(&refused.marker);
        }
        assert_eq!(gate.settled(&agent).await.available.get(), 1000);
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn headers_that_differ_from_the_body_are_refused() {
    run(async {
        let gate = Gate::shared().await;
        let agent = caller(gate).await;
        let call = || mcp::modern(mcp::search());
        let cases: Vec<(&str, Request)> = vec![
            ("another name", call().without("mcp-name").header("mcp-name", "summarize")),
            ("other case", call().without("mcp-name").header("mcp-name", "Search")),
            ("no name", call().without("mcp-name")),
            ("an empty name", call().without("mcp-name").header("mcp-name", "")),
            ("the name twice", call().header("mcp-name", "search")),
            ("a second name", call().header("mcp-name", "unlisted")),
            ("names joined", call().without("mcp-name").header("mcp-name", "search, search")),
            ("another method", call().without("mcp-method").header("mcp-method", "tools/list")),
            ("no method", call().without("mcp-method")),
            ("the method twice", call().header("mcp-method", "tools/call")),
            (
                "another version",
                call().without("mcp-protocol-version").header("mcp-protocol-version", "2026-08-01"),
            ),
            ("the version twice", call().header("mcp-protocol-version", mcp::MODERN)),
            (
                "base64 of another name",
                call().without("mcp-name").header("mcp-name", "=?base64?c3VtbWFyaXpl?="),
            ),
            ("base64 that is none", call().without("mcp-name").header("mcp-name", "=?base64?!!?=")),
            ("bytes", call().without("mcp-name").header("mcp-name", b"search\xff")),
            ("a legacy body with a wrong name", mcp::post(&mcp::search()).header("mcp-name", "summarize")),
            ("a legacy body with a wrong method", mcp::post(&mcp::search()).header("mcp-method", "ping")),
        ];
        for (what, request) in cases {
            let refused = agent.send(request).await;
            assert_eq!(refused.status, 400, "{what}: {refused:?}");
            assert_eq!(refused.code(), Some(-32020), "{what}: {refused:?}");
            gate.assert_unseen(&refused.marker);
        }
        agent.send(call()).await.assert_allowed();
        let base64 = call().without("mcp-name").header("mcp-name", "=?base64?c2VhcmNo?=");
        agent.send(base64).await.assert_allowed();
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn a_body_in_another_encoding_is_refused() {
    run(async {
        let gate = Gate::shared().await;
        let agent = caller(gate).await;
        let body = mcp::search().to_string();
        let post = |name: &str, value: &str| {
            let request = Request::post("/mcp").header(name, value).body(body.as_bytes());
            if name == "content-type" { request } else { request.header("content-type", "application/json") }
        };
        for (name, value) in [
            ("content-encoding", "gzip"),
            ("content-encoding", "deflate"),
            ("content-encoding", "br"),
            ("content-encoding", "identity, gzip"),
            ("content-type", "application/json; charset=utf-16"),
            ("content-type", "application/json; charset=\"utf-7\""),
            ("content-type", "application/json;charset=latin1"),
            ("content-type", "application/json; Charset=UTF-16LE"),
        ] {
            let refused = agent.send(post(name, value)).await;
            refused.assert_refused(400, "invalid_request");
            gate.assert_unseen(&refused.marker);
        }
        agent.send(post("content-type", "application/json; charset=UTF-8")).await.assert_allowed();
        gate.assert_serving(&agent).await;
    });
}
