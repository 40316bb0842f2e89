//! The gate's own tools: who may call them, their arguments, their results, and where lists show them.

use super::*;
use crate::rules::gate_tools::Kind as GateKind;
use protocol::AgentId;
use protocol::filter::Issued;
use protocol::key::{Limit, Parent};

fn offering() -> Value {
    let mut document = document();
    document["services"]["studio"]["gate_tools"] =
        json!({"list_services": {"risk": "read_only"}, "request_key": {"risk": "local_mutation"}});
    document
}

fn issued() -> IssueAnswered {
    IssueAnswered::Issued(Box::new(Issued {
        key_id: KeyId::parse("key_2").unwrap(),
        secret: "ark_secret".into(),
        agent_id: AgentId::parse("agt_1").unwrap(),
        scopes: vec!["read".into()],
        expires_at: Timestamp::from_millis(4_600_000),
    }))
}

fn child() -> KeyRecord {
    let parent = Parent {
        agent_id: None,
        concurrency: None,
        key_id: KeyId::parse("key_1").unwrap(),
        limits: vec![Limit { permits: 5, window_seconds: 60 }],
    };
    KeyRecord {
        key_id: KeyId::parse("key_2").unwrap(),
        limits: vec![Limit { permits: 2, window_seconds: 60 }],
        parent: Some(parent),
        source: KeySource::Mcp,
        ..record()
    }
}

#[test]
fn a_key_is_requested_with_the_callers_arguments_and_the_defaults() {
    let mut gate = Gate::with(offering(), record());
    gate.issues = issued();
    for (arguments, ttl_seconds, rate_limit) in [
        (json!({"service_name": "ci"}), 3600, 60),
        (json!({"service_name": "ci", "ttl_seconds": 1, "rate_limit": 1_000_000}), 1, 1_000_000),
    ] {
        let (status, answer) = gate.call("request_key", arguments).refusal();
        let expected = json!({
            "api_key": "ark_secret", "key_id": "key_2", "agent_id": "agt_1", "service_name": "ci",
            "path": "/api", "scopes": ["read"], "rate_limit": rate_limit, "expires_at": "1970-01-01T01:16:40.000Z",
        });
        assert_eq!((status, &answer["result"]["structuredContent"]), (200, &expected));
        let text = answer["result"]["content"][0]["text"].as_str().unwrap();
        assert_eq!(serde_json::from_str::<Value>(text).unwrap(), expected);
        assert_eq!((&answer["id"], &answer["result"]["isError"]), (&json!(7), &json!(false)));
        let asked = gate.asked.pop().unwrap();
        assert_eq!((asked.ttl_seconds, asked.rate_limit), (ttl_seconds, rate_limit));
        assert_eq!(asked.parent, KeyHash::of(secret().as_bytes()));
    }
}

#[test]
fn faults_are_json_rpc_errors_that_say_why_in_every_form() {
    for form in ["http", "mcp-http", "mcp-tool"] {
        let mut document = offering();
        document["services"]["studio"]["refusals"] = json!(form);
        let held = Some(vec![Grant { name: "studio".into(), expires_at: None }]);
        let mut gate = Gate::with(document, KeyRecord { services: held, ..record() });
        for (arguments, word) in [
            (json!({}), "missing"),
            (json!({"service_name": null}), "must be a string"),
            (json!({"service_name": ["studio"]}), "must be a string"),
            (json!({"service_name": "nothing"}), "not a service"),
            // The answer does not reveal services that the key may not use.
            (json!({"service_name": "ci"}), "not a service"),
            (json!({"service_name": "studio", "ttl_seconds": 0}), "`ttl_seconds` must be"),
            (json!({"service_name": "studio", "ttl_seconds": -1}), "`ttl_seconds` must be"),
            (json!({"service_name": "studio", "ttl_seconds": 1.5}), "`ttl_seconds` must be"),
            (json!({"service_name": "studio", "ttl_seconds": "60"}), "`ttl_seconds` must be"),
            (json!({"service_name": "studio", "ttl_seconds": 86401}), "`ttl_seconds` must be"),
            (json!({"service_name": "studio", "rate_limit": 0}), "`rate_limit` must be"),
            (json!({"service_name": "studio", "rate_limit": 1e9}), "`rate_limit` must be"),
            (json!({"service_name": "studio", "scopes": ["admin"]}), "not an argument"),
        ] {
            let (status, answer) = gate.call("request_key", arguments.clone()).refusal();
            assert_eq!((status, &answer["error"]["code"]), (200, &json!(-32602)), "{form} {arguments}");
            assert!(
                answer["error"]["message"].as_str().unwrap().contains(word),
                "{form} {arguments}: {answer}"
            );
            assert_eq!(answer["id"], 7);
        }
        assert_eq!(gate.asked, []);
    }
}

