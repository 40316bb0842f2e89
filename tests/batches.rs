//! Batches of protocol version 2025-03-26: the gate answers refused messages itself, allowed messages reach the
//! upstream, and what went upstream is charged unless it was seen to fail.

use harness::agent::NewKey;
use harness::http1::Connection;
use harness::{Agent, Gate, Response, mcp, run};
use protocol::audit::Outcome;
use serde_json::{Value, json};

fn call(id: Value, tool: &str) -> Value {
    let mut call = mcp::call(tool, json!({}));
    call["id"] = id;
    call
}

async fn send(agent: &Agent, batch: &Value, words: &str) -> Response {
    agent.send(mcp::post(batch).upstream(words)).await
}

/// The ids of the messages that reached the upstream, in their order.
fn arrived(gate: &Gate, response: &Response) -> Vec<Value> {
    let seen = gate.upstream.the_one(&response.marker);
    assert_eq!(seen.header("content-length"), Some(seen.body.len().to_string()));
    let body: Value = serde_json::from_slice(&seen.body).unwrap();
    body.as_array().unwrap().iter().map(|message| message["id"].clone()).collect()
}

/// The answers, whether they came as one or as events.
fn answers(response: &Response) -> Vec<Value> {
    if response.header("content-type") == Some("application/json") {
        return response.json().as_array().unwrap_or_else(|| panic!("{response:?}")).clone();
    }
    let text = response.text();
    let events = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let messages = events.map(|data| serde_json::from_str::<Value>(data).unwrap());
    messages.filter(|message| message.get("method").is_none()).collect()
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}

#[test]
fn refused_messages_get_errors_and_allowed_ones_are_forwarded() {
    run(async {
        let gate = Gate::shared().await;
        let batch = json!([
            call(json!(0), "search"),
            call(json!("0"), "image_generate"),
            call(json!(2), "unlisted"),
            {"jsonrpc": "2.0", "method": "notifications/progress"},
            {"jsonrpc": "2.0", "id": 4, "method": "tools/list"},
            call(json!(5), "summarize"),
        ]);
        for words in ["", "chunked", "trailers", "sse"] {
            let agent = gate.agent_with("pro", 1000, NewKey::with_scopes(&["read"])).await;
            let response = send(&agent, &batch, words).await;
            response.assert_allowed();
            assert_eq!(arrived(gate, &response), [json!(0), Value::Null, json!(4), json!(5)], "{words}");
            let answers = answers(&response);
            let ids: Vec<String> = answers.iter().map(|answer| answer["id"].to_string()).collect();
            if words == "sse" {
                assert_eq!(sorted(ids), sorted(["0", "\"0\"", "2", "4", "5"].map(str::to_owned).into()));
            } else {
                assert_eq!(ids, ["0", "\"0\"", "2", "4", "5"], "{words}");
            }
            let of = |id: Value| answers.iter().find(|answer| answer["id"] == id).unwrap();
            assert_eq!(of(json!("0"))["error"]["code"], 40301);
            assert_eq!(of(json!(2))["error"]["code"], 40401);
            let listed = of(json!(4))["result"]["tools"].as_array().unwrap();
            let names: Vec<&str> = listed.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
            assert_eq!(names, ["search", "summarize"]);
            assert_eq!(of(json!(5))["result"]["isError"], false);
            assert_eq!(gate.settled(&agent).await.posted.get(), 1);
            gate.decisions(&agent, Outcome::Allowed, 4).await;
            gate.decisions(&agent, Outcome::InsufficientScope, 1).await;
            gate.decisions(&agent, Outcome::UnknownTool, 1).await;
        }
        gate.assert_healthy().await;
    });
}

#[test]
fn calls_that_went_upstream_are_charged_unless_they_were_seen_to_fail() {
    run(async {
        let gate = Gate::shared().await;
        let batch =
            json!([call(json!(1), "image_generate"), call(json!(2), "summarize"), call(json!(3), "search")]);
        for (words, charged) in [
            ("", 6),
            ("sse", 6),
            ("fails=summarize", 5),
            ("fails=image_generate sse", 1),
            ("rpc-error", 0),
            ("status=500", 0),
            ("close-mid-body", 0),
            // The answer is not passed on, because it can't be parsed; but the call ran.
            ("gzip", 6),
            ("sse-empty", 6),
        ] {
            let agent = gate.agent("pro").await;
            send(&agent, &batch, words).await;
            let settled = gate.settled(&agent).await;
            assert_eq!((settled.posted.get(), settled.available.get()), (charged, 1000 - charged), "{words}");
        }
        // Enough credits for the first call only.
        let poor = gate.agent_with("pro", 5, NewKey::default()).await;
        let response = send(&poor, &batch, "").await;
        let answers = answers(&response);
        assert_eq!(
            (&answers[1]["error"]["code"], arrived(gate, &response)),
            (&json!(40201), vec![json!(1), json!(3)])
        );
        assert_eq!(gate.settled(&poor).await.posted.get(), 5);
        gate.assert_healthy().await;
    });
}

#[test]
fn each_element_counts_against_the_limit() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("enterprise", 0, NewKey::default().limit(3, 60)).await;
        let batch: Vec<Value> = (0..5).map(|id| call(json!(id), "search")).collect();
        let response = send(&agent, &json!(batch), "").await;
        assert_eq!(arrived(gate, &response), [0, 1, 2]);
        let codes: Vec<Value> = answers(&response).iter().map(|one| one["error"]["code"].clone()).collect();
        assert_eq!(codes[3..], [42901, 42901]);
        let refused = send(&agent, &json!(batch), "").await;
        assert_eq!(refused.status, 429);
        assert!(refused.header("retry-after").is_some());
        gate.assert_unseen(&refused.marker);
    });
}

#[test]
fn the_allowed_messages_of_a_batch_arrive_in_any_framing() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("pro").await;
        let batch =
            json!([call(json!(1), "search"), call(json!(2), "unlisted"), call(json!(3), "summarize")]);
        let bytes = batch.to_string().into_bytes();
        let post = || mcp::post(&json!({}));
        for request in [
            post().chunks(bytes.chunks(11)),
            post().chunks([bytes.as_slice()]).trailer("x-agentrelay-tier", b"enterprise"),
        ] {
            let response = agent.send(request).await;
            response.assert_allowed();
            assert_eq!(arrived(gate, &response), [1, 3]);
            assert_eq!(answers(&response)[1]["error"]["code"], 40401);
        }
        assert_eq!(gate.settled(&agent).await.posted.get(), 2);
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn a_client_that_disconnects_pays_for_what_went_upstream() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("pro").await;
        let batch = json!([call(json!(1), "image_generate"), call(json!(2), "image_generate")]);
        let request = agent.post(&batch).upstream("hang");
        let mut connection = Connection::open(gate.address).await;
        connection.write(&request.head()).await.unwrap();
        connection.write(batch.to_string().as_bytes()).await.unwrap();
        harness::clock::eventually("the batch is upstream", async || {
            if gate.upstream.seen(request.marker()).is_empty() { Err("not yet".to_owned()) } else { Ok(()) }
        })
        .await;
        drop(connection);
        let settled = gate.settled(&agent).await;
        assert_eq!((settled.posted.get(), settled.available.get()), (10, 990));
        gate.assert_serving(&agent).await;
    });
}
