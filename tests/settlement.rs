//! Charges follow what really happened: results that come late and elsewhere, calls in several rounds, costs that the
//! upstream tells, and LLM tokens in the record.

use harness::agent::NewKey;
use harness::clock::eventually;
use harness::http1::Connection;
use harness::{Agent, Gate, Request, Response, mcp, policy, run};
use protocol::audit::Outcome;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn image(id: u64) -> Value {
    let mut call = mcp::image("standard");
    call["id"] = json!(id);
    call
}

/// The call of a session whose stream ends without a result.
async fn call_without_result(agent: &Agent, session: &str, id: u64) {
    let call = mcp::post(&image(id)).header("mcp-session-id", session).upstream("sse-empty");
    agent.send(call).await.assert_allowed();
}

/// The stream of a session on which the result of a call comes.
async fn stream_with_result(agent: &Agent, session: &str, words: &str) -> Response {
    let stream = Request::get(mcp::PATH).header("accept", "text/event-stream").upstream(words);
    agent.send(stream.header("mcp-session-id", session)).await
}

#[test]
fn a_result_on_a_later_stream_of_the_session_is_charged_once() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("pro").await;
        // Several times, so that call and result meet different workers.
        for round in 1..=6 {
            let session = agent.session(format!("late-{}-{round}", agent.key)).await;
            call_without_result(&agent, &session, 7).await;
            gate.decisions(&agent, Outcome::Allowed, 4 * (round - 1) + 2).await;
            let balance = gate.balance(&agent).await;
            assert_eq!((balance.pending.get(), balance.posted.get() as usize), (5, 5 * (round - 1)));
            for _ in 0..2 {
                assert_eq!(stream_with_result(&agent, &session, "sse result-of=7").await.status, 200);
            }
            let settled = gate.settled(&agent).await;
            assert_eq!(settled.posted.get() as usize, 5 * round, "{settled:?}");
        }
        gate.assert_healthy().await;
    });
}

#[test]
fn a_late_failure_and_the_results_of_others_charge_nothing() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("pro").await;
        let session = agent.session(format!("failing-{}", agent.key)).await;
        call_without_result(&agent, &session, 1).await;
        gate.decisions(&agent, Outcome::Allowed, 2).await;
        // Another call, another session, and a result that is none.
        stream_with_result(&agent, &session, "sse result-of=2").await;
        stream_with_result(&agent, "another", "sse result-of=1").await;
        assert_eq!(gate.balance(&agent).await.pending.get(), 5);
        stream_with_result(&agent, &session, "sse result-of=1 is-error").await;
        let settled = gate.settled(&agent).await;
        assert_eq!((settled.available.get(), settled.posted.get()), (1000, 0));
    });
}

#[test]
fn leaving_early_and_coming_back_for_the_result_is_charged() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("pro").await;
        let session = agent.session(format!("leaving-{}", agent.key)).await;
        let call = mcp::post(&image(3)).header("mcp-session-id", &session).upstream("hang");
        let call = agent.with_key(call);
        let mut connection = Connection::open(agent.gate).await;
        connection.write(&call.head()).await.unwrap();
        connection.write(image(3).to_string().as_bytes()).await.unwrap();
        eventually("the call reached the upstream", async || match gate.upstream.seen(call.marker()).len() {
            1 => Ok(()),
            other => Err(format!("{other} calls")),
        })
        .await;
        drop(connection);
        gate.decisions(&agent, Outcome::Cancelled, 1).await;
        assert_eq!(gate.balance(&agent).await.pending.get(), 5);
        stream_with_result(&agent, &session, "sse result-of=3").await;
        assert_eq!(gate.settled(&agent).await.posted.get(), 5);
    });
}

#[test]
fn a_result_that_comes_before_its_calls_stream_has_ended_is_charged_once() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("pro").await;
        // Several times, so that call and result meet different workers.
        for round in 1..=6 {
            let session = agent.session(format!("early-{}-{round}", agent.key)).await;
            let call = mcp::post(&image(3)).header("mcp-session-id", &session).upstream("hang");
            let call = agent.with_key(call);
            let mut connection = Connection::open(agent.gate).await;
            connection.write(&call.head()).await.unwrap();
            connection.write(image(3).to_string().as_bytes()).await.unwrap();
            eventually("the call is upstream", async || match gate.upstream.seen(call.marker()).len() {
                1 => Ok(()),
                other => Err(format!("{other} calls")),
            })
            .await;
            let words = if round == 6 { "sse result-of=3 is-error" } else { "sse result-of=3" };
            assert_eq!(stream_with_result(&agent, &session, words).await.status, 200);
            drop(connection);
            gate.decisions(&agent, Outcome::Cancelled, round).await;
            let settled = gate.settled(&agent).await;
            assert_eq!(settled.posted.get() as usize, 5 * round.min(5), "{settled:?}");
        }
        // What came before a call began is of another call by the same id.
        let session = agent.session(format!("reused-{}", agent.key)).await;
        stream_with_result(&agent, &session, "sse result-of=7 is-error").await;
        call_without_result(&agent, &session, 7).await;
        gate.decisions(&agent, Outcome::Allowed, 15).await;
        assert_eq!(gate.balance(&agent).await.pending.get(), 5);
        gate.assert_healthy().await;
    });
}

