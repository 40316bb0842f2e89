//! A session id that does not verify reaches no server; one that does is replaced by the server's own.

use super::*;

const CALL: &[u8] = br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"draw"}}"#;
const BATCH: &[u8] =
    br#"[{"jsonrpc":"2.0","id":7,"method":"ping"},{"jsonrpc":"2.0","id":"x","method":"tools/list"}]"#;

/// Method and body of all messages in sessions.
const SENT: [(&str, Option<&[u8]>); 7] = [
    ("POST", Some(CALL)),
    ("POST", Some(br#"{"jsonrpc":"2.0","id":7,"method":"initialize"}"#)),
    ("POST", Some(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#)),
    ("POST", Some(br#"{"jsonrpc":"2.0","id":7,"result":{}}"#)),
    ("POST", Some(BATCH)),
    ("GET", None),
    ("DELETE", None),
];

fn upstream(exchange: &Exchange) -> (Option<String>, bool) {
    let set = exchange.headers_to_set().find(|(name, _)| *name == "mcp-session-id");
    let is_removed = exchange.headers_to_remove().any(|name| name == "mcp-session-id");
    (set.map(|(_, value)| value.into_owned()), is_removed)
}

#[test]
fn only_a_keys_own_session_is_accepted() {
    for (method, body) in SENT {
        let mut gate = Gate::with(document(), KeyRecord { tier: "pro".into(), ..record() });
        let own = gate.session("a.b/c");
        let (exchange, _) = gate.request_with(method, "/mcp", body, &[("mcp-session-id", &own)]).forwarded();
        assert_eq!(upstream(&exchange), (Some("a.b/c".to_owned()), false), "{method}");
        // Another key of the tenant.
        gate.key = Some(Arc::new(Key::new(KeyRecord { key_id: KeyId::parse("key_2").unwrap(), ..record() })));
        gate.request_with(method, "/mcp", body, &[("mcp-session-id", &own)]).forwarded();
        for unknown in
            [own.replace("a.b", "a.c"), "a.b/c".to_owned(), own.to_ascii_uppercase(), String::new()]
        {
            let (status, answer) =
                gate.request_with(method, "/mcp", body, &[("mcp-session-id", &unknown)]).refusal();
            let error = if answer.is_array() { &answer[0] } else { &answer };
            assert_eq!((status, &error["error"]["code"]), (404, &json!(40402)), "{method}: {answer}");
            if body == Some(CALL) || body == Some(BATCH) {
                assert_eq!(error["id"], json!(7));
            }
            // In a version without sessions the id is ignored.
            let headers = [("mcp-session-id", unknown.as_str()), ("mcp-protocol-version", "2026-07-28")];
            if matches!(method, "GET" | "DELETE") {
                let (exchange, _) = gate.request_with(method, "/mcp", body, &headers).forwarded();
                assert_eq!(upstream(&exchange), (None, true), "{method}");
            }
        }
        gate.key = Some(Arc::new(Key::new(KeyRecord {
            tenant_id: protocol::TenantId::parse("ten_2").unwrap(),
            ..record()
        })));
        let other = gate.request_with(method, "/mcp", body, &[("mcp-session-id", &own)]).refusal();
        assert_eq!(other.0, 404, "{method}");
    }
}

#[test]
fn refusals_keep_their_order() {
    let mut gate = Gate::with(document(), KeyRecord { tier: "free".into(), ..record() });
    let broken = br#"{"jsonrpc":"2.0""#;
    let unlisted = br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"nothing"}}"#;
    let forbidden = br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"wipe"}}"#;
    let unknown = [("mcp-session-id", "s")];
    let mut refusal = |body: &[u8]| {
        let (status, answer) = gate.request_with("POST", "/mcp", Some(body), &unknown).refusal();
        (status, answer["error"]["code"].as_i64().unwrap())
    };
    assert_eq!(refusal(broken), (400, -32700));
    assert_eq!(refusal(unlisted), (404, 40402));
    assert_eq!(refusal(forbidden), (404, 40402));
    // Three used the key's window, as all refused requests do.
    assert_eq!(refusal(forbidden), (429, 42901));
}

#[test]
fn a_session_header_given_twice_or_in_another_spelling_is_refused() {
    let mut gate = Gate::with(document(), KeyRecord { tier: "pro".into(), ..record() });
    let own = gate.session("s");
    let named = ("mcp-session-id", own.as_str());
    for headers in [
        vec![named, named],
        vec![named, ("mcp-session-id", "t")],
        vec![("mcp.session.id", own.as_str())],
        vec![named, ("mcp_session-id", "t")],
        vec![named, ("last_event_id", "5")],
        // Without a session, an event's id alone would give access.
        vec![("last-event-id", "5")],
        vec![("last-event-id", "5"), ("mcp-session-id", "t"), ("mcp-protocol-version", "2026-07-28")],
    ] {
        let (status, answer) = gate.request_with("GET", "/mcp", None, &headers).refusal();
        assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32600)), "{headers:?}");
    }
    gate.request_with("GET", "/mcp", None, &[named, ("last-event-id", "5")]).forwarded();
    let foreign = [("mcp-session-id", "t"), ("last-event-id", "5")];
    assert_eq!(gate.request_with("GET", "/mcp", None, &foreign).refusal().0, 404);
    // Other services may use these headers for themselves.
    let headers = [("mcp-session-id", "t"), ("mcp_session_id", "t"), ("last-event-id", "5")];
    let (mut exchange, _) = gate.request_with("GET", "/api/p/1", None, &headers).forwarded();
    assert_eq!(upstream(&exchange), (None, false));
    let plan = exchange.response_headers(200, &[(b"mcp-session-id", b"s")], true, gate.now());
    assert!(plan.set.iter().all(|(name, _)| name != "mcp-session-id"));
}

#[test]
fn the_servers_session_id_is_signed_on_every_answer() {
    let mut gate = Gate::with(document(), KeyRecord { tier: "pro".into(), ..record() });
    for (method, body) in SENT {
        for (status, id, expected) in [
            (200, b"s.1".as_slice(), gate.session("s.1")),
            (404, b"!", gate.session("!")),
            (202, b"~~", gate.session("~~")),
            // No client could send it back.
            (200, b"", String::new()),
            (200, b"a b", String::new()),
            (200, b"\xff", String::new()),
        ] {
            let (mut exchange, _) = gate.request(method, "/mcp", body).forwarded();
            let headers: [(&[u8], &[u8]); 3] =
                [(b"content-type", b"application/json"), (b"mcp-session-id", id), (b"mcp-session-id", b"2")];
            let plan = exchange.response_headers(status, &headers, false, gate.now());
            let set: Vec<&str> = plan
                .set
                .iter()
                .filter(|(name, _)| *name == "mcp-session-id")
                .map(|(_, value)| value)
                .collect();
            assert_eq!(set, [expected], "{method} {status} {id:?}");
        }
    }
}