#[test]
fn refusals_by_the_ledger_look_like_any_refusal() {
    let mut gate = Gate::with(offering(), record());
    for (answer, status, code) in [
        (IssueAnswered::KeyInactive, 401, 40101),
        (IssueAnswered::NotGranted, 403, 40301),
        (IssueAnswered::TooMany, 402, 40201),
        (IssueAnswered::Unavailable, 503, 50301),
    ] {
        gate.issues = answer;
        let (said, answer) = gate.call("request_key", json!({"service_name": "ci"})).refusal();
        assert_eq!((said, &answer["error"]["code"]), (status, &json!(code)));
    }
}

#[test]
fn keys_that_may_not_call_gate_tools_do_not_see_them() {
    let tools = |names: &[&str]| {
        Some(names.iter().map(|name| Grant { name: (*name).into(), expires_at: None }).collect::<Vec<_>>())
    };
    for (own, status, seen) in [
        (record(), 200, vec!["list_services", "request_key"]),
        (KeyRecord { scopes: vec!["read".into()], ..record() }, 403, vec!["list_services"]),
        (KeyRecord { tools: tools(&["draw"]), ..record() }, 403, vec![]),
        (KeyRecord { tools: tools(&["request_key"]), ..record() }, 200, vec!["request_key"]),
        (child(), 403, vec!["list_services"]),
    ] {
        let mut gate = Gate::with(offering(), own);
        gate.issues = issued();
        assert_eq!(gate.call("request_key", json!({"service_name": "ci"})).refusal().0, status);
        assert_eq!(listed(&mut gate, json!({}), r#"{"id":1,"result":{"tools":[]}}"#), seen);
    }
    // Without the setting in the policy there are none.
    assert_eq!(Gate::new().call("request_key", json!({"service_name": "ci"})).refusal().0, 404);
    assert_eq!(listed(&mut Gate::new(), json!({}), r#"{"id":1,"result":{"tools":[]}}"#), [""; 0]);
}

fn listed(gate: &mut Gate, params: Value, list: &str) -> Vec<String> {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": params});
    let (mut exchange, _) = gate.request("POST", "/mcp", Some(body.to_string().as_bytes())).forwarded();
    let json: [(&[u8], &[u8]); 1] = [(b"content-type", b"application/json")];
    assert_eq!(exchange.response_headers(200, &json, false, gate.now()).body, BodyPlan::Hold);
    let filtered = exchange.filter_whole(list.as_bytes(), gate.now()).unwrap();
    let shown: Value = serde_json::from_slice(&filtered.unwrap_or_else(|| list.into())).unwrap();
    let names = shown["result"]["tools"].as_array().unwrap().iter();
    names.map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn gate_tools_are_on_the_first_page_and_hide_upstream_tools_of_their_name() {
    let mut gate = Gate::with(offering(), record());
    let list = r#"{"id":1,"result":{"tools":[{"name":"request_key"},{"name":"draw"}],"nextCursor":"2"}}"#;
    assert_eq!(listed(&mut gate, json!({}), list), ["draw", "list_services", "request_key"]);
    assert_eq!(listed(&mut gate, json!({"cursor": ""}), list), ["draw"]);
    for kind in [GateKind::ListServices, GateKind::RequestKey] {
        let tool: Value = serde_json::from_str(kind.definition()).unwrap();
        assert_eq!((&tool["name"], &tool["inputSchema"]["type"]), (&json!(kind.name()), &json!("object")));
        if kind == GateKind::RequestKey {
            let properties = &tool["inputSchema"]["properties"];
            assert_eq!(properties["ttl_seconds"]["maximum"], IssueRequest::TTL_SECONDS_MAX);
            assert_eq!(properties["rate_limit"]["maximum"], Limit::PERMITS_MAX);
        }
    }
}

#[test]
fn list_services_shows_only_services_that_the_key_may_use() {
    let services = |own: KeyRecord| {
        let answer = Gate::with(offering(), own).call("list_services", json!({})).refusal().1;
        answer["result"]["structuredContent"]["services"].clone()
    };
    let ci = json!({"name": "ci", "kind": "http", "path": "/api"});
    let studio = json!({"name": "studio", "kind": "mcp", "path": "/mcp"});
    assert_eq!(services(record()), json!([ci, studio]));
    let held = Some(vec![Grant { name: "studio".into(), expires_at: None }]);
    assert_eq!(services(KeyRecord { services: held, ..record() }), json!([studio]));
}

#[test]
fn parent_and_child_keys_share_the_parents_limits() {
    let mut parent = record();
    parent.limits = vec![Limit { permits: 5, window_seconds: 60 }];
    let mut gate = Gate::with(document(), parent);
    let ask = |gate: &mut Gate, own: KeyRecord| {
        gate.key = Some(Arc::new(Key::new(own)));
        matches!(gate.method("prompts/list"), Decided::Forwarded(..))
    };
    let parent = gate.key.clone().unwrap().record.clone();
    let second = KeyRecord { key_id: KeyId::parse("key_3").unwrap(), ..child() };
    // Two of each child key's own limit, five of all together.
    assert!(ask(&mut gate, child()) && ask(&mut gate, child()) && !ask(&mut gate, child()));
    assert!(ask(&mut gate, second.clone()) && ask(&mut gate, second.clone()));
    assert!(ask(&mut gate, parent.clone()));
    assert!(!ask(&mut gate, parent) && !ask(&mut gate, second));
}

#[test]
fn lists_show_the_terms_if_show_terms_is_set() {
    let mut document = document();
    document["services"]["studio"]["show_terms"] = json!(true);
    let mut gate = Gate::with(document, record());
    let (mut exchange, _) = gate.method("tools/list").forwarded();
    let json: [(&[u8], &[u8]); 1] = [(b"content-type", b"application/json")];
    exchange.response_headers(200, &json, false, gate.now());
    let list = br#"{"id":1,"result":{"tools":[{"name":"draw"},{"name":"search"},{"name":"wipe"}]}}"#;
    let shown = exchange.filter_whole(list, gate.now()).unwrap().unwrap();
    let shown: Value = serde_json::from_slice(&shown).unwrap();
    let terms = |index: usize| shown["result"]["tools"][index]["_meta"]["agentrelay/terms"].clone();
    let times = json!({"argument": "q", "values": {"a": 1, "b": 8}, "default": "a"});
    let price = json!({"credits": 5, "times": times});
    let requires = json!([{"tier": "pro", "argument": "q", "value": "b"}]);
    assert_eq!(terms(0), json!({"scopes": ["generate"], "limits": [], "price": price, "requires": requires}));
    let limits = json!([{"permits": 1, "window_seconds": 10}]);
    assert_eq!(terms(1), json!({"scopes": ["read"], "limits": limits}));
}

#[test]
fn descriptions_say_the_terms_where_the_policy_says_so() {
    let mut document = document();
    document["services"]["studio"]["terms"] = json!("describe");
    let mut gate = Gate::with(document.clone(), record());
    let (mut exchange, _) = gate.method("tools/list").forwarded();
    let json: [(&[u8], &[u8]); 1] = [(b"content-type", b"application/json")];
    exchange.response_headers(200, &json, false, gate.now());
    let list =
        br#"{"id":1,"result":{"tools":[{"name":"draw","description":"1-20 credits."},{"name":"search"}]}}"#;
    let shown = exchange.filter_whole(list, gate.now()).unwrap().unwrap();
    let shown: Value = serde_json::from_slice(&shown).unwrap();
    let tool = |index: usize| shown["result"]["tools"][index].clone();
    assert_eq!(
        tool(0)["description"],
        "1-20 credits.\n\nTerms of use: credits a call, by `q`: a 5, b 40, and a if it is absent. `q` b needs tier pro or \
         higher."
    );
    assert_eq!(tool(1)["description"], "Terms of use: free of charge. At most 1 calls in 10 s for each key.");
    assert_eq!(tool(1)["_meta"]["agentrelay/terms"]["limits"][0]["permits"], 1);
    document["services"]["studio"]["show_terms"] = json!(true);
    let invalid = Policy::from_json(document.to_string().as_bytes()).unwrap_err();
    assert_eq!(invalid.faults(), ["services.studio.show_terms: `terms` says it; leave this out"]);
}

#[test]
fn a_policy_with_a_duplicate_tool_or_gate_tools_of_an_http_service_is_refused() {
    for (path, value, fault) in [
        (
            "/services/studio/tools/request_key",
            json!({"risk": "read_only"}),
            "services.studio.tools.request_key: ",
        ),
        (
            "/services/ci/gate_tools",
            json!({"list_services": {"risk": "read_only"}}),
            "services.ci.gate_tools: ",
        ),
        ("/services/ci/show_terms", json!(true), "services.ci.show_terms: "),
        (
            "/services/studio/gate_tools",
            json!({"other": {"risk": "read_only"}}),
            "services.studio.gate_tools.other: ",
        ),
        (
            "/services/studio/gate_tools/request_key",
            json!({"risk": "read_only", "price": {"credits": 1}}),
            "services.studio.gate_tools.request_key.price: ",
        ),
    ] {
        let mut document = offering();
        let (parent, name) = path.rsplit_once('/').unwrap();
        document.pointer_mut(parent).unwrap()[name] = value;
        let invalid = Policy::from_json(document.to_string().as_bytes()).unwrap_err();
        assert!(invalid.faults()[0].starts_with(fault), "{invalid}");
    }
}
