//! Batches: each message is decided, answered and charged separately, and ambiguous batches are refused.

use super::*;
use crate::window::slot;

fn call(id: Value, tool: &str, arguments: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
}

fn send(gate: &mut Gate, messages: &Value) -> Decided {
    gate.request("POST", "/mcp", Some(messages.to_string().as_bytes()))
}

fn forwarded(body: Option<&[u8]>) -> Vec<Value> {
    let body: Value = serde_json::from_slice(body.unwrap()).unwrap();
    body.as_array().unwrap().iter().map(|message| message["id"].clone()).collect()
}

fn answered(id: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": {"content": []}})
}

const JSON: [(&[u8], &[u8]); 1] = [(b"content-type", b"application/json")];
const EVENTS: [(&[u8], &[u8]); 1] = [(b"content-type", b"text/event-stream")];

#[test]
fn refused_messages_are_answered_here_and_the_rest_is_forwarded_in_order() {
    let mut gate = Gate::new();
    let batch = json!([
        call(json!(1), "draw", json!({})),
        call(json!("2"), "wipe", json!({})),
        call(json!(3), "nothing", json!({})),
        call(json!(4), "search", json!({})),
        {"jsonrpc": "2.0", "method": "notifications/progress"},
        {"jsonrpc": "2.0", "id": 6, "method": "tools/list"},
        {"jsonrpc": "2.0", "id": 7, "method": "initialize"},
        call(json!(8), "search", json!({})),
    ]);
    let (mut exchange, body) = send(&mut gate, &batch).forwarded();
    assert_eq!(forwarded(body.as_deref()), [json!(1), json!(4), Value::Null, json!(6)]);
    assert_eq!(gate.reserved.len(), 1);
    let ids: Vec<_> = exchange.reservations().into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, [gate.reserved[0].reservation_id]);
    assert_eq!(exchange.response_headers(200, &JSON, false, gate.now()).body, BodyPlan::Hold);
    let answer = json!([
        {"jsonrpc": "2.0", "id": 6, "result": {"tools": [{"name": "wipe"}, {"name": "search"}]}},
        {"jsonrpc": "2.0", "method": "notifications/message"},
        answered(json!(4)),
        {"jsonrpc": "2.0", "id": null, "error": {"code": -32600, "message": ""}},
        // No answers to sent messages: refused here, unknown, or answered before.
        answered(json!("2")),
        answered(json!(9)),
        {"jsonrpc": "2.0", "id": 4, "result": {"tools": [{"name": "wipe"}]}},
        answered(json!(1)),
    ]);
    let merged = exchange.filter_whole(answer.to_string().as_bytes(), gate.now()).unwrap().unwrap();
    let merged: Vec<Value> = serde_json::from_slice(&merged).unwrap();
    let ids: Vec<&Value> = merged.iter().map(|answer| &answer["id"]).collect();
    let expected =
        [json!(1), json!("2"), json!(3), json!(4), json!(6), json!(7), json!(8), Value::Null, Value::Null];
    assert_eq!(ids, expected.iter().collect::<Vec<_>>());
    assert_eq!(merged[1]["error"]["code"], 40301);
    assert_eq!(merged[2]["error"]["code"], 40401);
    assert_eq!(merged[4]["result"]["tools"], json!([{"name": "search"}]));
    assert_eq!(merged[5]["error"]["code"], -32600);
    // The tool's own window had one permit.
    assert_eq!(merged[6]["error"]["code"], 42901);

    let finished = exchange.finish_all(End::Complete, "e", gate.now());
    let outcomes: Vec<_> =
        finished.iter().map(|one| (one.decision.outcome, one.decision.credits.get())).collect();
    assert_eq!(
        outcomes,
        [
            (Outcome::Allowed, 5),
            (Outcome::InsufficientScope, 0),
            (Outcome::UnknownTool, 0),
            (Outcome::Allowed, 0),
            (Outcome::Allowed, 0),
            (Outcome::Allowed, 0),
            (Outcome::InvalidRequest, 0),
            (Outcome::RateLimited, 0),
        ]
    );
    let mut ids: Vec<_> = finished.iter().map(|one| one.decision.id.to_string()).collect();
    ids.dedup();
    assert_eq!(ids.len(), 8);
}

