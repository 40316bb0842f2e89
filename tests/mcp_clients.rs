//! Real MCP clients and a real MCP server, PyPI `mcp`, in both eras: the gate is invisible to allowed calls, and its
//! refusals are readable.

use harness::agent::NewKey;
use harness::python::{Server, client};
use harness::{Agent, Gate, mcp, run};
use serde_json::{Value, json};

const MODES: [&str; 3] = ["legacy", "auto", mcp::MODERN];

async fn gate_before(server: &Server) -> Gate {
    Gate::options().upstream(&server.url).start().await
}

/// Connects and takes the steps. Returns their results.
async fn steps(gate: &Gate, agent: &Agent, mode: &str, steps: &[Value]) -> Vec<Value> {
    let url = format!("http://{}/mcp", gate.address);
    let mut answers = client(&url, &agent.secret, mode, steps).await;
    assert!(answers.len() == steps.len() + 1, "{mode}: {answers:?}");
    let connected = answers.remove(0);
    let is_modern = connected["protocolVersion"] == mcp::MODERN;
    assert_eq!(is_modern, mode != "legacy", "{mode}: {connected}");
    answers
}

fn list() -> Value {
    json!(["list"])
}

fn call(tool: &str, arguments: Value) -> Value {
    json!(["call", tool, arguments])
}

fn image(prompt: &str, quality: &str) -> Value {
    call("image_generate", json!({"prompt": prompt, "quality": quality}))
}

fn names(list: &Value) -> Vec<&str> {
    let tools = list["tools"].as_array().unwrap_or_else(|| panic!("no list: {list}"));
    tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect()
}

/// The refusal as an application sees it.
fn assert_refused(answer: &Value, code: i64, reason: &str) {
    assert_eq!(answer["error"]["code"], code, "{answer}");
    assert_eq!(answer["error"]["data"]["reason"], reason, "{answer}");
}

async fn allowed_refused_and_billed(arguments: &[&str]) {
    let server = Server::start(arguments).await;
    let gate = gate_before(&server).await;
    for mode in MODES {
        let agent = gate.agent("pro").await;
        let answers = steps(
            &gate,
            &agent,
            mode,
            &[
                list(),
                call("search", json!({"query": "lighthouses"})),
                image("a lighthouse", "ultra_plus"),
                call("unlisted", json!({})),
                call("summarize", json!({"text": "long"})),
            ],
        )
        .await;
        assert_eq!(names(&answers[0]), ["image_generate", "search", "summarize"], "{mode}");
        assert_eq!(answers[1]["content"][0]["text"], "3 results for lighthouses", "{mode}: {}", answers[1]);
        assert_eq!(
            answers[2]["content"][0]["text"], "ultra_plus image of a lighthouse",
            "{mode}: {}",
            answers[2]
        );
        assert_refused(&answers[3], 40401, "unknown_tool");
        assert_eq!(answers[4]["content"][0]["text"], "long", "{mode}: {}", answers[4]);
        let balance = gate.settled(&agent).await;
        assert_eq!((balance.available.get(), balance.posted.get()), (959, 41), "{mode}");
    }
    gate.assert_healthy().await;
}

#[test]
fn both_eras_are_served_with_answers_in_json() {
    run(allowed_refused_and_billed(&[]));
}

#[test]
fn both_eras_are_served_with_answers_in_events() {
    run(allowed_refused_and_billed(&["--sse"]));
}

#[test]
fn failures_of_real_tools_are_refunded() {
    run(async {
        let server = Server::start(&[]).await;
        let gate = gate_before(&server).await;
        for mode in MODES {
            let agent = gate.agent("pro").await;
            let answers =
                steps(&gate, &agent, mode, &[image("fail:tool", "ultra"), image("fail:protocol", "ultra")])
                    .await;
            assert_eq!(answers[0]["isError"], true, "{mode}: {}", answers[0]);
            assert_eq!(answers[1]["error"]["code"], -32603, "{mode}: {}", answers[1]);
            let balance = gate.settled(&agent).await;
            assert_eq!((balance.available.get(), balance.posted.get()), (1000, 0), "{mode}");
        }
    });
}

#[test]
fn applications_can_distinguish_refusals() {
    run(async {
        let server = Server::start(&[]).await;
        let gate = gate_before(&server).await;
        for mode in MODES {
            let reader = gate.agent_with("pro", 0, NewKey::with_scopes(&["read"])).await;
            let answers = steps(&gate, &reader, mode, &[list(), image("a", "standard")]).await;
            assert_eq!(names(&answers[0]), ["search", "summarize"], "{mode}");
            assert_refused(&answers[1], 40301, "insufficient_scope");

            let poor = gate.agent_with("free", 0, NewKey::default()).await;
            let answers =
                steps(&gate, &poor, mode, &[image("a", "standard"), image("a", "ultra_plus")]).await;
            assert_refused(&answers[0], 40201, "quota_exceeded");
            assert_refused(&answers[1], 40302, "tier_denied");

            let limited = gate.agent_with("pro", 0, NewKey::default().limit(6, 60)).await;
            let searches = vec![call("search", json!({"query": "a"})); 8];
            let answers = steps(&gate, &limited, mode, &searches).await;
            let refused = answers.last().unwrap();
            assert_refused(refused, 42901, "rate_limited");
            assert!(refused["error"]["data"]["retryAfterSeconds"].as_u64().unwrap() >= 1, "{refused}");
        }
    });
}

#[test]
fn a_client_can_connect_although_its_limit_is_reached() {
    run(async {
        let server = Server::start(&[]).await;
        let gate = gate_before(&server).await;
        for mode in MODES {
            let agent = gate.agent_with("pro", 0, NewKey::default().limit(1, 60)).await;
            agent.call(&mcp::initialize()).await;
            // It connects in its own era: no refusal made it take the server for an older one.
            let answers = steps(&gate, &agent, mode, &[call("search", json!({"query": "a"}))]).await;
            assert_refused(&answers[0], 42901, "rate_limited");
        }
    });
}

#[test]
fn a_client_with_an_invalid_key_does_not_connect() {
    run(async {
        let server = Server::start(&[]).await;
        let gate = gate_before(&server).await;
        let url = format!("http://{}/mcp", gate.address);
        for mode in MODES {
            let secret = harness::agent::unknown_secret();
            let answers = client(&url, &secret, mode, &[list()]).await;
            let refused = answers.last().unwrap();
            assert!(refused.get("error").is_some(), "{mode}: {answers:?}");
            assert!(!answers.iter().any(|answer| answer.get("tools").is_some()), "{mode}: {answers:?}");
        }
    });
}