#[test]
fn an_id_that_is_used_again_charges_the_call_before() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("pro").await;
        let session = agent.session(format!("again-{}", agent.key)).await;
        for calls in 1..=3 {
            call_without_result(&agent, &session, 7).await;
            gate.decisions(&agent, Outcome::Allowed, calls + 1).await;
        }
        eventually("the two before the last are charged", async || {
            let balance = gate.balance(&agent).await;
            match (balance.pending.get(), balance.posted.get()) {
                (5, 10) => Ok(()),
                _ => Err(format!("{balance:?}")),
            }
        })
        .await;
        stream_with_result(&agent, &session, "sse result-of=7 is-error").await;
        assert_eq!(gate.settled(&agent).await.posted.get(), 10);
    });
}

#[test]
fn a_leased_call_that_leaves_early_is_charged_unless_its_result_is_an_error() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("pro").await;
        let session = agent.session(format!("leased-{}", agent.key)).await;
        let leased = |id: u64| {
            let mut call = mcp::call("summarize", json!({"text": "a long story"}));
            call["id"] = json!(id);
            mcp::post(&call).header("mcp-session-id", &session)
        };
        // The first calls reserve exactly, until there is a lease.
        for id in 0..8 {
            agent.send(leased(id)).await.assert_allowed();
        }
        for id in 8..12 {
            agent.send(leased(id).upstream("sse-empty")).await.assert_allowed();
        }
        for id in 8..12 {
            let words =
                if id < 10 { format!("sse result-of={id}") } else { format!("sse result-of={id} is-error") };
            stream_with_result(&agent, &session, &words).await;
        }
        let settled = gate.settled(&agent).await;
        assert_eq!((settled.available.get(), settled.posted.get()), (990, 10));
        gate.assert_healthy().await;
    });
}

#[test]
fn a_call_that_becomes_a_task_is_charged_once_and_what_follows_is_not() {
    run(async {
        let gate = Gate::shared().await;
        for (behaviour, modern) in [("task", true), ("legacy-task", false)] {
            // How it ends changes nothing: only a client that asks would let the gate see it.
            for end in ["", "is-error"] {
                let agent = gate.agent("pro").await;
                let send = async |message: Value, words: &str| {
                    let task = message["params"]["taskId"].as_str().map(str::to_owned);
                    let request = if modern { mcp::modern(message) } else { mcp::post(&message) };
                    let request = match task.filter(|_| modern) {
                        Some(task) => request.header("mcp-name", &task),
                        None => request,
                    };
                    agent.send(request.upstream(words)).await.assert_allowed();
                };
                send(mcp::image("standard"), behaviour).await;
                for method in ["tasks/get", "tasks/get", "tasks/cancel"] {
                    send(mcp::request(method, json!({"taskId": "t1"})), end).await;
                }
                gate.decisions(&agent, Outcome::Allowed, 4).await;
                let settled = gate.settled(&agent).await;
                assert_eq!((settled.available.get(), settled.posted.get()), (995, 5), "{behaviour} {end}");
            }
        }
    });
}

#[test]
fn without_a_session_nothing_waits_for_a_result() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("pro").await;
        agent.send(mcp::post(&image(1)).upstream("sse-empty")).await;
        agent.send(mcp::modern(image(1)).upstream("sse-empty")).await;
        gate.decisions(&agent, Outcome::UpstreamError, 2).await;
        let settled = gate.settled(&agent).await;
        assert_eq!((settled.available.get(), settled.posted.get()), (1000, 0));
    });
}

#[test]
fn a_call_in_several_rounds_is_charged_once() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("pro").await;
        for round in 0..3 {
            let mut call = mcp::image("standard");
            call["id"] = json!(round);
            if round > 0 {
                call["params"]["inputResponses"] = json!({"name": {"action": "accept"}});
                call["params"]["requestState"] = json!("1");
            }
            let behaviour = if round < 2 { "input-required" } else { "" };
            let answer = agent.send(mcp::modern(call).upstream(behaviour)).await;
            answer.assert_allowed();
            let settled = gate.settled(&agent).await;
            assert_eq!(settled.posted.get(), if round < 2 { 0 } else { 5 }, "{settled:?}");
        }
    });
}

