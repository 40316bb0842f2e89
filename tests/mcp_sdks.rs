//! Every real MCP client: through the gate it lists and calls in each era that it supports, and its user sees as much
//! of each refusal as that client ever shows.
//!
//! Reference: clients treat HTTP statuses differently, so a service chooses the form of its refusals.

use harness::agent::NewKey;
use harness::clock::eventually;
use harness::python::Server;
use harness::sdks::{Era, Sdk};
use harness::{Agent, Gate, mcp, policy, run};
use serde_json::{Value, json};

async fn gate(form: &'static str) -> (Gate, Server) {
    gate_before(Server::start(&[]).await, form).await
}

async fn gate_before(server: Server, form: &'static str) -> (Gate, Server) {
    let gate = Gate::options()
        .upstream(&server.url)
        .policy(move |policy| policy["services"]["studio"]["refusals"] = policy::yaml(form))
        .start()
        .await;
    (gate, server)
}

async fn steps(gate: &Gate, agent: &Agent, (sdk, era): (Sdk, Era), steps: &[Value]) -> Vec<Value> {
    sdk.steps(&format!("http://{}/mcp", gate.address), &agent.secret, era, steps).await
}

fn image(quality: &str) -> Value {
    json!(["call", "image_generate", {"prompt": "a lighthouse", "quality": quality}])
}

fn search() -> Value {
    json!(["call", "search", {"query": "lighthouses"}])
}

/// Each client in each of its eras.
fn clients() -> impl Iterator<Item = (Sdk, Era)> {
    Sdk::ALL.into_iter().flat_map(|sdk| sdk.eras().iter().map(move |era| (sdk, *era)))
}

/// The user sees at least one of these words.
fn assert_shown(client: (Sdk, Era), answer: &Value, words: &[&str]) {
    let shown = answer["error"].to_string();
    assert!(words.iter().any(|word| shown.contains(word)), "{client:?} shows none of {words:?}: {answer}");
}

/// Lists, calls one allowed tool, one that is too expensive, and one whose tier is missing.
async fn allowed_and_refused(form: &'static str, assert_refusals: impl Fn((Sdk, Era), &Value, &Value)) {
    let (gate, _server) = gate(form).await;
    for client in clients() {
        let agent = gate.agent_with("hobby", 0, NewKey::default()).await;
        let taken = [json!(["list"]), search(), image("standard"), image("ultra_plus")];
        let answers = steps(&gate, &agent, client, &taken).await;
        let listed = answers[0]["tools"].as_array().unwrap_or_else(|| panic!("{client:?}: {answers:?}"));
        let names: Vec<&str> = listed.iter().filter_map(|tool| tool["name"].as_str()).collect();
        assert_eq!(names, ["image_generate", "search", "summarize"], "{client:?}");
        assert_eq!(answers[1]["content"][0]["text"], "3 results for lighthouses", "{client:?}: {answers:?}");
        assert_refusals(client, &answers[2], &answers[3]);
    }
    gate.assert_healthy().await;
}

#[test]
fn as_json_rpc_errors_refusals_are_shown_by_all_but_python_1() {
    run(allowed_and_refused("mcp-http", |client, quota, tier| match client.0 {
        Sdk::Python2 => {
            assert_eq!(quota["error"]["code"], 40201, "{quota}");
            assert_eq!(tier["error"]["code"], 40302, "{tier}");
        }
        // It knows at most the status, and closes the connection.
        Sdk::Python1 => {
            assert_shown(client, quota, &["402", "ClosedResourceError"]);
            assert_shown(client, tier, &["403", "ClosedResourceError"]);
        }
        _ => {
            assert_shown(client, quota, &["Quota exceeded: this call costs 5 credits"]);
            assert_shown(client, tier, &["needs tier pro"]);
        }
    }));
}

#[test]
fn as_tool_results_refusals_are_read_by_every_model() {
    run(allowed_and_refused("mcp-tool", |client, quota, tier| {
        for (answer, words) in [(quota, "Quota exceeded: "), (tier, "Tier denied: ")] {
            assert_eq!(answer["isError"], true, "{client:?}: {answer}");
            let text = answer["content"][0]["text"].as_str().unwrap_or_default();
            assert!(text.starts_with(words), "{client:?}: {answer}");
        }
    }));
}

