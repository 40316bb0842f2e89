//! What comes back: what each ending charges, what of a list is shown, and what every response tells.

use super::*;

#[test]
fn only_a_success_is_charged() {
    let json_type = "application/json";
    let success = r#"{"jsonrpc":"2.0","id":7,"result":{"content":[]}}"#;
    let tool_error = r#"{"jsonrpc":"2.0","id":7,"result":{"content":[],"isError":true}}"#;
    let rpc_error = r#"{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":""}}"#;
    let input = r#"{"jsonrpc":"2.0","id":7,"result":{"resultType":"input_required"}}"#;
    let of_other = r#"{"jsonrpc":"2.0","id":"7","result":{"content":[]}}"#;
    for (status, content_type, body, end, charged, outcome) in [
        (200, json_type, success, End::Complete, 5, Outcome::Allowed),
        (200, json_type, tool_error, End::Complete, 0, Outcome::UpstreamError),
        (200, json_type, rpc_error, End::Complete, 0, Outcome::UpstreamError),
        (200, json_type, input, End::Complete, 0, Outcome::Allowed),
        (500, json_type, success, End::Complete, 0, Outcome::UpstreamError),
        (404, json_type, success, End::Complete, 0, Outcome::UpstreamError),
        (200, json_type, "", End::Complete, 0, Outcome::UpstreamError),
        (200, "text/plain", "done", End::Complete, 0, Outcome::UpstreamError),
        (200, json_type, &success[..44], End::UpstreamFailed, 0, Outcome::UpstreamError),
        // It broke behind the answer.
        (200, json_type, success, End::UpstreamFailed, 5, Outcome::Allowed),
        (200, json_type, tool_error, End::UpstreamFailed, 0, Outcome::UpstreamError),
        // Of another call: this one was not answered.
        (200, json_type, of_other, End::Complete, 0, Outcome::UpstreamError),
        // A client that leaves with the result in its hands has had it.
        (200, json_type, &success[..44], End::ClientLeft, 5, Outcome::Allowed),
        (200, json_type, &success[..20], End::ClientLeft, 0, Outcome::Cancelled),
        (0, "", "", End::ClientLeft, 0, Outcome::Cancelled),
    ] {
        let mut gate = Gate::new();
        let (mut exchange, _) = gate.call("draw", json!({})).forwarded();
        if status != 0 {
            let headers: [(&[u8], &[u8]); 1] = [(b"content-type", content_type.as_bytes())];
            exchange.response_headers(status, &headers, false, gate.now());
            exchange.watch(body.as_bytes());
        }
        let finished = exchange.finish(end, "envoy-1", gate.now());
        let case = format!("{status} {content_type} {body} {end:?}");
        assert_eq!(
            (finished.decision.credits.get(), finished.decision.outcome),
            (charged, outcome),
            "{case}"
        );
        let action = finished.settlement.unwrap().action;
        let expected = match Credits::new(charged).unwrap() {
            Credits::ZERO => Action::Void,
            credits => Action::Post { credits },
        };
        assert_eq!(action, expected, "{case}");
    }
}

#[test]
fn an_http_call_is_charged_by_its_status() {
    for (status, end, charged) in [
        (200, End::Complete, 2),
        (302, End::Complete, 2),
        (404, End::Complete, 0),
        (503, End::Complete, 0),
        (200, End::UpstreamFailed, 0),
        (200, End::ClientLeft, 2),
    ] {
        let mut gate = Gate::new();
        let (mut exchange, _) = gate.request("POST", "/api/p/1", Some(b"anything")).forwarded();
        exchange.response_headers(status, &[], false, gate.now());
        assert_eq!(exchange.finish(end, "e", gate.now()).decision.credits.get(), charged, "{status} {end:?}");
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
fn every_response_tells_what_is_left() {
    let mut gate = Gate::new();
    let (mut exchange, _) = gate.call("search", json!({})).forwarded();
    let plan = exchange.response_headers(200, &[], true, gate.now());
    let set = |name: &str| plan.set.iter().find(|(own, _)| *own == name).map(|(_, value)| value).unwrap();
    assert_eq!(set("ratelimit-policy"), "\"key-60s\";q=100;w=60, \"tool-10s\";q=1;w=10");
    assert!(set("ratelimit").starts_with("\"key-60s\";r=99;t="));
    assert_eq!((set("x-ratelimit-limit"), set("x-ratelimit-remaining")), ("1", "0"));
}

#[test]
fn a_body_that_outgrew_envoys_buffer_is_refused_in_the_services_form() {
    let gate = Gate::new();
    let bearer = format!("Bearer {}", secret());
    let headers: [(&[u8], &[u8]); 3] =
        [(b":method", b"POST"), (b":path", b"/mcp"), (b"authorization", bearer.as_bytes())];
    let id = EventId::parse("e").unwrap();
    let (mut exchange, _) = Exchange::begin(gate.policy.clone(), id, &headers, false, gate.now());
    assert!(exchange.is_answered_by_envoy(413, || true));
    let plan = exchange.answered_by_envoy(413, false, gate.now());
    let BodyPlan::Replace(body) = plan.body else { panic!("{:?}", plan.body) };
    assert!(plan.set.iter().any(|set| set == ("content-length", &body.len().to_string())));
    assert!(plan.set.iter().any(|set| set == ("content-type", "application/json")));
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["error"]["code"], 41301);
    let finished = exchange.finish(End::Complete, "e", gate.now());
    assert_eq!(finished.decision.outcome, Outcome::InvalidRequest);
}

#[test]
fn envoys_own_answers_are_told_from_the_upstreams_and_refund() {
    let mut gate = Gate::new();
    for (status, code) in [(503, 50302), (504, 50402), (404, 40402)] {
        let (mut exchange, _) = gate.call("draw", json!({"q": "a"})).forwarded();
        assert!(!exchange.is_answered_by_envoy(status, || true));
        assert!(!exchange.is_answered_by_envoy(200, || false));
        assert!(exchange.is_answered_by_envoy(status, || false));
        // Without a body there is nothing to replace.
        let BodyPlan::Refuse(bare) = exchange.answered_by_envoy(status, true, gate.now()).body else {
            panic!("the body stays as it is")
        };
        let plan = exchange.answered_by_envoy(status, false, gate.now());
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
