//! Why a request was refused: one id from the answer to the audit trail, and an explanation by that id.

use harness::agent::NewKey;
use harness::clock::eventually;
use harness::ledger::operator;
use harness::{Agent, Gate, Request, mcp, run};
use protocol::EventId;
use serde_json::{Value, json};

/// The explanation of a request, once its Envoy has told it.
async fn explained(gate: &Gate, id: &str) -> Value {
    eventually("the decision is explained", async || {
        let path = format!("/v1/decisions/{id}");
        let answer = Request::get(path).key(&gate.credentials().admin_key).send(gate.ledger_address).await;
        if answer.status == 200 { Ok(answer.json()) } else { Err(answer.text()) }
    })
    .await
}

async fn free_agent(gate: &Gate) -> Agent {
    gate.agent_with("free", 3, NewKey::with_scopes(&["read", "generate"])).await
}

#[test]
fn a_shadow_rule_is_explained_as_a_refusal_is() {
    run(async {
        let edit = |policy: &mut serde_yaml_ng::Value| {
            policy["risks"]["local_mutation"]["shadow"] = harness::policy::yaml("true");
            policy["services"]["studio"]["tools"]["search"]["limits"] =
                harness::policy::yaml("[{permits: 1, window: 60s, shadow: true}]");
        };
        let gate = Gate::options().policy(edit).start().await;
        let agent = gate.agent_with("pro", 100, NewKey::with_scopes(&["read"])).await;
        agent.call(&mcp::search()).await.assert_allowed();
        for (call, rule, sentence) in [
            (
                mcp::image("standard"),
                json!({"rule": "scope", "needed": ["generate"], "had": ["read"]}),
                "A rule in shadow mode would have refused it, insufficient_scope: this call needs the scopes: generate",
            ),
            (
                mcp::search(),
                json!({"rule": "limit", "of": "tool", "name": "search", "per": "key", "permits": 1, "window_seconds": 60}),
                "A rule in shadow mode would have refused it, rate_limited: ",
            ),
        ] {
            let answer = agent.call(&call).await;
            answer.assert_allowed();
            let told = explained(&gate, answer.header("x-request-id").expect("every answer has one")).await;
            assert_eq!((&told["outcome"], &told["reason"]), (&json!("allowed"), &Value::Null), "{told}");
            let mut reason = told["would_deny_reason"].clone();
            reason.as_object_mut().expect("a rule").remove("wait_seconds");
            assert_eq!(reason, rule, "{told}");
            let sentences: Vec<&str> =
                told["sentences"].as_array().expect("sentences").iter().filter_map(Value::as_str).collect();
            let shadow = sentences.iter().find(|text| text.starts_with(sentence));
            assert!(shadow.is_some_and(|text| text.contains("What would change that: ")), "{sentences:?}");
        }
        let rows = gate.decisions(&agent, protocol::audit::Outcome::Allowed, 3).await;
        assert_eq!(rows.iter().filter(|row| row["would_deny_reason"].is_object()).count(), 2, "{rows:?}");
    });
}

#[test]
fn one_id_is_in_the_answer_the_log_the_upstream_and_the_trail() {
    run(async {
        let gate = Gate::options().start().await;
        let agent = gate.agent("pro").await;
        let problem = |text: &Value| {
            text["error"]["data"]["requestId"].as_str().or(text["request_id"].as_str()).map(str::to_owned)
        };
        let mut sent = Vec::new();
        for (request, status) in [
            (agent.post(&mcp::search()), 200),
            (agent.post(&mcp::image("standard")), 200),
            // The client's own id is replaced, as Envoy does at the edge.
            (agent.post(&mcp::search()).header("x-request-id", "0c6d7a52-3f5b-4f3e-9a0e-2f9be5d4a6c1"), 200),
            (agent.post(&mcp::call("unlisted", json!({}))), 404),
            (agent.post(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})), 200),
            (agent.with_key(Request::post("/api/v1/mcp/projects/1/trigger")), 403),
            (agent.get("/nowhere"), 404),
            (mcp::post(&mcp::search()), 401),
        ] {
            let answer = gate.send(request).await;
            assert_eq!(answer.status, status, "{answer:?}");
            let id = answer.header("x-request-id").expect("every answer has one").to_owned();
            if status == 200 {
                let seen = gate.upstream.the_one(&answer.marker);
                for name in ["x-request-id", "x-agentrelay-request-id"] {
                    assert_eq!(seen.all(name), [id.as_str()], "{name}");
                }
            } else {
                assert_eq!(problem(&answer.json()).as_deref(), Some(id.as_str()), "{answer:?}");
            }
            if status != 401 {
                assert_eq!(explained(&gate, &id).await["status"], status);
            }
            sent.push((id, status));
        }
        // Envoy writes its log some time later.
        for (id, status) in sent {
            let line = gate.access_log(|line| line["request_id"] == id.as_str()).await;
            assert_eq!(line["status"], status, "{line}");
        }
    });
}

