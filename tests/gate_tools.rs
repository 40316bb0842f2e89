//! The gate's own tools: real clients find them after the server's in every form of list and call them, no part of a
//! call reaches the upstream, and no issued key may do more or lasts longer than the key that requested it.

use client::KeyQuery;
use harness::agent::NewKey;
use harness::gate::refused_by_all;
use harness::python::Server;
use harness::sdks::Sdk;
use harness::{Agent, Gate, Request, mcp, policy, run};
use protocol::KeyId;
use protocol::admin::{Reason, RotateKey};
use protocol::key::{KeySource, KeyState};
use serde_json::{Value, json};
use std::collections::HashSet;
use tokio::sync::OnceCell;

const NAMES: [&str; 5] = ["image_generate", "search", "summarize", "list_services", "request_key"];

static SHARED: OnceCell<Gate> = OnceCell::const_new();

fn offering(policy: &mut serde_yaml_ng::Value) {
    policy["services"]["studio"]["gate_tools"] =
        policy::yaml("{list_services: {risk: read_only}, request_key: {risk: read_only}}");
}

/// A gate that offers both tools.
async fn gate() -> &'static Gate {
    SHARED.get_or_init(|| Gate::options().policy(offering).start()).await
}

fn names(list: &Value) -> Vec<&str> {
    let tools = list["tools"].as_array().unwrap_or_else(|| panic!("no list: {list}"));
    tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect()
}

/// Requests a key that must be issued.
async fn child(parent: &Agent, arguments: Value) -> (Agent, Value) {
    let answer = parent.call(&mcp::call("request_key", arguments)).await;
    answer.assert_allowed();
    let issued = answer.json()["result"]["structuredContent"].clone();
    let text = |name: &str| issued[name].as_str().unwrap_or_else(|| panic!("{issued}")).to_owned();
    let key = KeyId::parse(&text("key_id")).unwrap();
    (Agent { key, secret: text("api_key"), ..parent.clone() }, issued)
}

#[test]
fn every_client_lists_them_and_calls_with_the_key_that_it_was_given() {
    run(async {
        let server = Server::start(&[]).await;
        let gate = Gate::options().upstream(&server.url).policy(offering).start().await;
        let url = format!("http://{}/mcp", gate.address);
        for (sdk, era) in Sdk::ALL.into_iter().flat_map(|sdk| sdk.eras().iter().map(move |era| (sdk, *era))) {
            let agent = gate.agent_with("pro", 0, NewKey::default()).await;
            let steps = [json!(["list"]), json!(["call", "request_key", {"service_name": "studio"}])];
            let answers = sdk.steps(&url, &agent.secret, era, &steps).await;
            assert_eq!(names(&answers[0]), NAMES, "{sdk:?} {era:?}");
            let issued = &answers[1]["structuredContent"];
            let secret = issued["api_key"].as_str().unwrap_or_else(|| panic!("{sdk:?} {era:?}: {answers:?}"));
            let steps = [json!(["list"]), json!(["call", "search", {"query": "lighthouses"}])];
            let answers = sdk.steps(&url, secret, era, &steps).await;
            assert_eq!(names(&answers[0]), NAMES[..4], "{sdk:?} {era:?}");
            assert_eq!(answers[1]["content"][0]["text"], "3 results for lighthouses", "{sdk:?}: {answers:?}");
        }
        gate.assert_healthy().await;
    });
}

