//! What is refused for a full window or for too many requests in progress, and what is never refused.

use super::*;
use protocol::key::{Concurrency, Limit, Parent};

#[test]
fn opening_connections_has_its_own_limit_and_uses_no_permits_of_calls() {
    let mut free = record();
    free.tier = "free".into();
    let mut gate = Gate::with(document(), free);
    for _ in 0..3 {
        gate.method("tools/list").forwarded();
    }
    assert_eq!(gate.method("tools/list").refusal().0, 429);
    for _ in 0..30 {
        gate.method("initialize").forwarded();
        gate.method("server/discover").forwarded();
    }
    let refused = gate.method("initialize");
    assert_eq!(refused.header("retry-after").as_deref(), Some("61"));
    assert!(refused.header("ratelimit-policy").unwrap().starts_with("\"opening-60s\";q=60"));
    assert_eq!(refused.refusal().0, 429);
    gate.now_ms += 61_000;
    for _ in 0..60 {
        gate.method("initialize").forwarded();
    }
    gate.method("tools/list").forwarded();
}

#[test]
fn a_full_window_refuses_only_what_starts_work() {
    let mut free = record();
    free.tier = "free".into();
    let mut gate = Gate::with(document(), free);
    for _ in 0..3 {
        gate.method("tools/list").forwarded();
    }
    let mut message = |body: &str| gate.request("POST", "/mcp", Some(body.as_bytes()));
    for body in [
        r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tasks/cancel","params":{"taskId":"t"}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/of_some_extension"}"#,
        r#"{"jsonrpc":"2.0","id":0,"result":{"action":"accept","content":{}}}"#,
        r#"{"jsonrpc":"2.0","id":"e","error":{"code":1,"message":"no"}}"#,
    ] {
        message(body).forwarded();
    }
    for method in ["resources/list", "logging/setLevel", "tasks/get", "tasks/result", "subscriptions/listen"]
    {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method}).to_string();
        assert_eq!(message(&body).refusal().0, 429, "{method}");
    }
    gate.request("DELETE", "/mcp", None).forwarded();
    let session = gate.session("s");
    let resumed = [("last-event-id", "7"), ("mcp-session-id", session.as_str())];
    gate.request_with("GET", "/mcp", None, &resumed).forwarded();
    assert_eq!(gate.request("GET", "/mcp", None).refusal().0, 429);
    // A request that is refused for another reason counts, whatever kind it claims to be.
    gate.now_ms += 61_000;
    gate.key =
        Some(Arc::new(Key::new(KeyRecord { services: Some(vec![]), tier: "free".into(), ..record() })));
    let statuses = [403, 403, 403, 429];
    assert_eq!(statuses.map(|_| gate.method("ping").refusal().0), statuses);
}