#[test]
fn as_problems_refusals_keep_their_status() {
    run(allowed_and_refused("http", |client, quota, tier| match client.0 {
        // It makes its own error out of a body that is not JSON-RPC.
        Sdk::Python2 => {
            assert_eq!(quota["error"]["code"], -32603, "{quota}");
            assert_eq!(tier["error"]["code"], -32603, "{tier}");
        }
        Sdk::Python1 => {
            assert_shown(client, quota, &["402", "ClosedResourceError"]);
            assert_shown(client, tier, &["403", "ClosedResourceError"]);
        }
        _ => {
            assert_shown(client, quota, &["402"]);
            assert_shown(client, tier, &["403"]);
        }
    }));
}

#[test]
fn a_full_window_refuses_calls_and_never_a_connection() {
    run(async {
        let (gate, _server) = gate("mcp-http").await;
        for client in clients() {
            let agent = gate.agent_with("pro", 0, NewKey::default().limit(1, 60)).await;
            agent.call(&mcp::search()).await;
            let refused = steps(&gate, &agent, client, &[search()]).await.remove(0);
            match client {
                (Sdk::Python2, _) => {
                    assert_eq!(refused["error"]["code"], 42901, "{refused}");
                    assert!(refused["error"]["data"]["retryAfterSeconds"].as_u64() >= Some(1), "{refused}");
                }
                // It requests the list first, and may take a refusal of it for an empty list.
                (Sdk::Inspector, _) => assert_shown(client, &refused, &["429", "tool_not_found"]),
                (Sdk::Python1, _) => assert_shown(client, &refused, &["429", "ClosedResourceError"]),
                _ => assert_shown(client, &refused, &["429"]),
            }
        }
    });
}

#[test]
fn a_missing_scope_is_a_typed_error_where_the_client_has_one() {
    run(async {
        let (gate, _server) = gate("mcp-http").await;
        for client in clients() {
            let agent = gate.agent_with("pro", 0, NewKey::with_scopes(&["read"])).await;
            let refused = steps(&gate, &agent, client, &[image("standard")]).await.remove(0);
            let words = match client.0 {
                Sdk::Python2 => "this call needs the scopes: generate",
                Sdk::Python1 => "",
                Sdk::TypeScript2 => "InsufficientScopeError",
                Sdk::TypeScript1 => "insufficient_scope",
                Sdk::Rust => "InsufficientScope",
                // Tools that the key may not call are not in its list.
                Sdk::Inspector => "tool_not_found",
            };
            assert_shown(client, &refused, &[words]);
        }
    });
}

#[test]
fn a_tool_that_no_rule_names_is_refused_and_the_session_goes_on() {
    run(async {
        let (gate, _server) = gate_before(Server::start(&["--sessions"]).await, "mcp-http").await;
        for sdk in [Sdk::Python2, Sdk::TypeScript2, Sdk::TypeScript1, Sdk::Rust] {
            let client = (sdk, Era::Legacy);
            let agent = gate.agent_with("pro", 0, NewKey::default()).await;
            let unlisted = json!(["call", "unlisted", {"text": "x"}]);
            let answers = steps(&gate, &agent, client, &[search(), unlisted, search()]).await;
            assert_shown(client, &answers[1], &["the policy has no rule for this tool"]);
            for answer in [&answers[0], &answers[2]] {
                assert_eq!(
                    answer["content"][0]["text"], "3 results for lighthouses",
                    "{client:?}: {answers:?}"
                );
            }
            // It is one session all the time: a client that considered it lost would begin another.
            let began =
                eventually("the session's begin and both searches are in the audit trail", async || {
                    let rows = gate.audit(&agent).await;
                    let of = |tool: &str| rows.iter().filter(|row| row.detail["tool"] == tool).count();
                    // Workers report in any order.
                    let began = of("initialize");
                    if of("search") == 2 && began > 0 { Ok(began) } else { Err(format!("{rows:?}")) }
                })
                .await;
            assert_eq!(began, 1, "{client:?}");
        }
    });
}

#[test]
fn no_client_gets_anything_with_an_unknown_key() {
    run(async {
        let (gate, _server) = gate("mcp-tool").await;
        let url = format!("http://{}/mcp", gate.address);
        for client in clients() {
            let secret = harness::agent::unknown_secret();
            let answers = client.0.attempt(&url, &secret, client.1, &[json!(["list"])]).await;
            // Some clients notice only at their first request that they are refused.
            let refused = answers.last().expect("an answer");
            assert!(refused.get("error").is_some(), "{client:?}: {answers:?}");
            assert!(!answers.iter().any(|answer| answer.get("tools").is_some()), "{client:?}: {answers:?}");
        }
    });
}