#[test]
fn a_batch_has_the_id_of_its_first_message_and_each_message_its_own() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("pro").await;
        let mut messages = [mcp::search(), mcp::call("unlisted", json!({}))];
        for (number, message) in messages.iter_mut().enumerate() {
            message["id"] = json!(number + 1);
        }
        let request = agent.post(&json!(messages)).header("mcp-protocol-version", "2025-03-26");
        let answer = gate.send(request).await;
        let id = answer.header("x-request-id").expect("it has one").to_owned();
        let refused = answer.json()[1]["error"]["data"]["requestId"].as_str().expect("it has one").to_owned();
        let whole = EventId::parse(&id).expect("it is an id");
        assert_eq!(refused, whole.part(0).to_string());
        assert_eq!(explained(gate, &id).await["outcome"], "allowed");
        assert_eq!(explained(gate, &refused).await["outcome"], "unknown_tool");
    });
}

#[test]
fn every_refusal_is_explained_by_the_rule_that_decided() {
    run(async {
        let gate = Gate::options().start().await;
        let agent = free_agent(&gate).await;
        let limited = gate.agent_with("pro", 100, NewKey::with_scopes(&["read"]).limit(1, 60)).await;
        limited.call(&mcp::search()).await.assert_allowed();
        let tools = gate.agent_with("pro", 100, NewKey::default().tools(&["search"])).await;
        for (answer, rule, needed, had, words) in [
            (
                agent.call(&mcp::image("ultra_plus")).await,
                "tier",
                "pro",
                "free",
                "`ultra_plus` of argument `quality`",
            ),
            (
                agent.call(&mcp::image("standard")).await,
                "credits",
                "5 credits",
                "3 credits",
                "costs 5 credits and the tenant has 3 credits left",
            ),
            (
                agent.send(Request::post("/api/v1/mcp/projects/1/trigger")).await,
                "scope",
                "trigger",
                "read generate",
                "for a key with trigger",
            ),
            (
                limited.call(&mcp::search()).await,
                "limit",
                "fewer than 1 in 60 s",
                "1 in 60 s",
                "this key's limit for requests, 1 in 60 s, is used up",
            ),
            (
                tools.call(&mcp::image("standard")).await,
                "grant",
                "tool image_generate",
                "no grant",
                "grant it",
            ),
        ] {
            let id = answer.header("x-request-id").expect("it has one").to_owned();
            let told = explained(&gate, &id).await;
            let found =
                [&told["rule"], &told["needed"], &told["had"]].map(|text| text.as_str().unwrap_or_default());
            assert_eq!(found, [rule, needed, had], "{told}");
            let text = told["sentences"].to_string();
            assert!(text.contains(words), "{words:?} is not in {text}");
            // The client was told the same.
            let said = answer.text();
            assert!(said.contains(&words.replace('"', "\\\"")), "{words:?} is not in {said}");
            assert_eq!(told["policy_is_in_force"], true);
        }
    });
}

#[test]
fn the_command_line_explains_and_searches_by_request() {
    run(async {
        let gate = Gate::shared().await;
        let agent = free_agent(gate).await;
        let answer = agent.call(&mcp::image("ultra_plus")).await;
        let id = answer.header("x-request-id").expect("it has one").to_owned();
        let (url, key) = (format!("http://{}", gate.ledger_address), gate.credentials().admin_key.clone());
        let run = move |arguments: Vec<String>| {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let output = operator(&url, &key, &arguments);
            (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let told = tokio::task::spawn_blocking(move || {
            // Right after the answer: it waits until the Envoy has told.
            let sentences = run(vec!["explain".into(), id.clone()]);
            let json = run(vec!["explain".into(), id.clone(), "--json".into()]);
            let rows =
                run(vec!["audit".into(), "list".into(), "--request".into(), id.clone(), "--json".into()]);
            let none = run(vec!["explain".into(), "0192f0c0-0000-7000-8000-000000000000".into()]);
            [sentences, json, rows, none]
        });
        let [sentences, json, rows, none] = told.await.expect("no panic");
        for words in [
            "tier free",
            "image_generate",
            "needs tier pro or higher",
            "What would change it: send `quality`",
        ] {
            assert!(sentences.0 && sentences.1.contains(words), "{words:?} is not in {}", sentences.1);
        }
        let json: Value = serde_json::from_str(&json.1).expect("it is JSON");
        assert_eq!((&json["rule"], &json["key_id"]), (&json!("tier"), &json!(agent.key.as_str())));
        assert_eq!(rows.1.lines().count(), 1, "{}", rows.1);
        assert!(!none.0);
    });
}
