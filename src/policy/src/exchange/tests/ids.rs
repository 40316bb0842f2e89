//! What is recorded of the ids that sessions use, and what an answer to an id proves that others used.

use super::*;

const JSON: [(&[u8], &[u8]); 1] = [(b"content-type", b"application/json")];
const EVENTS: [(&[u8], &[u8]); 1] = [(b"content-type", b"text/event-stream")];

fn gate() -> Gate {
    let mut document = document();
    document["services"]["studio"]["tools"]["lenient"] =
        json!({"risk": "read_only", "price": {"credits": 5}, "on_unknown": "refund"});
    Gate::with(document, KeyRecord { tier: "pro".into(), ..record() })
}

fn in_session(gate: &mut Gate, body: &str) -> Exchange {
    let session = gate.session("s");
    let headers = [("mcp-session-id", session.as_str())];
    gate.request_with("POST", "/mcp", Some(body.as_bytes()), &headers).forwarded().0
}

fn call(tool: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"{tool}"}}}}"#)
}

fn charged(gate: &Gate, exchange: &Exchange, end: End) -> u64 {
    exchange.finish(end, "e", gate.now()).decision.credits.get()
}

/// Statuses, bodies and ends that would change the charge of a call that was alone with its id.
const PROOFS: [(u16, &str, End); 6] = [
    (200, r#"{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"no"}}"#, End::Complete),
    (200, r#"{"jsonrpc":"2.0","id":7,"result":{"isError":true}}"#, End::Complete),
    (200, r#"{"jsonrpc":"2.0","id":7,"result":{"resultType":"input_required"}}"#, End::Complete),
    (500, "", End::Complete),
    (404, "", End::Complete),
    (200, "", End::UpstreamFailed),
];

#[test]
fn nothing_that_the_upstream_sends_is_proof_if_another_request_may_have_used_the_id() {
    for (status, body, end) in PROOFS {
        for (tool, doubted) in [("draw", 5), ("lenient", 0)] {
            let mut gate = gate();
            let mut exchange = in_session(&mut gate, &call(tool));
            exchange.response_headers(status, &JSON, body.is_empty() && end == End::Complete, gate.now());
            exchange.watch(body.as_bytes());
            let used: Vec<_> = exchange.uses_to_prove(end).collect();
            assert_eq!(used, exchange.uses().collect::<Vec<_>>(), "{status} {body}");
            assert_eq!(charged(&gate, &exchange, end), 0);
            exchange.doubt(used[0]);
            assert_eq!(charged(&gate, &exchange, end), doubted, "{status} {body}");
        }
    }
}

#[test]
fn what_needs_no_proof_is_not_looked_up() {
    let mut gate = gate();
    for (tool, body, end) in [
        ("draw", r#"{"jsonrpc":"2.0","id":7,"result":{}}"#, End::Complete),
        ("draw", "", End::ClientDisconnected),
        ("draw", PROOFS[0].1, End::NotSent),
        ("search", PROOFS[0].1, End::Complete),
    ] {
        let mut exchange = in_session(&mut gate, &call(tool));
        exchange.response_headers(200, &JSON, false, gate.now());
        exchange.watch(body.as_bytes());
        assert_eq!(exchange.uses_to_prove(end).count(), 0, "{tool} {body}");
        gate.now_ms += 60_000;
    }
    let (mut exchange, _) = gate.request("POST", "/mcp", Some(call("draw").as_bytes())).forwarded();
    exchange.response_headers(500, &JSON, true, gate.now());
    assert_eq!(exchange.uses().chain(exchange.uses_to_prove(End::Complete)).count(), 0, "without a session");
}

#[test]
fn a_request_has_its_answer_once_a_message_with_its_id_has_arrived() {
    let list = r#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#;
    let ping = r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#;
    let answer = r#"{"jsonrpc":"2.0","id":7,"result":{}}"#;
    let note = r#"{"jsonrpc":"2.0","method":"notifications/progress"}"#;
    let event = |text: &str| format!("data: {text}\n\n");
    let mut gate = gate();
    for (request, status, headers, body, end, expected) in [
        (call("draw"), 200, JSON, answer.to_owned(), End::Complete, true),
        (call("draw"), 200, JSON, "{".to_owned(), End::ClientDisconnected, false),
        (call("draw"), 200, EVENTS, event(note) + &event(answer), End::ClientDisconnected, true),
        (call("draw"), 200, EVENTS, event(note), End::Complete, false),
        (call("draw"), 202, JSON, String::new(), End::Complete, false),
        (call("draw"), 504, JSON, String::new(), End::Complete, false),
        (ping.to_owned(), 200, JSON, answer.to_owned(), End::Complete, true),
        (ping.to_owned(), 200, JSON, answer.to_owned(), End::ClientDisconnected, false),
        (ping.to_owned(), 200, EVENTS, event(answer), End::ClientDisconnected, true),
        (ping.to_owned(), 200, EVENTS, event(note), End::Complete, false),
        (ping.to_owned(), 400, JSON, answer.to_owned(), End::Complete, false),
        (list.to_owned(), 200, JSON, answer.to_owned(), End::Complete, true),
        (list.to_owned(), 200, EVENTS, event(answer), End::ClientDisconnected, true),
        (list.to_owned(), 200, EVENTS, event(note), End::UpstreamFailed, false),
    ] {
        let mut exchange = in_session(&mut gate, &request);
        exchange.response_headers(status, &headers, body.is_empty(), gate.now());
        exchange.watch(body.as_bytes());
        let ended: Vec<bool> = exchange.ended_uses(end).map(|ended| ended.is_answered).collect();
        assert_eq!(ended, [expected], "{request} {status} {body} {end:?}");
        gate.now_ms += 60_000;
    }
    let notification = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    let own_answer = r#"{"jsonrpc":"2.0","id":7,"result":{}}"#;
    for body in [notification, own_answer] {
        assert_eq!(in_session(&mut gate, body).uses().count(), 0, "{body}");
    }
}

#[test]
fn each_message_of_a_batch_is_proven_by_itself() {
    let mut gate = gate();
    let batch = [8, 9].map(|id| call("draw").replace("\"id\":7", &format!("\"id\":{id}"))).join(",");
    let ping = r#"{"jsonrpc":"2.0","id":"7","method":"ping"}"#;
    let mut exchange = in_session(&mut gate, &format!("[{batch},{ping}]"));
    let uses: Vec<_> = exchange.uses().collect();
    assert_eq!(uses.len(), 3);
    assert!(uses.iter().all(|used| used.owner == uses[0].owner));
    exchange.response_headers(200, &EVENTS, false, gate.now());
    for id in ["8", "9"] {
        let event = format!(
            "data: {{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{{\"code\":1,\"message\":\"\"}}}}\n\n"
        );
        exchange.filter_chunk(event.as_bytes(), false, gate.now()).unwrap();
    }
    assert_eq!(exchange.uses_to_prove(End::Complete).collect::<Vec<_>>(), uses[..2]);
    let answered: Vec<bool> = exchange.ended_uses(End::Complete).map(|ended| ended.is_answered).collect();
    assert_eq!(answered, [true, true, false]);
    exchange.doubt(uses[0]);
    let finished = exchange.finish_all(End::Complete, "e", gate.now());
    let credits: Vec<u64> = finished.iter().map(|finished| finished.decision.credits.get()).collect();
    assert_eq!(credits, [5, 0, 0]);
}
