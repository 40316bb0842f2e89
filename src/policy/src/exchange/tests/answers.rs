//! Responses: what each ending charges, which part of a list is shown, and the headers of every response.

use super::*;

/// The charge for a call of 5 credits and its outcome, under either value of `on_unknown`.
fn settled(gate: &mut Gate, respond: impl Fn(&mut Exchange, Now), end: End) -> [(u64, Outcome); 2] {
    ["charge", "refund"].map(|on_unknown| {
        let mut document = document();
        document["services"]["studio"]["tools"]["draw"]["on_unknown"] = json!(on_unknown);
        gate.policy = Arc::new(Policy::from_json(document.to_string().as_bytes()).unwrap());
        let (mut exchange, _) = gate.call("draw", json!({})).forwarded();
        respond(&mut exchange, gate.now());
        let finished = exchange.finish(end, "envoy-1", gate.now());
        let expected = match finished.decision.credits {
            Credits::ZERO => Action::Void,
            credits => Action::Post { credits },
        };
        assert_eq!(finished.settlement.unwrap().action, expected);
        (finished.decision.credits.get(), finished.decision.outcome)
    })
}

#[test]
fn calls_that_went_upstream_are_charged_unless_they_were_seen_to_fail() {
    const JSON: &str = "application/json";
    const EVENTS: &str = "text/event-stream";
    let success = r#"{"jsonrpc":"2.0","id":7,"result":{"content":[]}}"#;
    let tool_error = r#"{"jsonrpc":"2.0","id":7,"result":{"content":[],"isError":true}}"#;
    let rpc_error = r#"{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":""}}"#;
    let input = r#"{"jsonrpc":"2.0","id":7,"result":{"resultType":"input_required"}}"#;
    let of_other = r#"{"jsonrpc":"2.0","id":"7","error":{"code":1,"message":""}}"#;
    let event = |message: &str| format!("data: {message}\n\n");
    let (allowed, failed, cancelled) = (Outcome::Allowed, Outcome::UpstreamError, Outcome::Cancelled);
    // A success, a failure, and neither.
    let (yes, no, unknown) = ([5, 5], [0, 0], [5, 0]);
    for (status, content_type, body, end, charged, outcome) in [
        (200, JSON, success, End::Complete, yes, allowed),
        (200, JSON, tool_error, End::Complete, no, failed),
        (200, JSON, rpc_error, End::Complete, no, failed),
        (200, "text/json", rpc_error, End::Complete, no, failed),
        (200, JSON, input, End::Complete, no, allowed),
        (200, EVENTS, &event(tool_error), End::Complete, no, failed),
        (500, JSON, success, End::Complete, no, failed),
        (404, JSON, success, End::Complete, no, failed),
        (400, JSON, "", End::ClientDisconnected, no, failed),
        // Answers that can't be understood.
        (200, JSON, "", End::Complete, unknown, allowed),
        (200, "text/plain", rpc_error, End::Complete, unknown, allowed),
        (200, "", rpc_error, End::Complete, unknown, allowed),
        (200, JSON, of_other, End::Complete, unknown, allowed),
        (200, EVENTS, &event(of_other), End::Complete, unknown, allowed),
        (200, EVENTS, "", End::Complete, unknown, allowed),
        (202, JSON, rpc_error, End::Complete, unknown, allowed),
        (204, JSON, "", End::Complete, unknown, allowed),
        (303, JSON, rpc_error, End::Complete, unknown, allowed),
        // The upstream broke off the response, before an answer began or after.
        (200, JSON, "", End::UpstreamFailed, no, failed),
        (200, JSON, &success[..30], End::UpstreamFailed, no, failed),
        (200, JSON, &success[..44], End::UpstreamFailed, yes, allowed),
        (200, JSON, success, End::UpstreamFailed, yes, allowed),
        (200, JSON, tool_error, End::UpstreamFailed, no, failed),
        (200, EVENTS, &event("{\"method\":\"x\"}"), End::UpstreamFailed, no, failed),
        (200, EVENTS, "id: 1\ndata:\n\n", End::UpstreamFailed, unknown, allowed),
        (200, "text/plain", "", End::UpstreamFailed, no, failed),
        (200, "text/plain", "x", End::UpstreamFailed, unknown, allowed),
        // The client disconnected, after it got the result or before.
        (200, JSON, &success[..44], End::ClientDisconnected, yes, allowed),
        (200, JSON, &success[..20], End::ClientDisconnected, unknown, cancelled),
        (200, EVENTS, &event(tool_error), End::ClientDisconnected, no, failed),
        (200, EVENTS, &tool_error[..50], End::ClientDisconnected, unknown, cancelled),
        (0, "", "", End::ClientDisconnected, unknown, cancelled),
        (0, "", "", End::NotSent, no, cancelled),
    ] {
        let respond = |exchange: &mut Exchange, now: Now| {
            if status != 0 {
                let headers: [(&[u8], &[u8]); 1] = [(b"content-type", content_type.as_bytes())];
                exchange.response_headers(status, &headers, false, now);
                exchange.watch(body.as_bytes());
                if !body.is_empty() {
                    exchange.body_arrived();
                }
            }
        };
        let settled = settled(&mut Gate::new(), respond, end);
        let case = format!("{status} {content_type} {body} {end:?}");
        assert_eq!(settled.map(|(credits, _)| credits), charged, "{case}");
        assert_eq!(settled.map(|(_, outcome)| outcome), [outcome; 2], "{case}");
    }
}