#[test]
fn each_request_asks_for_admission_by_its_kind() {
    let mut document = document();
    document["services"]["ci"]["upgrades"] = json!(true);
    document["tiers"]["pro"]["concurrency"] = json!({"requests": 7});
    let concurrency = |requests, streams| Some(Concurrency { requests, streams });
    let parent = Parent {
        key_id: KeyId::parse("key_0").unwrap(),
        agent_id: None,
        limits: vec![],
        concurrency: concurrency(9, 3),
    };
    let own = KeyRecord { concurrency: concurrency(5, 30), parent: Some(parent), ..record() };
    let mut gate = Gate::with(document, own);
    let listen = r#"{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen"}"#;
    let session = gate.session("s");
    for (method, path, body, header, work, most) in [
        ("POST", "/mcp", Some(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#), "x", Work::Call, 5),
        ("POST", "/mcp", Some(r#"{"jsonrpc":"2.0","id":1,"method":"initialize"}"#), "x", Work::Opening, 5),
        ("POST", "/mcp", Some(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#), "x", Work::Nothing, 20),
        ("POST", "/mcp", Some(listen), "x", Work::Stream, 3),
        ("GET", "/mcp", None, "x", Work::Stream, 3),
        ("GET", "/mcp", None, "last-event-id", Work::Resumption, 3),
        ("DELETE", "/mcp", None, "x", Work::Nothing, 20),
        ("GET", "/api/p/1", None, "upgrade", Work::Stream, 3),
        ("GET", "/api/p/1", None, "x", Work::Call, 5),
    ] {
        let headers = [(header, "1"), ("mcp-session-id", session.as_str())];
        gate.request_with(method, path, body.map(str::as_bytes), &headers).forwarded();
        let admission_requests = gate.admission_requests.pop().unwrap();
        assert_eq!(
            (admission_requests.work, admission_requests.count_max(4)),
            (work, most),
            "{method} {body:?} {header}"
        );
    }
    gate.admission = AdmissionAnswered::Full { max: 5 };
    let windows = gate.slot.clone();
    let refused = gate.call("search", json!({}));
    assert_eq!(refused.header("retry-after").as_deref(), Some("1"));
    assert_eq!(refused.refusal().1["error"]["code"], 42901);
    // An invalid message does not bypass this.
    assert_eq!(gate.request("POST", "/mcp", Some(b"{")).refusal().0, 429);
    assert_eq!(gate.slot, windows);
}

#[test]
fn an_id_that_is_in_progress_in_its_session_is_refused() {
    let mut gate = Gate::new();
    let (one, other) = (gate.session("s"), gate.session("t"));
    let mut admission_requests = |session: &[(&str, &str)], id: &str| {
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/list"}}"#);
        gate.request_with("POST", "/mcp", Some(body.as_bytes()), session).forwarded();
        gate.admission_requests.pop().unwrap().call
    };
    let session = [("mcp-session-id", one.as_str())];
    let one = admission_requests(&session, "0");
    assert!(one.is_some());
    assert_eq!(one, admission_requests(&session, "-0"));
    assert_ne!(one, admission_requests(&session, "\"0\""));
    assert_ne!(one, admission_requests(&[("mcp-session-id", other.as_str())], "0"));
    assert_eq!(admission_requests(&[], "0"), None);
    gate.admission = AdmissionAnswered::DuplicateId;
    let (status, answer) = gate.call("search", json!({})).refusal();
    assert_eq!((status, &answer["error"]["code"], &answer["id"]), (400, &json!(-32600), &json!(7)));
    gate.admission = AdmissionAnswered::Admitted;
    // The tool's own window, with one permit, was not used.
    gate.call("search", json!({})).forwarded();
}

#[test]
fn limits_of_one_window_count_a_request_once_and_the_strictest_holds() {
    let limit = |permits, window_seconds| Limit { permits, window_seconds };
    for (own, passed) in [
        (vec![limit(6, 60), limit(4, 60)], 4),
        (vec![limit(4, 60), limit(6, 60), limit(5, 60)], 4),
        (vec![limit(4, 60), limit(4, 60)], 4),
        (vec![limit(9, 60), limit(4, 30)], 4),
        // As long as the tier's window, which admits 100, and as the tool's.
        (vec![limit(7, 60)], 7),
    ] {
        let mut gate = Gate::with(document(), KeyRecord { limits: own.clone(), ..record() });
        let passes =
            (0..20).filter(|_| matches!(gate.method("prompts/list"), Decided::Forwarded(..))).count();
        assert_eq!(passes, passed, "{own:?}");
    }
    let mut document = document();
    let tools = &mut document["services"]["studio"]["tools"];
    for name in ["key", "own", "opening"] {
        tools[name] = json!({"risk": "read_only", "limits": [{"permits": 3, "window": "60s"}]});
    }
    let mut gate = Gate::with(document, KeyRecord { limits: vec![limit(50, 60)], ..record() });
    for name in ["key", "own", "opening"] {
        let passes = (0..5).filter(|_| matches!(gate.call(name, json!({})), Decided::Forwarded(..))).count();
        assert_eq!(passes, 3, "{name}");
    }
}
