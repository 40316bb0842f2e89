//! What a hostile client must not manage. Each case ends in the right refusal, nothing of it reaches the upstream, the
//! gate stays alive, and the next valid request is served.

use harness::agent::{NewKey, unknown_secret};
use harness::clock::eventually;
use harness::gate::at_once;
use harness::http1::Connection;
use harness::http2::Http2;
use harness::{Agent, Gate, Request, Response, mcp, policy, run, stats};
use serde_json::json;
use std::time::Duration;

async fn caller(gate: &Gate) -> Agent {
    gate.agent("enterprise").await
}

/// Sends a body as an MCP message; it must be refused with this JSON-RPC code and reach nobody.
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
            ("trailing comma", message.replace("}}}", "},}}").into_bytes()),
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
fn a_batch_is_refused_as_a_whole() {
    run(async {
        let gate = Gate::shared().await;
        let agent = caller(gate).await;
        for batch in [
            json!([]),
            json!([mcp::search()]),
            json!([mcp::search(), mcp::call("unlisted", json!({}))]),
            json!([mcp::image("standard"), mcp::image("ultra_plus")]),
            json!([[mcp::search()]]),
        ] {
            assert_no_message(gate, &agent, "a batch", batch.to_string().as_bytes(), -32600).await;
            assert_no_message(gate, &agent, "after blanks", format!(" \r\n\t{batch}").as_bytes(), -32600)
                .await;
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

#[test]
fn header_bytes_that_are_no_text_do_no_harm() {
    run(async {
        let gate = Gate::shared().await;
        let agent = caller(gate).await;
        // As a credential, or beside one.
        for value in [b"Bearer \xff\xfe".as_slice(), b"\xff", b"Bearer ark_\xc3\x28", b"\x80Bearer x"] {
            for name in ["authorization", "x-api-key"] {
                let refused = gate.send(mcp::post(&mcp::search()).header(name, value)).await;
                refused.assert_refused(401, "auth_denied");
                gate.assert_unseen(&refused.marker);
            }
        }
        for name in
            ["x-custom", "user-agent", "accept", "cookie", "x-request-id", "upgrade-insecure-requests"]
        {
            let response = agent.send(mcp::post(&mcp::search()).header(name, b"\xff\xfe\x80")).await;
            assert_eq!(response.status, 200, "{name}: {response:?}");
            gate.upstream.the_one(&response.marker);
        }
        for name in ["content-type", "content-encoding", "mcp-protocol-version", "mcp-method"] {
            let request = mcp::post(&mcp::search()).without("content-type").header(name, b"\xff\xfe");
            let response = agent.send(request).await;
            assert!(matches!(response.status, 200 | 400), "{name}: {response:?}");
            assert!(response.status == 200 || gate.upstream.seen(&response.marker).is_empty());
        }
        let spoofed = agent
            .post(&mcp::search())
            .header("x-agentrelay-key-id", b"\xff")
            .header("x-agentrelay-\u{e9}", "1");
        let response = spoofed.try_send(gate.address).await.unwrap();
        for seen in gate.upstream.seen(&response.marker) {
            assert_eq!(seen.header("x-agentrelay-key-id").as_deref(), Some(agent.key.as_str()));
        }
        let host = agent.post(&mcp::search()).header("host", b"gate\xff");
        let response = host.try_send(gate.address).await.unwrap();
        assert!(matches!(response.status, 200 | 400), "{response:?}");
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn giant_headers_are_refused() {
    run(async {
        let gate = Gate::shared().await;
        let agent = caller(gate).await;
        let giant = "x".repeat(70_000);
        let large = "x".repeat(40_000);
        for (name, value) in [
            ("authorization", format!("Bearer {giant}")),
            ("x-api-key", giant.clone()),
            ("x-custom", giant.clone()),
        ] {
            let refused = gate.send(mcp::post(&mcp::search()).header(name, value)).await;
            assert!(matches!(refused.status, 401 | 431), "{name}: {}", refused.status);
            gate.assert_unseen(&refused.marker);
        }
        let refused =
            gate.send(mcp::post(&mcp::search()).header("authorization", format!("Bearer {large}"))).await;
        refused.assert_refused(401, "auth_denied");
        agent.send(mcp::post(&mcp::search()).header("x-custom", &large)).await.assert_allowed();
        let mut many = mcp::post(&mcp::search());
        for n in 0..200 {
            many = many.header(format!("x-custom-{n}"), "1");
        }
        let refused = agent.send(many).await;
        assert_eq!(refused.status, 431, "{refused:?}");
        gate.assert_unseen(&refused.marker);
        gate.assert_serving(&agent).await;
    });
}

/// A call with so many bytes of body in all.
fn padded(bytes: usize) -> Vec<u8> {
    let empty = mcp::call("search", json!({"query": ""})).to_string();
    mcp::call("search", json!({"query": "x".repeat(bytes - empty.len())})).to_string().into_bytes()
}

#[test]
fn a_body_larger_than_what_is_held_is_refused() {
    run(async {
        let gate = Gate::shared().await;
        let agent = caller(gate).await;
        for bytes in [1_048_577, 1_200_000, 5_000_000] {
            let refused = agent.send(mcp::post_bytes(&padded(bytes))).await;
            refused.assert_refused(413, "invalid_request");
            assert_eq!(refused.rate().limit, 1000);
            gate.assert_unseen(&refused.marker);
            let body = padded(bytes);
            let chunked =
                Request::post("/mcp").header("content-type", "application/json").chunks(body.chunks(9_999));
            let refused = agent.send(chunked).await;
            assert_eq!(refused.status, 413, "{refused:?}");
            refused.rate();
            gate.assert_unseen(&refused.marker);
        }
        let largest = padded(1_000_000);
        let response = agent.send(mcp::post_bytes(&largest)).await;
        response.assert_allowed();
        assert_eq!(gate.upstream.the_one(&response.marker).body, largest);
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn a_service_may_accept_smaller_bodies_only() {
    run(async {
        let gate = Gate::options()
            .policy(|policy| policy["services"]["studio"]["body_bytes_max"] = policy::yaml("4096"))
            .start()
            .await;
        let agent = caller(&gate).await;
        agent.send(mcp::post_bytes(&padded(4096))).await.assert_allowed();
        for body in [padded(4097), padded(100_000)] {
            let refused = agent.send(mcp::post_bytes(&body)).await;
            refused.assert_refused(413, "invalid_request");
            assert_eq!(refused.code(), Some(41301), "{refused:?}");
            gate.assert_unseen(&refused.marker);
        }
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn chunks_do_not_hide_a_call() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("enterprise", 100, NewKey::with_scopes(&["read"])).await;
        let post = |body: &[u8], size: usize| {
            Request::post("/mcp").header("content-type", "application/json").chunks(body.chunks(size))
        };
        let (allowed, denied) = (mcp::search().to_string(), mcp::image("standard").to_string());
        for size in [1, 2, 7, 50, 1000] {
            let response = agent.send(post(allowed.as_bytes(), size)).await;
            response.assert_allowed();
            assert_eq!(gate.upstream.the_one(&response.marker).body, allowed.as_bytes());
            let refused = agent.send(post(denied.as_bytes(), size)).await;
            refused.assert_refused(403, "insufficient_scope");
            gate.assert_unseen(&refused.marker);
        }
        // A chunk that completes one message and begins another.
        let both = format!("{allowed}{denied}");
        let refused = agent.send(post(both.as_bytes(), allowed.len())).await;
        refused.assert_refused(400, "invalid_request");
        gate.assert_unseen(&refused.marker);
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn a_slow_body_is_held_until_it_is_whole() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("enterprise", 100, NewKey::with_scopes(&["read"])).await;
        let slow = |body: &str| {
            let request = Request::post("/mcp").header("content-type", "application/json");
            let third = body.len() / 3;
            let parts = [&body[..third], &body[third..2 * third], &body[2 * third..]];
            request.chunks(parts.map(str::as_bytes)).slowly(Duration::from_millis(150))
        };
        let allowed = agent.with_key(slow(&mcp::search().to_string()));
        let marker = allowed.marker().to_owned();
        let sending = tokio::spawn(allowed.send(gate.address));
        // Until the last part has come nothing is upstream, not even the head.
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_millis(200) {
            gate.assert_unseen(&marker);
            harness::wait(Duration::from_millis(10)).await;
        }
        sending.await.unwrap().assert_allowed();
        gate.upstream.the_one(&marker);
        let client = Http2::open(gate.address).await;
        for denied in
            [slow(&mcp::image("standard").to_string()), slow(&mcp::call("unlisted", json!({})).to_string())]
        {
            let refused = client.send(agent.with_key(denied)).await.unwrap();
            assert!(matches!(refused.status, 403 | 404), "{refused:?}");
            gate.assert_unseen(&refused.marker);
        }
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing() {
    run(async {
        let gate = Gate::shared().await;
        let agent = caller(gate).await;
        let body = mcp::image("standard").to_string();
        for sent in [0, 1, body.len() / 2, body.len() - 1] {
            let request = agent.post(&mcp::image("standard"));
            let marker = request.marker().to_owned();
            let mut connection = Connection::open(gate.address).await;
            connection.write(&request.head()).await.unwrap();
            connection.write(&body.as_bytes()[..sent]).await.unwrap();
            drop(connection);
            gate.assert_serving(&agent).await;
            gate.assert_unseen(&marker);
        }
        assert_eq!(gate.settled(&agent).await.available.get(), 1000);
    });
}

#[test]
fn trailers_do_not_open_the_gate() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("enterprise", 100, NewKey::with_scopes(&["read"])).await;
        let client = Http2::open(gate.address).await;
        let request = |body: &str| {
            // DATA that does not end the stream, then trailers that do: the body callback never sees the end.
            let request = Request::post("/mcp").header("content-type", "application/json");
            agent.with_key(request.chunks([body.as_bytes()]).trailer("x-trailer", b"1"))
        };
        let (allowed, denied) = (mcp::search().to_string(), mcp::image("standard").to_string());
        for round in 0..3 {
            let response = client.send(request(&allowed)).await.unwrap();
            response.assert_allowed();
            assert_eq!(gate.upstream.the_one(&response.marker).body, allowed.as_bytes());
            let refused = client.send(request(&denied)).await.unwrap();
            refused.assert_refused(403, "insufficient_scope");
            gate.assert_unseen(&refused.marker);
            let over_h1 = request(&denied).send(gate.address).await;
            over_h1.assert_refused(403, "insufficient_scope");
            gate.assert_unseen(&over_h1.marker);
            let no_body = client.send(request("")).await.unwrap();
            assert_eq!(no_body.status, 400, "round {round}: {no_body:?}");
            gate.assert_unseen(&no_body.marker);
            let unknown = request(&allowed).without("authorization").key(&unknown_secret());
            let refused = client.send(unknown).await.unwrap();
            refused.assert_refused(401, "auth_denied");
            gate.assert_unseen(&refused.marker);
        }
        // Trailers on a request that was decided on its headers.
        let builds = Request::get("/api/v1/mcp/projects/1/builds")
            .chunks([b"x".as_slice()])
            .trailer("x-trailer", b"1");
        assert_eq!(client.send(agent.with_key(builds)).await.unwrap().status, 200);
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn an_empty_last_frame_changes_nothing() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("enterprise", 100, NewKey::with_scopes(&["read"])).await;
        let client = Http2::open(gate.address).await;
        for (message, status) in [(mcp::search(), 200), (mcp::image("standard"), 403)] {
            let body = message.to_string();
            let request =
                Request::post("/mcp").header("content-type", "application/json").chunks([body.as_bytes()]);
            let response = client.send(agent.with_key(request)).await.unwrap();
            assert_eq!(response.status, status, "{response:?}");
            assert_eq!(gate.upstream.seen(&response.marker).len(), usize::from(status == 200));
        }
        let parallel = (0..40).map(|n| {
            let (client, agent) = (client.clone(), agent.clone());
            let message = if n % 2 == 0 { mcp::search() } else { mcp::image("standard") };
            async move { client.send(agent.post(&message)).await.unwrap() }
        });
        let answers = at_once(parallel).await;
        for (n, answer) in answers.iter().enumerate() {
            assert_eq!(answer.status, if n % 2 == 0 { 200 } else { 403 }, "{answer:?}");
            assert_eq!(gate.upstream.seen(&answer.marker).len(), usize::from(n % 2 == 0));
        }
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn expecting_100_continue_does_not_pass_anything_early() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("enterprise", 100, NewKey::with_scopes(&["read"])).await;
        for (message, status) in [(mcp::search(), 200), (mcp::image("standard"), 403)] {
            let request = agent.post(&message).header("expect", "100-continue");
            let marker = request.marker().to_owned();
            let mut connection = Connection::open(gate.address).await;
            connection.write(&request.head()).await.unwrap();
            // Envoy asks for the body; the decision is not made and nothing is upstream.
            connection.read_until(b"100 Continue").await.unwrap();
            gate.assert_unseen(&marker);
            connection.write(message.to_string().as_bytes()).await.unwrap();
            let response = connection.response().await.unwrap();
            assert_eq!(response.status, status, "{response:?}");
            assert_eq!(gate.upstream.seen(&marker).len(), usize::from(status == 200));
        }
        let refused = gate
            .send(mcp::post(&mcp::search()).header("expect", "100-continue").key(&unknown_secret()))
            .await;
        assert_eq!(refused.status, 401, "{refused:?}");
        gate.assert_unseen(&refused.marker);
        gate.assert_serving(&agent).await;
    });
}

fn upgrade(target: &str) -> Request {
    Request::get(target)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
}

#[test]
fn a_websocket_upgrade_opens_nothing() {
    run(async {
        let gate = Gate::shared().await;
        let agent = caller(gate).await;
        for target in ["/mcp", "/api/v1/mcp/projects/1/builds", "/nowhere"] {
            let refused = agent.send(upgrade(target)).await;
            assert!(matches!(refused.status, 400 | 404), "{target}: {refused:?}");
            gate.assert_unseen(&refused.marker);
            let unknown = gate.send(upgrade(target).key(&unknown_secret())).await;
            assert_eq!(unknown.status, 401, "{target}: {unknown:?}");
            gate.assert_unseen(&unknown.marker);
            let anonymous = gate.send(upgrade(target)).await;
            assert_eq!(anonymous.status, 401, "{target}: {anonymous:?}");
            gate.assert_unseen(&anonymous.marker);
        }
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn an_upgrade_that_the_policy_allows_is_decided_on_its_headers_and_then_passes() {
    run(async {
        let gate = Gate::options()
            .policy(|policy| policy["services"]["ci"]["upgrades"] = policy::yaml("true"))
            .envoy(|bootstrap| {
                let options =
                    cli::stack::bootstrap::field(bootstrap, &format!("{MANAGER}/http2_protocol_options"));
                options.expect("the shipped file has it")["allow_connect"] = policy::yaml("true");
            })
            .start()
            .await;
        let agent = gate.agent_with("enterprise", 0, NewKey::with_scopes(&["read"])).await;
        let mut connection = Connection::open(gate.address).await;
        let request = agent.with_key(upgrade("/api/v1/mcp/projects/1/builds"));
        let marker = request.marker().to_owned();
        connection.write(&request.head()).await.unwrap();
        let accepted = connection.response().await.unwrap();
        assert_eq!(accepted.status, 101, "{accepted:?}");
        gate.upstream.the_one(&marker);
        connection.write(b"frames pass").await.unwrap();
        connection.read_until(b"frames pass").await.unwrap();

        let without = gate.agent_with("enterprise", 0, NewKey::with_scopes(&["generate"])).await;
        for (agent, target, status) in [
            (&without, "/api/v1/mcp/projects/1/builds", 403),
            (&agent, "/api/v1/mcp/projects/1/nothing", 404),
            (&agent, "/mcp", 400),
        ] {
            let refused = agent.send(upgrade(target)).await;
            assert_eq!(refused.status, status, "{target}: {refused:?}");
            gate.assert_unseen(&refused.marker);
        }
        // The same over HTTP/2.
        let client = Http2::open(gate.address).await;
        // The server's settings, which allow extended CONNECT, come with its first frames.
        client.send(agent.post(&mcp::search())).await.unwrap().assert_allowed();
        for (agent, target, status) in [
            (&without, "/api/v1/mcp/projects/1/builds", 403),
            (&agent, "/api/v1/mcp/projects/1/nothing", 404),
            (&agent, "/mcp", 400),
        ] {
            let request = agent.with_key(Request::new("CONNECT", target));
            let refused = client.connect(request, "websocket").await.unwrap();
            assert_eq!(refused.status, status, "{target}: {refused:?}");
            gate.assert_unseen(&refused.marker);
        }
        let unknown = Request::new("CONNECT", "/api/v1/mcp/projects/1/builds").key(&unknown_secret());
        let refused = client.connect(unknown, "websocket").await.unwrap();
        assert_eq!(refused.status, 401, "{refused:?}");
        gate.assert_unseen(&refused.marker);
        gate.assert_serving(&agent).await;
    });
}

const MANAGER: &str = "static_resources/listeners/gate/filter_chains/0/filters/\
    envoy.filters.network.http_connection_manager/typed_config";

#[test]
fn extended_connect_is_not_there_unless_envoy_is_told_so() {
    run(async {
        let gate = Gate::shared().await;
        let agent = caller(gate).await;
        let client = Http2::open(gate.address).await;
        for target in ["/mcp", "/api/v1/mcp/projects/1/builds"] {
            let request = agent.with_key(Request::new("CONNECT", target));
            let marker = request.marker().to_owned();
            if let Ok(response) = client.connect(request, "websocket").await {
                assert!(response.status >= 400, "{response:?}");
            }
            gate.assert_unseen(&marker);
        }
        let plain = agent.with_key(Request::new("CONNECT", "upstream.test:443"));
        let marker = plain.marker().to_owned();
        let refused = plain.send(gate.address).await;
        assert!(refused.status >= 400, "{refused:?}");
        gate.assert_unseen(&marker);
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn path_tricks_lead_around_no_rule() {
    run(async {
        let gate = Gate::shared().await;
        // May read and nothing else: the trigger must stay out of reach.
        let agent = gate
            .agent_with("enterprise", 100, NewKey::with_scopes(&["read"]).resource("project:1", None))
            .await;
        let tricks = [
            "/api/v1/mcp/projects/1/builds/../trigger",
            "/api/v1/mcp/projects/1/builds/%2e%2e/trigger",
            "/api/v1/mcp/projects/1/builds/.%2E/trigger",
            "/api/v1/mcp/projects/1/./trigger",
            "/api/v1/mcp/projects/1/%2e/trigger",
            "/api/v1/mcp/projects/1//trigger",
            "//api/v1/mcp/projects/1/trigger",
            "/api/v1//mcp/projects/1/trigger",
            "/api/v1/mcp/projects/1/trigger/",
            "/api/v1/mcp/projects/1/trigger/.",
            "/api/v1/mcp/projects/1/trigger;x=1",
            "/api/v1/mcp/projects/1;x/trigger",
            "/api/v1/mcp/projects/1/trigger%3bx",
            "/api/v1/mcp/projects/1/trigge%72",
            "/api/v1/mcp/projects/1%2ftrigger",
            "/api/v1/mcp/projects/1%5ctrigger",
            "/api/v1/mcp/projects/1\\trigger",
            "/api/v1/mcp/projects/1/Trigger",
            "/api/v1/mcp/projects/1/TRIGGER",
            "/API/V1/MCP/projects/1/trigger",
            "/api/v1/mcp/projects/1/trigger%00",
            "/api/v1/mcp/projects/1/trigger%20",
            "/api/v1/mcp/projects/1/trigger%23",
            "/api/v1/mcp/projects/1/trigger%3f",
            "/api/v1/mcp/projects/1/%74rigger",
            "/api/v1/mcp/projects/%31/trigger",
            "/api/v1/mcp/projects/1/%2574rigger",
            "/mcp/../api/v1/mcp/projects/1/trigger",
            "/mcp/%2e%2e/api/v1/mcp/projects/1/trigger",
            "/x/../../api/v1/mcp/projects/1/trigger",
            "http://gate.test/api/v1/mcp/projects/1/trigger",
            "/api/v1/mcp/projects/1/trigger?x=/../builds",
            "/api/v1/mcp/projects/1/trigger#/../builds",
            "/api/v1/mcp/projects/1/trigg\u{e9}r",
        ];
        let over_h2 = Http2::open(gate.address).await;
        for target in tricks {
            let request = || agent.with_key(Request::post(target).body(b"{}"));
            let refused = request().send(gate.address).await;
            assert!(matches!(refused.status, 307 | 400 | 403 | 404), "{target}: {refused:?}");
            gate.assert_unseen(&refused.marker);
            if target.starts_with('/') && target.is_ascii() && !target.contains(['\\', '#']) {
                let request = request();
                let marker = request.marker().to_owned();
                if let Ok(refused) = over_h2.send(request).await {
                    assert!(matches!(refused.status, 307 | 400 | 403 | 404), "h2 {target}: {refused:?}");
                }
                gate.assert_unseen(&marker);
            }
        }
        // Another project's, by the same tricks.
        for target in [
            "/api/v1/mcp/projects/1/../2/builds",
            "/api/v1/mcp/projects/1/%2e%2e/2/builds",
            "/api/v1/mcp/projects/2/builds?project=1",
            "/api/v1/mcp/projects/1%2f..%2f2/builds",
            "/api/v1/mcp/projects/1;/../2/builds",
        ] {
            let refused = agent.get(target).send(gate.address).await;
            assert!(matches!(refused.status, 400 | 403 | 404), "{target}: {refused:?}");
            gate.assert_unseen(&refused.marker);
        }
        // What Envoy makes plain is decided as what it then is, and that is also what arrives.
        for target in [
            "//api/v1/mcp/projects/1/builds",
            "/api/v1/mcp/projects/2/../1/builds",
            "/api/v1/./mcp/projects/1/builds",
        ] {
            let response = agent.get(target).send(gate.address).await;
            if response.status == 200 {
                let seen = gate.upstream.the_one(&response.marker);
                assert_eq!(seen.target, "/api/v1/mcp/projects/1/builds", "{target}");
            }
        }
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn the_mcp_service_is_one_path_and_three_methods() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("enterprise", 100, NewKey::with_scopes(&["read"])).await;
        let body = mcp::image("standard").to_string();
        for target in [
            "/mcp/",
            "/mcp//",
            "/mcp;x",
            "/mcp/.",
            "/Mcp",
            "/mcp%20",
            "/mcp/x",
            "/mcp%2f",
            "/%6dcp",
            "/x/../mcp/",
        ] {
            let request =
                Request::post(target).header("content-type", "application/json").body(body.as_bytes());
            let refused = agent.send(request).await;
            assert!(matches!(refused.status, 400 | 403 | 404), "{target}: {refused:?}");
            gate.assert_unseen(&refused.marker);
        }
        for method in ["PUT", "PATCH", "OPTIONS", "HEAD", "TRACE", "PURGE", "post"] {
            let request =
                Request::new(method, "/mcp").header("content-type", "application/json").body(body.as_bytes());
            let refused = agent.send(request).await;
            assert!(matches!(refused.status, 400 | 405), "{method}: {refused:?}");
            if refused.status == 405 {
                assert_eq!(refused.header("allow"), Some("POST, GET, DELETE"), "{method}");
            }
            gate.assert_unseen(&refused.marker);
        }
        // A body where none belongs is not a way in.
        for method in ["GET", "DELETE"] {
            let request =
                Request::new(method, "/mcp").header("content-type", "application/json").body(body.as_bytes());
            let response = agent.send(request).await;
            for seen in gate.upstream.seen(&response.marker) {
                assert_eq!(seen.method, method, "an upstream may answer it, but not as a call");
            }
        }
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn smuggled_requests_are_not_found_by_either_side() {
    run(async {
        let gate = Gate::shared().await;
        let agent = caller(gate).await;
        let smuggled = "POST /api/v1/mcp/projects/9/trigger HTTP/1.1\r\nhost: x\r\nx-test-id: smuggled\r\ncontent-length: 0\r\n\r\n";
        let auth = format!("authorization: Bearer {}\r\n", agent.secret);
        let cases = [
            format!(
                "POST /mcp HTTP/1.1\r\nhost: x\r\n{auth}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"
            ),
            format!(
                "POST /mcp HTTP/1.1\r\nhost: x\r\n{auth}content-length: 5\r\ncontent-length: 6\r\n\r\n12345{smuggled}"
            ),
            format!(
                "POST /mcp HTTP/1.1\r\nhost: x\r\n{auth}transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n{smuggled}"
            ),
            format!(
                "POST /mcp HTTP/1.1\r\nhost: x\r\n{auth}transfer-encoding : chunked\r\n\r\n0\r\n\r\n{smuggled}"
            ),
            format!("GET /mcp HTTP/1.1\r\nhost: x\r\n{auth}x: 1\n\ncontent-length: 0\r\n\r\n{smuggled}"),
            format!(
                "POST /mcp HTTP/1.1\r\nhost: x\r\n{auth}transfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n{smuggled}"
            ),
            "\x16\x03\x01\x02\x00\x01\x00\x01\u{7f}".to_owned(),
            "GET\r\n\r\n".to_owned(),
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nrubbish".to_owned(),
            "\0\0\0\0".to_owned(),
        ];
        for case in cases {
            // An answer or a closed connection are both fine.
            if let Ok(response) = gate.raw(case.as_bytes()).await {
                assert!(response.status >= 400, "{case}: {response:?}");
            }
            gate.assert_unseen("smuggled");
            gate.assert_serving(&agent).await;
        }
    });
}

#[test]
fn a_flood_of_random_keys_costs_little_and_valid_keys_are_served() {
    run(async {
        let gate = Gate::options().start().await;
        let agent = caller(&gate).await;
        gate.assert_serving(&agent).await;
        let resolved = gate.ledger_calls("/filter/v1/resolve").await;
        let memory = gate.stat("server.memory_allocated").await;

        let flood = (0..20).map(|_| {
            let address = gate.address;
            async move {
                let client = Http2::open(address).await;
                let mut refused = 0_u32;
                for _ in 0..150 {
                    let response =
                        client.send(mcp::post(&mcp::search()).key(&unknown_secret())).await.unwrap();
                    // 401 once the ledger does not know it, 503 where no more lookups are made for now.
                    assert!(matches!(response.status, 401 | 503), "{response:?}");
                    refused += 1;
                }
                refused
            }
        });
        let flood = tokio::spawn(at_once(flood));
        let mut served = 0;
        while !flood.is_finished() {
            let response = agent.call(&mcp::search()).await;
            assert!(matches!(response.status, 200 | 429), "a valid key during the flood: {response:?}");
            served += u32::from(response.status == 200);
        }
        let refused: u32 = flood.await.unwrap().into_iter().sum();
        assert_eq!(refused, 3000);
        assert!(served > 0, "nothing was served during the flood");
        let resolves = gate.ledger_calls("/filter/v1/resolve").await - resolved;
        assert!(
            resolves < u64::from(refused) / 2,
            "the ledger was asked {resolves} times for {refused} random keys"
        );
        let grown = gate.stat("server.memory_allocated").await.saturating_sub(memory);
        assert!(grown < 64 << 20, "memory grew by {grown} bytes");
        gate.assert_serving(&agent).await;

        // New keys are found while the flood is not yet forgotten.
        let fresh = caller(&gate).await;
        eventually("a new key is known", async || match fresh.call(&mcp::search()).await.status {
            200 => Ok(()),
            status => Err(format!("{status}")),
        })
        .await;
    });
}

#[test]
fn the_same_unknown_key_again_and_again_asks_the_ledger_seldom() {
    run(async {
        let gate = Gate::options().start().await;
        let unknown = unknown_secret();
        let call = |secret: String, address| async move {
            mcp::post(&mcp::search()).key(&secret).send(address).await
        };
        let answers = at_once((0..100).map(|_| call(unknown.clone(), gate.address))).await;
        for refused in &answers {
            refused.assert_refused(401, "auth_denied");
        }
        let resolves = gate.ledger_calls("/filter/v1/resolve").await;
        assert!(resolves <= 10, "{resolves} lookups for one key");
        // Malformed ones never get there.
        for n in 0..50 {
            let refused = call(format!("ark_{n}"), gate.address).await;
            refused.assert_refused(401, "auth_denied");
        }
        assert!(gate.ledger_calls("/filter/v1/resolve").await <= resolves);
        assert!(stats::ledger(gate.ledger_address).await.contains("agentrelay_ledger"));
    });
}

#[test]
fn one_key_cannot_fill_the_gate_with_held_bodies() {
    run(async {
        let gate = Gate::options().start().await;
        let hog = caller(&gate).await;
        let other = caller(&gate).await;
        let body = padded(1_000_000);
        let mut held = Vec::new();
        let mut refused = 0;
        for _ in 0..120 {
            let request = hog.post(&mcp::search()).body(&body);
            let mut connection = Connection::open(gate.address).await;
            connection.write(&request.head()).await.unwrap();
            let _ = connection.write(&body[..body.len() - 1]).await;
            held.push(connection);
        }
        gate.assert_serving(&other).await;
        for connection in &mut held {
            if let Ok(Ok(response)) =
                tokio::time::timeout(Duration::from_millis(20), connection.response()).await
            {
                response.assert_refused(429, "rate_limited");
                refused += 1;
            }
        }
        assert!(refused > 0, "a key held 120 MB");
        drop(held);
        gate.assert_serving(&hog).await;
    });
}