#[test]
fn an_answer_that_the_gate_does_not_read_refunds_nothing() {
    let rpc_error = br#"{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":""}}"#;
    let json: (&[u8], &[u8]) = (b"content-type", b"application/json");
    for (headers, charged) in [
        (vec![json], 0),
        (vec![json, json], 0),
        (vec![json, (b"content-encoding", b"identity")], 0),
        (vec![json, (b"content-encoding", b"gzip")], 5),
        (vec![json, (b"content-type", b"text/event-stream")], 5),
        (vec![(b"content-type", b"application/json, text/plain")], 5),
    ] {
        let respond = |exchange: &mut Exchange, now: Now| {
            exchange.response_headers(200, &headers, false, now);
            exchange.body_arrived();
            exchange.watch(rpc_error);
        };
        let settled = settled(&mut Gate::new(), respond, End::Complete);
        assert_eq!(settled[0].0, charged, "{headers:?}");
    }
}

#[test]
fn a_call_that_is_sent_to_its_path_with_another_last_slash_is_charged_there() {
    for (status, location, charged) in [
        (307, "/mcp/", 0),
        (308, "http://gate/mcp/", 0),
        (301, "/mcp/", 5),
        (307, "/other/", 5),
        (307, "/mcp", 5),
        (307, "", 5),
    ] {
        let respond = |exchange: &mut Exchange, now: Now| {
            exchange.response_headers(status, &[(b"location", location.as_bytes())], true, now);
        };
        let settled = settled(&mut Gate::new(), respond, End::Complete);
        assert_eq!(settled[0], (charged, Outcome::Allowed), "{status} {location}");
    }
}

#[test]
fn an_http_call_is_charged_by_its_status() {
    for (status, has_body, end, charged) in [
        (200, true, End::Complete, [2, 2]),
        (204, false, End::Complete, [2, 2]),
        (302, false, End::Complete, [2, 2]),
        (404, true, End::Complete, [0, 0]),
        (503, true, End::Complete, [0, 0]),
        (200, false, End::UpstreamFailed, [0, 0]),
        (200, true, End::UpstreamFailed, [2, 2]),
        (200, true, End::ClientDisconnected, [2, 2]),
        (200, false, End::ClientDisconnected, [2, 0]),
        (0, false, End::ClientDisconnected, [2, 0]),
        (0, false, End::NotSent, [0, 0]),
    ] {
        let settled = ["charge", "refund"].map(|on_unknown| {
            let mut document = document();
            document["services"]["ci"]["tools"]["POST /p/{id}"]["on_unknown"] = json!(on_unknown);
            let mut gate = Gate::with(document, record());
            let (mut exchange, _) = gate.request("POST", "/api/p/1", Some(b"anything")).forwarded();
            if status != 0 {
                exchange.response_headers(status, &[], false, gate.now());
            }
            if has_body {
                exchange.body_arrived();
            }
            exchange.finish(end, "e", gate.now()).decision.credits.get()
        });
        assert_eq!(settled, charged, "{status} {has_body} {end:?}");
    }
}