#[test]
fn failed_calls_are_not_charged_in_either_form_of_answer() {
    let batch = json!([
        call(json!(1), "draw", json!({})),
        call(json!(2), "draw", json!({})),
        call(json!(3), "draw", json!({}))
    ]);
    let failed = json!({"jsonrpc": "2.0", "id": 2, "result": {"content": [], "isError": true}});
    for in_events in [false, true] {
        let mut gate = Gate::new();
        let (mut exchange, body) = send(&mut gate, &batch).forwarded();
        assert_eq!(body, None, "nothing was refused, so the bytes stay as they are");
        if in_events {
            assert_eq!(exchange.response_headers(200, &EVENTS, false, gate.now()).body, BodyPlan::Rewrite);
            let stream = format!("data: {}\n\ndata: [{failed}]\n\n", answered(json!(3)));
            let passed: Vec<u8> = stream
                .as_bytes()
                .chunks(7)
                .flat_map(|chunk| exchange.filter_chunk(chunk, false, gate.now()).unwrap())
                .collect();
            assert_eq!(String::from_utf8(passed).unwrap(), stream);
        } else {
            exchange.response_headers(200, &JSON, false, gate.now());
            let answer = json!([answered(json!(3)), failed]).to_string();
            let merged = exchange.filter_whole(answer.as_bytes(), gate.now()).unwrap().unwrap();
            let merged: Vec<Value> = serde_json::from_slice(&merged).unwrap();
            assert_eq!(merged, [failed.clone(), answered(json!(3))]);
        }
        let actions = |finished: Vec<Finished>| -> Vec<_> {
            finished.into_iter().map(|one| one.settlement.unwrap().action).collect()
        };
        let post = Action::Post { credits: Credits::new(5).unwrap() };
        let finished = exchange.finish_all(End::Complete, "e", gate.now());
        // The first got no answer.
        assert_eq!(actions(finished), [post, Action::Void, post], "{in_events}");
        let finished = exchange.finish_all(End::UpstreamFailed, "e", gate.now());
        assert_eq!(actions(finished), [Action::Void, Action::Void, post], "{in_events}");
    }
}

#[test]
fn refusals_come_first_in_an_event_stream_and_unmatched_answers_are_dropped() {
    let mut gate = Gate::new();
    let batch =
        json!([call(json!(1), "wipe", json!({})), {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}]);
    let (mut exchange, _) = send(&mut gate, &batch).forwarded();
    exchange.response_headers(200, &EVENTS, false, gate.now());
    let secret = json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": [{"name": "wipe"}]}});
    let list = json!({"jsonrpc": "2.0", "id": 2, "result": {"tools": [{"name": "wipe"}, {"name": "draw"}]}});
    let stream = format!("data: {secret}\n\ndata: {list}\n\n");
    let passed = exchange.filter_chunk(stream.as_bytes(), true, gate.now()).unwrap();
    let text = String::from_utf8(passed).unwrap();
    assert!(text.starts_with("event: message\ndata: "), "some clients read no event without a type: {text}");
    let data: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    assert_eq!((data.len(), &data[0]["error"]["code"]), (2, &json!(40301)));
    assert_eq!(data[1]["result"]["tools"], json!([{"name": "draw"}]));
    let unreadable = b"data: {\"id\":2,\"method\":\"x\",\"result\":{\"tools\":[]}}\n\n";
    assert!(exchange.filter_chunk(unreadable, true, gate.now()).is_err());
}

#[test]
fn a_batch_of_refusals_never_goes_upstream() {
    let mut gate = Gate::new();
    let both = json!([call(json!(1), "wipe", json!({})), call(json!(2), "nothing", json!({}))]);
    let (status, answer) = send(&mut gate, &both).refusal();
    assert_eq!((status, answer[0]["id"].as_u64(), answer[1]["id"].as_u64()), (200, Some(1), Some(2)));
    let one = json!([call(json!(1), "wipe", json!({}))]);
    let refused = send(&mut gate, &one);
    assert!(refused.header("www-authenticate").unwrap().contains("admin"));
    assert_eq!(refused.refusal().0, 403);
    let mut document = document();
    document["services"]["studio"]["refusals"] = json!("http");
    let mut gate = Gate::with(document, record());
    assert_eq!(send(&mut gate, &both).refusal().1[0]["error"]["code"], 40301);
    gate.ledger = ReserveAnswered::Unavailable;
    let priced = json!([call(json!(1), "draw", json!({})), call(json!(2), "draw", json!({}))]);
    assert_eq!(send(&mut gate, &priced).refusal().1[1]["error"]["code"], 50301);
    assert_eq!(gate.reserved.len(), 1, "the ledger is away for all of them");
}