#[test]
fn gate_tools_are_in_every_form_of_list_and_their_calls_never_go_upstream() {
    run(async {
        let gate = gate().await;
        let agent = gate.agent("pro").await;
        for behaviour in ["", "chunked", "trailers"] {
            for request in [mcp::post(&mcp::list()), mcp::modern(mcp::list())] {
                let answer = agent.send(request.upstream(behaviour)).await.json();
                assert_eq!(names(&answer["result"]), NAMES, "{behaviour}");
                assert_eq!(answer["result"]["cacheScope"], "private");
            }
        }
        for request in [mcp::post(&mcp::list()), Request::get(mcp::PATH)] {
            let events = agent.send(request.upstream("sse")).await.text();
            let data = events.lines().filter_map(|line| line.strip_prefix("data: "));
            let lists: Vec<Value> = data.map(|data| serde_json::from_str(data).unwrap()).collect();
            assert_eq!(names(&lists[1]["result"]), NAMES, "{events}");
        }
        let later = mcp::request("tools/list", json!({"cursor": ""}));
        assert_eq!(names(&agent.call(&later).await.json()["result"]), NAMES[..3]);

        for (call, modern) in [("list_services", false), ("list_services", true), ("request_key", true)] {
            let mut message = mcp::call(call, json!({}));
            message["id"] = json!("a\u{e9}");
            let request = if modern { mcp::modern(message) } else { mcp::post(&message) };
            let answer = agent.send(request).await;
            assert_eq!((answer.status, &answer.json()["id"]), (200, &json!("a\u{e9}")), "{answer:?}");
            answer.rate();
            gate.assert_unseen(&answer.marker);
        }
        // Headers that do not match these calls are refused as for other calls.
        let lying = mcp::modern(mcp::call("request_key", json!({"service_name": "ci"})));
        assert_eq!(agent.send(lying.header("mcp-name", "search")).await.code(), Some(-32020));
        gate.assert_serving(&agent).await;
    });
}

/// The list of tools, from an upstream that answers in this way.
async fn listed(agent: &Agent, behaviour: &str) -> Value {
    let text = agent.send(mcp::post(&mcp::list()).upstream(behaviour)).await.text();
    let list = text.lines().rev().find_map(|line| {
        let data = line.strip_prefix("data: ").unwrap_or(line);
        serde_json::from_str::<Value>(data).ok().filter(|message| message["result"].is_object())
    });
    list.unwrap_or_else(|| panic!("no list: {text}"))["result"].clone()
}

#[test]
fn lists_show_what_each_tool_costs_if_show_terms_is_set() {
    run(async {
        let saying = |policy: &mut serde_yaml_ng::Value| {
            policy["services"]["studio"]["show_terms"] = policy::yaml("true");
        };
        let gate = Gate::options().policy(saying).start().await;
        let agent = gate.agent("pro").await;
        for behaviour in ["", "chunked", "sse"] {
            let list = listed(&agent, behaviour).await;
            let terms = |index: usize| list["tools"][index]["_meta"]["agentrelay/terms"].clone();
            assert_eq!(terms(0)["price"]["times"]["values"]["ultra_plus"], 8, "{behaviour}: {list}");
            assert_eq!(terms(0)["scopes"], json!(["generate"]));
            assert_eq!(terms(1), json!({"scopes": ["read"], "limits": []}));
            assert_eq!(terms(2)["price"], json!({"credits": 1}));
        }
        gate.assert_healthy().await;
    });
}

#[test]
fn descriptions_say_the_price_of_the_table_whatever_the_server_says() {
    run(async {
        let describing = |policy: &mut serde_yaml_ng::Value| {
            policy["services"]["studio"]["terms"] = policy::yaml("describe");
            policy["settings"]["contact"] = policy::yaml("platform@acme.test");
            policy["settings"]["upgrade_url"] = policy::yaml("https://acme.test/upgrade");
        };
        let gate = Gate::options().policy(describing).start().await;
        let agent = gate.agent_with("free", 1, NewKey::default()).await;
        for behaviour in ["", "chunked", "sse"] {
            let list = listed(&agent, behaviour).await;
            let described = list["tools"][0]["description"].as_str().unwrap_or_default().to_owned();
            for words in ["standard 5, ", "ultra_plus 40, ", "`quality` ultra_plus needs tier pro or higher"]
            {
                assert!(described.contains(words), "{behaviour}: {words:?} is not in {described}");
            }
            let terms = &list["tools"][0]["_meta"]["agentrelay/terms"];
            assert_eq!(terms["requires"][0]["tier"], "pro", "{behaviour}: {list}");
        }
        // Whom to ask is in every refusal, and where to upgrade where that helps.
        for (answer, upgrades) in [
            (agent.call(&mcp::image("ultra_plus")).await, true),
            (agent.call(&mcp::image("standard")).await, true),
            (agent.call(&mcp::call("unlisted", json!({}))).await, false),
            (gate.send(mcp::post(&mcp::search())).await, false),
        ] {
            let text = answer.text();
            assert!(text.contains("Contact: platform@acme.test"), "{text}");
            assert_eq!(text.contains("Upgrade: https://acme.test/upgrade"), upgrades, "{text}");
        }
        gate.assert_healthy().await;
    });
}