#[test]
fn reported_usage_is_in_the_record() {
    run(async {
        let gate = Gate::shared().await;
        for form in ["usage", "usage sse", "usage chunked"] {
            let agent = gate.agent("pro").await;
            agent.send(mcp::post(&mcp::search()).upstream(form)).await.assert_allowed();
            let decision = gate.decisions(&agent, Outcome::Allowed, 1).await.remove(0);
            assert_eq!(decision["usage_tokens"], json!({"input": 7, "output": 9}), "{form}: {decision}");
        }
        let agent = gate.agent("pro").await;
        agent.send(mcp::post(&mcp::search())).await.assert_allowed();
        let decision = gate.decisions(&agent, Outcome::Allowed, 1).await.remove(0);
        assert_eq!(decision.get("usage_tokens"), None, "{decision}");
    });
}

#[test]
fn usage_of_http_services_is_read_where_the_policy_says_so() {
    run(async {
        let reading = |policy: &mut serde_yaml_ng::Value| {
            policy["services"]["ci"]["usage_tokens"] = policy::yaml("true");
        };
        let reads = Gate::options().policy(reading).start().await;
        let expected = json!({"input": 7, "output": 9});
        for (gate, expected) in [(&reads, Some(&expected)), (Gate::shared().await, None)] {
            for form in ["usage", "usage sse", "usage chunked bytes=300000"] {
                let agent = gate.agent("pro").await;
                let answer = agent.send(Request::get("/api/v1/mcp/projects/1/builds").upstream(form)).await;
                assert_eq!(answer.status, 200, "{answer:?}");
                let decision = gate.decisions(&agent, Outcome::Allowed, 1).await.remove(0);
                assert_eq!(decision.get("usage_tokens"), expected, "{form}: {decision}");
            }
        }
        reads.assert_healthy().await;
    });
}

#[test]
fn only_a_trusted_upstream_sets_the_cost_and_never_above_the_price() {
    run(async {
        let trusting = |policy: &mut serde_yaml_ng::Value| {
            policy["services"]["studio"]["tools"]["summarize"]["price"] =
                policy::yaml("{credits: 20, upstream_cost: true}");
        };
        let gate = Gate::options().policy(trusting).start().await;
        for (tool, words, charged) in [
            ("summarize", "cost=3", 3),
            ("summarize", "cost=3 sse", 3),
            ("summarize", "cost=0", 0),
            ("summarize", "cost=500", 20),
            ("summarize", "", 20),
            ("summarize", "cost=3 is-error", 0),
            ("image_generate", "cost=1", 5),
        ] {
            let agent = gate.agent("pro").await;
            agent.send(mcp::post(&mcp::call(tool, json!({}))).upstream(words)).await;
            let settled = gate.settled(&agent).await;
            assert_eq!(settled.posted.get(), charged, "{tool}: {words}");
        }
    });
}

#[test]
fn a_cost_above_the_price_is_charged_up_to_the_overrun_that_the_policy_allows() {
    run(async {
        let overrunning = |policy: &mut serde_yaml_ng::Value| {
            policy["services"]["studio"]["tools"]["summarize"]["price"] =
                policy::yaml("{credits: 20, upstream_cost: true, overrun_credits_max: 10}");
        };
        let gate = Gate::options().policy(overrunning).start().await;
        for (held, words, charged) in [
            (100, "cost=3", 3),
            (100, "cost=25", 25),
            (100, "cost=25 sse", 25),
            (100, "cost=500", 30),
            (100, "", 20),
            (100, "cost=25 is-error", 0),
            // Only 4 are left beside what was set aside: they are taken, and no debt is made.
            (24, "cost=30", 24),
        ] {
            let agent = gate.agent_with("pro", held, NewKey::default()).await;
            agent.send(mcp::post(&mcp::call("summarize", json!({}))).upstream(words)).await;
            let settled = gate.settled(&agent).await;
            assert_eq!((settled.posted.get(), settled.pending.get()), (charged, 0), "{held}: {words}");
            assert_eq!(settled.available.get(), held - charged, "{held}: {words}");
        }
    });
}

#[test]
fn the_first_event_is_not_held_back() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("enterprise").await;
        agent.call(&mcp::search()).await.assert_allowed();
        let mut direct = Vec::new();
        let mut through = Vec::new();
        for _ in 0..40 {
            direct.push(first_event(gate.upstream.address, mcp::post(&mcp::search())).await);
            through.push(first_event(gate.address, agent.post(&mcp::search())).await);
        }
        direct.sort_unstable();
        through.sort_unstable();
        // The quickest: others on a busy machine say nothing. The stream stays open, so nothing waited for its end.
        let added = through[0].saturating_sub(direct[0]);
        assert!(added < Duration::from_millis(15), "the gate adds {added:?} to {:?}", direct[0]);
    });
}

/// How long until the first event of a stream that stays open.
async fn first_event(address: std::net::SocketAddr, request: Request) -> Duration {
    let request = request.upstream("sse-open");
    let mut connection = Connection::open(address).await;
    let began = Instant::now();
    connection.write(&request.head()).await.unwrap();
    connection.write(mcp::search().to_string().as_bytes()).await.unwrap();
    connection.read_until(b"data: ").await.unwrap();
    began.elapsed()
}