#[test]
fn ambiguous_batches_are_refused_as_a_whole() {
    let mut gate = Gate::new();
    let ping = |id: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
    let many: Vec<String> = (0..33).map(|id| ping(&id.to_string())).collect();
    for (body, version, code) in [
        ("[]".to_owned(), None, -32600),
        (format!("[{}]", many.join(",")), None, -32600),
        (format!("[{},{}]", ping("1"), ping("1")), None, -32600),
        (format!("[{},{}]", ping("\"a\""), ping("\"\\u0061\"")), None, -32600),
        (format!("[{},{}]", ping("-0"), ping("0")), None, -32600),
        (format!("[{},{}]", ping("9007199254740993"), ping("9007199254740992")), None, -32600),
        (format!("[{}", ping("1")), None, -32700),
        (format!("[{}]]", ping("1")), None, -32700),
        (format!("[{}]", ping("1")), Some("2025-06-18"), -32600),
        (format!("[{}]", ping("1")), Some("2026-07-28"), -32600),
    ] {
        let headers: Vec<(&str, &str)> =
            version.iter().map(|version| ("mcp-protocol-version", *version)).collect();
        let (status, answer) = gate.request_with("POST", "/mcp", Some(body.as_bytes()), &headers).refusal();
        assert_eq!((status, &answer["error"]["code"]), (400, &json!(code)), "{body}");
    }
    // An element that is not a message is refused alone.
    let doubled = r#"{"jsonrpc":"2.0","id":2,"method":"ping","Method":"tools/call"}"#;
    let body = format!("[{},{doubled},[{}]]", ping("1"), ping("3"));
    let headers = [("mcp-protocol-version", "2025-03-26")];
    let (_, sent) = gate.request_with("POST", "/mcp", Some(body.as_bytes()), &headers).forwarded();
    assert_eq!(sent.unwrap(), format!("[{}]", ping("1")).into_bytes());
}

#[test]
fn messages_without_a_valid_id_are_answered_with_a_null_id() {
    let mut gate = Gate::new();
    let batch = json!([call(json!(1.5), "search", json!({})), 5, call(json!(2), "search", json!({}))]);
    let (mut exchange, body) = send(&mut gate, &batch).forwarded();
    assert_eq!(forwarded(body.as_deref()), [json!(2)]);
    exchange.response_headers(200, &JSON, false, gate.now());
    let answer = json!([answered(json!(2))]).to_string();
    let merged = exchange.filter_whole(answer.as_bytes(), gate.now()).unwrap().unwrap();
    let merged: Vec<Value> = serde_json::from_slice(&merged).unwrap();
    let codes: Vec<_> = merged.iter().map(|answer| (&answer["id"], &answer["error"]["code"])).collect();
    let invalid = json!(-32600);
    assert_eq!(codes, [(&Value::Null, &invalid), (&Value::Null, &invalid), (&json!(2), &Value::Null)]);
}

#[test]
fn a_client_that_disconnects_before_a_decision_is_charged_nothing() {
    let gate = Gate::new();
    let (bearer, session) = (format!("Bearer {}", secret()), gate.session("s"));
    let headers: [(&[u8], &[u8]); 5] = [
        (b":method", b"POST"),
        (b":path", b"/mcp"),
        (b"authorization", bearer.as_bytes()),
        (b"content-type", b"application/json"),
        (b"mcp-session-id", session.as_bytes()),
    ];
    let id = EventId::parse("0192f0c0-0000-7000-8000-000000000001").unwrap();
    let (mut exchange, _) = Exchange::begin(gate.policy.clone(), id, &headers, false, gate.now());
    exchange.key_found(gate.key.clone().unwrap(), gate.now());
    let batch = json!([call(json!(1), "draw", json!({})), call(json!(2), "draw", json!({}))]).to_string();
    let mut step = exchange.body(batch.as_bytes(), gate.now());
    let mut reserved = 0;
    loop {
        step = match step {
            Step::Admit(_) => exchange.admission_answered(AdmissionAnswered::Admitted),
            Step::AskWindows { asks, .. } => {
                let (_, verdicts) = slot::take(&[], 1, &asks, &Fleet::default(), Monotonic(5)).unwrap();
                exchange.windows_asked(&verdicts)
            }
            Step::Reserve(_) if reserved == 0 => {
                reserved += 1;
                exchange.reserve_answered(ReserveAnswered::Reserved)
            }
            Step::Reserve(_) => break,
            other => panic!("{other:?}"),
        };
    }
    let finished = exchange.finish_all(End::ClientDisconnected, "e", gate.now());
    assert_eq!(finished.len(), 2);
    assert_eq!(finished[0].settlement.as_ref().map(|one| one.action), Some(Action::Void));
    // The second answer is still to come; its reservation is refunded when it arrives.
    assert!(finished[1].settlement.is_none());
}