#[test]
fn services_are_only_those_that_the_key_may_use() {
    run(async {
        let gate = gate().await;
        for (key, expected) in [
            (NewKey::default(), vec!["ci", "studio"]),
            (NewKey::default().services(&["studio"]), vec!["studio"]),
        ] {
            let agent = gate.agent_with("pro", 0, key).await;
            let answer = agent.call(&mcp::call("list_services", json!({}))).await.json();
            let services = answer["result"]["structuredContent"]["services"].as_array().unwrap().clone();
            let names: Vec<&str> = services.iter().map(|service| service["name"].as_str().unwrap()).collect();
            assert_eq!(names, expected);
        }
    });
}

#[test]
fn an_issued_key_is_identified_by_its_agent_everywhere() {
    run(async {
        let gate = gate().await;
        let parent = gate.agent("pro").await;
        let (child, issued) = child(&parent, json!({"service_name": "studio", "ttl_seconds": 60})).await;
        for (agent, id) in [(&child, issued["agent_id"].as_str()), (&parent, None)] {
            let answer = agent.call(&mcp::search()).await;
            answer.assert_allowed();
            let seen = gate.upstream.the_one(&answer.marker);
            assert_eq!(seen.header("x-agentrelay-agent-id").as_deref(), id);
            assert_eq!(seen.header("x-agentrelay-key-id").as_deref(), Some(agent.key.as_str()));
        }
        let query = KeyQuery { tenant_id: Some(parent.tenant.clone()), ..KeyQuery::default() };
        let keys = gate.admin.keys(&query, None).await.unwrap().items;
        let shown = keys.iter().find(|key| key.id == child.key).unwrap();
        assert_eq!((shown.source, shown.parent_id.as_ref()), (KeySource::Mcp, Some(&parent.key)));
        let trail = gate.audit(&parent).await;
        let made = trail.iter().find(|row| row.kind == "key_created" && row.actor == parent.key.as_str());
        assert_eq!(made.unwrap().detail["key_id"], child.key.as_str());
        let decision = gate.decisions(&parent, protocol::audit::Outcome::Allowed, 3).await;
        assert!(decision.iter().any(|decision| decision["tool"] == "request_key"), "{decision:?}");
        for (place, text) in [
            ("the trail", serde_json::to_string(&trail).unwrap()),
            ("Envoy's log", gate.envoy_log()),
            ("the ledger's log", gate.ledger_log()),
        ] {
            assert!(!text.contains(&child.secret), "the secret is in {place}");
        }
    });
}

#[test]
fn a_child_key_that_requests_more_gets_no_more_than_its_parent() {
    run(async {
        let gate = gate().await;
        let restricted =
            NewKey::with_scopes(&["read"]).services(&["studio"]).tools(&["search", "request_key"]);
        let parent = gate.agent_with("pro", 1000, restricted).await;
        let (child, issued) =
            child(&parent, json!({"service_name": "studio", "rate_limit": 1_000_000})).await;
        assert_eq!(issued["scopes"], json!(["read"]));
        child.call(&mcp::search()).await.assert_allowed();
        for call in [
            mcp::call("request_key", json!({"service_name": "studio"})),
            mcp::call("summarize", json!({})),
            mcp::image("standard"),
        ] {
            let refused = child.call(&call).await;
            assert_eq!((refused.status, refused.code()), (403, Some(40301)), "{call}");
            gate.assert_unseen(&refused.marker);
        }
        let elsewhere = child.send(Request::get("/api/v1/mcp/projects/1/builds")).await;
        assert_eq!(elsewhere.status, 403);
        for (arguments, word) in [
            (json!({"service_name": "ci"}), "`service_name`"),
            (json!({}), "`service_name` is missing"),
            (json!({"service_name": "studio", "ttl_seconds": 86_401}), "`ttl_seconds`"),
            (json!({"service_name": "studio", "ttl_seconds": "3600"}), "`ttl_seconds`"),
            (json!({"service_name": "studio", "rate_limit": 0}), "`rate_limit`"),
            (json!({"service_name": "studio", "scopes": ["admin"]}), "`scopes`"),
        ] {
            let refused = parent.call(&mcp::call("request_key", arguments)).await;
            assert_eq!((refused.status, refused.code()), (200, Some(-32602)), "{refused:?}");
            assert!(refused.text().contains(word), "{}", refused.text());
        }
    });
}