#[test]
fn lists_show_only_what_the_key_may_call() {
    let mut read_only = record();
    read_only.scopes = vec!["read".into()];
    let mut gate = Gate::with(document(), read_only);
    let (mut exchange, _) = gate.method("tools/list").forwarded();
    assert!(
        exchange.headers_to_set().any(|(name, value)| (name, &*value) == ("accept-encoding", "identity"))
    );
    let json: [(&[u8], &[u8]); 1] = [(b"content-type", b"application/json")];
    assert_eq!(exchange.response_headers(200, &json, false, gate.now()).body, BodyPlan::Hold);
    let list = br#"{"id":1,"result":{"tools":[{"name":"draw"},{"name":"search"},{"name":"other"}]}}"#;
    let filtered = exchange.filter_whole(list, gate.now()).unwrap().unwrap();
    assert_eq!(filtered, br#"{"id":1,"result":{"tools":[{"name":"search"}]}}"#);
    assert_eq!(exchange.filter_whole(b"garbage", gate.now()).unwrap_err().status, 502);
}

#[test]
fn a_list_that_cannot_be_read_is_not_passed_on() {
    let mut gate = Gate::new();
    for headers in [
        vec![(b"content-type".as_slice(), b"application/json".as_slice()), (b"content-encoding", b"gzip")],
        vec![(b"content-type", b"text/html")],
        vec![],
    ] {
        let (mut exchange, _) = gate.method("tools/list").forwarded();
        let plan = exchange.response_headers(200, &headers, false, gate.now());
        assert!(matches!(plan.body, BodyPlan::Refuse(reply) if reply.status == 502), "{headers:?}");
    }
}

#[test]
fn every_response_has_rate_headers() {
    let mut gate = Gate::new();
    let (mut exchange, _) = gate.call("search", json!({})).forwarded();
    let plan = exchange.response_headers(200, &[], true, gate.now());
    let set = |name: &str| plan.set.iter().find(|(own, _)| *own == name).map(|(_, value)| value).unwrap();
    assert_eq!(set("ratelimit-policy"), "\"key-60s\";q=100;w=60, \"tool-10s\";q=1;w=10");
    assert!(set("ratelimit").starts_with("\"key-60s\";r=99;t="));
    assert_eq!((set("x-ratelimit-limit"), set("x-ratelimit-remaining")), ("1", "0"));
}

#[test]
fn a_body_larger_than_envoys_buffer_is_refused_in_the_services_form() {
    let gate = Gate::new();
    let bearer = format!("Bearer {}", secret());
    let headers: [(&[u8], &[u8]); 3] =
        [(b":method", b"POST"), (b":path", b"/mcp"), (b"authorization", bearer.as_bytes())];
    let id = EventId::from_bits(1);
    let (mut exchange, _) = Exchange::begin(gate.policy.clone(), id, &headers, false, gate.now());
    assert!(exchange.is_answered_by_envoy(413, || true));
    let plan = exchange.answered_by_envoy(413, false, false, gate.now());
    let BodyPlan::Replace(body) = plan.body else { panic!("{:?}", plan.body) };
    assert!(plan.set.iter().any(|set| set == ("content-length", &body.len().to_string())));
    assert!(plan.set.iter().any(|set| set == ("content-type", "application/json")));
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["error"]["code"], 41301);
    let finished = exchange.finish(End::Complete, "e", gate.now());
    assert_eq!(finished.decision.outcome, Outcome::InvalidRequest);
}

#[test]
fn envoys_own_error_answers_are_recognised_and_refund() {
    let mut gate = Gate::new();
    for (status, code) in [(503, 50302), (504, 50402), (404, 40402)] {
        let (mut exchange, _) = gate.call("draw", json!({"q": "a"})).forwarded();
        assert!(!exchange.is_answered_by_envoy(status, || true));
        assert!(!exchange.is_answered_by_envoy(200, || false));
        assert!(exchange.is_answered_by_envoy(status, || false));
        // Without a body there is nothing to replace.
        let BodyPlan::Refuse(bare) = exchange.answered_by_envoy(status, true, true, gate.now()).body else {
            panic!("the body stays as it is")
        };
        let plan = exchange.answered_by_envoy(status, true, false, gate.now());
        assert_eq!(plan.body, BodyPlan::Replace(bare.body.clone()));
        assert!(plan.set.iter().any(|(name, _)| name == "ratelimit"));
        let error = &serde_json::from_slice::<Value>(&bare.body).unwrap()["error"];
        assert_eq!((bare.status, &error["code"]), (status, &json!(code)));
        assert_eq!(error["data"]["reason"], "upstream_error");
        let finished = exchange.finish(End::Complete, "e", gate.now());
        assert_eq!(finished.decision.outcome, Outcome::UpstreamError);
        assert_eq!(finished.decision.credits, Credits::ZERO);
    }
}

#[test]
fn a_held_list_that_is_too_large_is_a_502() {
    let mut gate = Gate::new();
    let (mut exchange, _) = gate.method("tools/list").forwarded();
    let headers: [(&[u8], &[u8]); 1] = [(b"content-type", b"application/json")];
    assert_eq!(exchange.response_headers(200, &headers, false, gate.now()).body, BodyPlan::Hold);
    let mut body = br#"{"result":{"tools":[]}}"#.to_vec();
    assert_eq!(exchange.filter_whole(&body, gate.now()), Ok(None));
    body.resize(HELD_BYTES_MAX + 1, b' ');
    let reply = exchange.filter_whole(&body, gate.now()).unwrap_err();
    assert_eq!(reply.status, 502);
    assert!(reply.headers.iter().any(|(name, _)| name == "ratelimit"));
}