#[test]
fn calls_without_an_answer_are_charged() {
    let mut gate = Gate::new();
    let batch = json!([call(json!(1), "draw", json!({})), call(json!(2), "draw", json!({}))]).to_string();
    let session = gate.session("s");
    let headers = [("mcp-session-id", session.as_str())];
    let mut sent = || gate.request_with("POST", "/mcp", Some(batch.as_bytes()), &headers).forwarded().0;
    let now = Now { wall: Timestamp::from_millis(1_000_000), monotonic: Monotonic(1_000_000) };
    let charged = |exchange: &Exchange, end| -> Vec<u64> {
        let finished = exchange.finish_all(end, "e", now);
        finished.iter().map(|one| one.decision.credits.get()).collect()
    };
    let failed = json!({"jsonrpc": "2.0", "id": 2, "error": {"code": 1, "message": ""}});
    let mut exchange = sent();
    exchange.response_headers(200, &EVENTS, false, now);
    let event = format!("data: {failed}\n\n");
    exchange.watch(event.as_bytes());
    exchange.filter_chunk(event.as_bytes(), false, now).unwrap();
    assert_eq!(charged(&exchange, End::Complete), [5, 0]);
    assert_eq!(charged(&exchange, End::ClientDisconnected), [5, 0]);
    assert_eq!(charged(&exchange, End::UpstreamFailed), [0, 0]);
    // A client may request the rest of a stream with ids.
    exchange.watch(b"id: 1\n\n");
    assert_eq!(charged(&exchange, End::UpstreamFailed), [5, 0]);
    // A second answer to one id, which is not passed on, makes the result unclear.
    assert_eq!(exchange.filter_chunk(event.as_bytes(), true, now).unwrap(), b"\n");
    assert_eq!(charged(&exchange, End::Complete), [5, 5]);

    let mut exchange = sent();
    assert_eq!(exchange.response_headers(202, &[], true, now).body, BodyPlan::Pass);
    assert_eq!(charged(&exchange, End::Complete), [5, 5]);
    for (status, location, credits) in [(500, "", 0), (307, "/mcp/", 0), (307, "/x/", 5)] {
        let mut exchange = sent();
        exchange.response_headers(status, &[(b"location", location.as_bytes())], false, now);
        assert_eq!(charged(&exchange, End::Complete), [credits; 2], "{status} {location}");
    }
    // A call whose answer is not passed on because it can't be read has run all the same.
    let mut exchange = sent();
    let plan = exchange.response_headers(200, &[(b"content-type", b"text/html")], false, now);
    assert!(matches!(plan.body, BodyPlan::Refuse(reply) if reply.status == 502));
    assert_eq!(charged(&exchange, End::Complete), [5, 5]);
    let mut exchange = sent();
    exchange.response_headers(200, &JSON, false, now);
    assert!(exchange.filter_whole(b"[", now).is_err());
    assert_eq!(charged(&exchange, End::Complete), [5, 5]);
    let mut exchange = sent();
    exchange.response_headers(200, &JSON, false, now);
    let answers = format!("\u{feff}[{failed},{}]", answered(json!(1.0)));
    exchange.filter_whole(answers.as_bytes(), now).unwrap();
    assert_eq!(charged(&exchange, End::Complete), [5, 0]);
    assert_eq!(charged(&sent(), End::NotSent), [0, 0]);
    assert_eq!(charged(&sent(), End::ClientDisconnected), [5, 5]);
}

#[test]
fn refusals_are_sent_even_if_the_upstream_answers_nothing() {
    let mut gate = Gate::new();
    let mixed =
        json!([call(json!(1), "wipe", json!({})), {"jsonrpc": "2.0", "method": "notifications/progress"}]);
    let (mut exchange, _) = send(&mut gate, &mixed).forwarded();
    let plan = exchange.response_headers(202, &[], true, gate.now());
    let BodyPlan::Refuse(reply) = plan.body else { panic!("{:?}", plan.body) };
    assert_eq!(reply.status, 200);
    assert_eq!(serde_json::from_slice::<Value>(&reply.body).unwrap()[0]["error"]["code"], 40301);
}