#[test]
fn many_child_keys_may_do_no_more_than_their_parent() {
    run(async {
        let gate = gate().await;
        let parent = gate.agent_with("enterprise", 0, NewKey::default().limit(10, 60)).await;
        let mut callers = vec![parent.clone()];
        for _ in 0..4 {
            callers.push(child(&parent, json!({"service_name": "studio"})).await.0);
        }
        // The child keys cost four of the ten.
        let mut allowed = 0;
        for round in 0..5 {
            for caller in &callers {
                allowed += usize::from(caller.call(&mcp::search()).await.status == 200);
            }
            assert!(allowed <= 6, "{allowed} in round {round}");
        }
        assert_eq!(allowed, 6);
        let other = gate.agent_with("enterprise", 0, NewKey::default()).await;
        let (limited, _) = child(&other, json!({"service_name": "studio", "rate_limit": 2})).await;
        let statuses = [200, 200, 429];
        for status in statuses {
            assert_eq!(limited.call(&mcp::search()).await.status, status);
        }
        gate.assert_serving(&other).await;
    });
}

#[test]
fn a_child_key_ends_with_its_parent_on_every_worker() {
    run(async {
        let gate = gate().await;
        for end in ["revoke", "expire", "rotate", "suspend"] {
            let parent = gate.agent("enterprise").await;
            let (child, _) = child(&parent, json!({"service_name": "studio"})).await;
            for _ in 0..20 {
                child.call(&mcp::search()).await.assert_allowed();
            }
            let reason = Reason { reason: "test".into() };
            match end {
                "revoke" => {
                    let reason = Reason { reason: "test".into() };
                    drop(gate.admin.revoke_key(&parent.key, &reason).await.unwrap());
                }
                "expire" => drop(gate.admin.expire_key(&parent.key, &reason).await.unwrap()),
                "rotate" => {
                    let rotation = RotateKey { grace_seconds: 0, reason: None };
                    drop(gate.admin.rotate_key(&parent.key, &rotation).await.unwrap());
                }
                _ => drop(gate.admin.suspend_tenant(&parent.tenant, &reason).await.unwrap()),
            }
            refused_by_all(&child).await;
            let refused = parent.call(&mcp::call("request_key", json!({"service_name": "studio"}))).await;
            assert_eq!(refused.status, 401, "{end}");
            let state = gate.admin.key(&child.key).await.unwrap().state;
            assert_ne!(state, KeyState::Active, "{end}");
        }
    });
}

#[test]
fn a_child_key_spends_its_parents_budget() {
    run(async {
        let gate = gate().await;
        let parent = gate.agent("pro").await;
        let (child, _) = child(&parent, json!({"service_name": "studio"})).await;
        let update = protocol::admin::UpdateKey {
            budget: protocol::admin::Patch::Set(protocol::Credits::new(10).unwrap()),
            reason: "test".into(),
            ..Default::default()
        };
        gate.admin.update_key(&parent.key, &update, None).await.unwrap();
        for (caller, status) in [(&child, 200), (&parent, 200), (&child, 402), (&parent, 402)] {
            assert_eq!(caller.call(&mcp::image("standard")).await.status, status);
        }
        assert_eq!(gate.settled(&parent).await.posted.get(), 10);
    });
}

#[test]
fn without_the_ledger_no_key_is_issued_and_none_twice() {
    run(async {
        let mut gate = Gate::options().policy(offering).shipped_timeout().start().await;
        let parent = gate.agent("pro").await;
        gate.cache_key(&parent).await;
        gate.pause_ledger();
        let call = mcp::call("request_key", json!({"service_name": "studio"}));
        let refused = parent.call(&call).await;
        assert_eq!((refused.status, refused.code()), (503, Some(50301)), "{refused:?}");
        gate.resume_ledger();
        let mut seen = HashSet::new();
        for _ in 0..3 {
            seen.insert(child(&parent, json!({"service_name": "studio"})).await.0.secret);
        }
        assert_eq!(seen.len(), 3);
        gate.kill_ledger();
        assert_eq!(parent.call(&call).await.status, 503);
        gate.restart_ledger().await;
        gate.assert_healthy().await;
    });
}
