//! How many requests a key may have in progress, that they end with the key, and what a full window never refuses, on a gate of two workers.

use harness::clock::eventually;
use harness::gate::at_once;
use harness::http1::Connection;
use harness::{Agent, Gate, NewKey, Request, mcp, policy, run, wait};
use protocol::admin::{Reason, RotateKey};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const WORKERS: usize = 2;
/// The default for a tier that does not set it.
const STREAMS: usize = 32;
/// The bound for a revocation, plus a margin for a busy machine.
const BOUND: Duration = Duration::from_secs(4);

fn stream() -> Request {
    Request::get(mcp::PATH).header("accept", "text/event-stream").upstream("sse-open")
}

fn listen() -> Value {
    mcp::request("subscriptions/listen", json!({"notifications": {"toolsListChanged": true}}))
}

fn websocket() -> Request {
    Request::get("/api/v1/mcp/projects/1/builds")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
}

/// Sends a request and keeps its response open; `None` if it is refused because too many are in progress.
async fn open(agent: &Agent, request: Request, body: &str) -> Option<Connection> {
    let mut connection = Connection::open(agent.gate).await;
    let request = agent.with_key(request);
    connection.write(&[&request.head(), body.as_bytes()].concat()).await.unwrap();
    connection.read_until(b"\r\n\r\n").await.unwrap();
    if !connection.so_far().starts_with("HTTP/1.1 429") {
        return Some(connection);
    }
    let refused = connection.response().await.unwrap();
    assert_eq!(refused.header("retry-after"), Some("1"), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.body).contains("in progress"), "{refused:?}");
    None
}

async fn gate() -> Gate {
    Gate::options()
        .workers(u32::try_from(WORKERS).unwrap())
        .policy(|policy| {
            policy::limit_tier(policy, "enterprise", 100_000, "60s");
            let service = &mut policy["services"]["ci"];
            service["upgrades"] = policy::yaml("true");
            service["tools"]["GET /projects/{project}/builds"]["limits"] = policy::yaml("[]");
        })
        .start()
        .await
}

#[test]
fn a_key_that_opens_many_streams_does_not_block_others() {
    run(async {
        let gate = gate().await;
        let (greedy, other) = (gate.agent("enterprise").await, gate.agent("enterprise").await);
        gate.cache_key(&greedy).await;
        gate.cache_key(&other).await;
        let attempts = (0..1024).map(|_| {
            let greedy = greedy.clone();
            async move { open(&greedy, stream(), "").await }
        });
        let mut opened: Vec<Connection> = at_once(attempts).await.into_iter().flatten().collect();
        assert!(opened.len() <= STREAMS * WORKERS && opened.len() >= STREAMS, "{} streams", opened.len());
        // Calls are counted separately, and other keys are not affected.
        greedy.call(&mcp::search()).await.assert_allowed();
        let began = Instant::now();
        for _ in 0..20 {
            other.call(&mcp::search()).await.assert_allowed();
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert!(open(&other, stream(), "").await.is_some());
        // A client that disconnects frees its place, and each kind of stream can use it.
        for (request, body) in [
            (mcp::post(&listen()).upstream("sse-open"), listen().to_string()),
            (websocket(), String::new()),
            (stream(), String::new()),
        ] {
            opened.clear();
            let mut last = None;
            eventually("there is room again", async || {
                last = open(&greedy, request.clone().with_new_marker(), &body).await;
                if last.is_some() { Ok(()) } else { Err("none".to_owned()) }
            })
            .await;
            opened.extend(last);
            let more = (0..STREAMS * WORKERS + 8).map(|_| {
                let (greedy, request, body) =
                    (greedy.clone(), request.clone().with_new_marker(), body.clone());
                async move { open(&greedy, request, &body).await }
            });
            opened.extend(at_once(more).await.into_iter().flatten());
            assert!(opened.len() <= STREAMS * WORKERS, "{} of {request:?}", opened.len());
        }
        gate.assert_healthy().await;
    });
}

#[test]
fn the_lower_bound_of_tier_and_key_limits_requests_in_progress() {
    run(async {
        let gate = Gate::options()
            .workers(1)
            .policy(|policy| {
                policy::limit_tier(policy, "pro", 100_000, "60s");
                policy["tiers"]["pro"]["concurrency"] = policy::yaml("{requests: 3, streams: 1}");
            })
            .start()
            .await;
        for (key, requests, streams) in [
            (NewKey::default(), 3, 1),
            (NewKey::default().concurrency(2, 5), 2, 1),
            (NewKey::default().concurrency(50, 0), 3, 0),
        ] {
            let agent = gate.agent_with("pro", 1000, key).await;
            let mut hanging = Vec::new();
            let body = mcp::search().to_string();
            for _ in 0..requests {
                let call = agent.with_key(mcp::post(&mcp::search()).upstream("hang"));
                let mut connection = Connection::open(gate.address).await;
                connection.write(&[&call.head(), body.as_bytes()].concat()).await.unwrap();
                eventually("it is upstream", async || match gate.upstream.seen(call.marker()).len() {
                    1 => Ok(()),
                    other => Err(format!("{other}")),
                })
                .await;
                hanging.push(connection);
            }
            let refused = agent.call(&mcp::search()).await;
            refused.assert_refused(429, "rate_limited");
            gate.assert_unseen(&refused.marker);
            for _ in 0..streams {
                hanging.push(open(&agent, stream(), "").await.expect("a stream may be opened"));
            }
            assert!(open(&agent, stream(), "").await.is_none());
            // Messages that those calls may wait for are admitted.
            for message in messages_that_start_no_work() {
                assert!(matches!(agent.call(&message).await.status, 200 | 202), "{message}");
            }
            drop(hanging);
            eventually("there is room again", async || match agent.call(&mcp::search()).await.status {
                200 => Ok(()),
                status => Err(format!("{status}")),
            })
            .await;
        }
        gate.assert_healthy().await;
    });
}

/// Messages that start no work.
fn messages_that_start_no_work() -> Vec<Value> {
    vec![
        mcp::request("ping", json!({})),
        mcp::request("tasks/cancel", json!({"taskId": "t"})),
        mcp::notification("notifications/initialized"),
        mcp::notification("notifications/cancelled"),
        mcp::notification("notifications/progress"),
        mcp::notification("notifications/of_some_extension"),
        json!({"jsonrpc": "2.0", "id": 0, "result": {"action": "accept", "content": {}}}),
        json!({"jsonrpc": "2.0", "id": "s-1", "result": {"role": "assistant", "content": {}, "model": "m"}}),
        json!({"jsonrpc": "2.0", "id": 7, "error": {"code": -1, "message": "declined"}}),
    ]
}

#[test]
fn a_full_window_refuses_only_what_starts_work() {
    run(async {
        let gate =
            Gate::options().policy(|policy| policy::limit_tier(policy, "free", 5, "60s")).start().await;
        let agent = gate.agent("free").await;
        let session = agent.session("s").await;
        let within = |request: Request| request.header("mcp-session-id", &session);
        for _ in 0..5 {
            agent.call(&mcp::search()).await.assert_allowed();
        }
        for message in messages_that_start_no_work() {
            let answer = agent.send(within(mcp::post(&message))).await;
            assert!(matches!(answer.status, 200 | 202), "{message}: {answer:?}");
            assert_eq!(answer.rate().remaining, 0, "it took nothing, and says what is left");
        }
        let batch = json!([mcp::request("ping", json!({})), mcp::notification("notifications/progress")]);
        assert_eq!(agent.send(within(mcp::post(&batch))).await.status, 200);
        let resumed = within(Request::get(mcp::PATH).upstream("sse").header("last-event-id", "7"));
        assert_eq!(agent.send(resumed).await.status, 200);
        for message in [
            mcp::search(),
            mcp::list(),
            mcp::request("tasks/get", json!({"taskId": "t"})),
            mcp::request("completion/complete", json!({})),
            listen(),
        ] {
            agent.send(within(mcp::post(&message))).await.assert_refused(429, "rate_limited");
        }
        agent.send(within(Request::get(mcp::PATH))).await.assert_refused(429, "rate_limited");
        let ended = agent.send(within(Request::new("DELETE", mcp::PATH))).await;
        assert_eq!(ended.status, 200, "{ended:?}");
        gate.assert_healthy().await;
    });
}

#[test]
fn an_id_that_is_in_progress_in_its_session_is_refused() {
    run(async {
        let gate = Gate::options()
            .workers(1)
            .policy(|policy| policy::limit_tier(policy, "pro", 1000, "60s"))
            .start()
            .await;
        let agent = gate.agent("pro").await;
        let (session, other) = (agent.session("s").await, agent.session("t").await);
        let call = |id: &str, session: &str, words: &str| {
            let text = mcp::search().to_string().replacen("\"id\":1", &format!("\"id\":{id}"), 1);
            let request = mcp::post_bytes(text.as_bytes()).header("mcp-session-id", session).upstream(words);
            (agent.with_key(request), text)
        };
        for (id, same, others) in [
            ("7", vec!["7"], vec!["\"7\"", "8", "-7"]),
            ("0", vec!["0", "-0"], vec!["\"0\""]),
            ("\"a\"", vec!["\"a\"", "\"\\u0061\""], vec!["\"A\"", "\"a \""]),
            ("9007199254740993", vec!["9007199254740992"], vec!["9007199254740990"]),
        ] {
            let (request, text) = call(id, &session, "hang");
            let mut hanging = Connection::open(gate.address).await;
            hanging.write(&[&request.head(), text.as_bytes()].concat()).await.unwrap();
            eventually("it is upstream", async || match gate.upstream.seen(request.marker()).len() {
                1 => Ok(()),
                other => Err(format!("{other}")),
            })
            .await;
            for twin in same {
                let refused = gate.send(call(twin, &session, "").0).await;
                assert_eq!(
                    (refused.status, &refused.json()["error"]["code"]),
                    (400, &json!(-32600)),
                    "{twin}"
                );
                gate.assert_unseen(&refused.marker);
                assert_eq!(gate.send(call(twin, &other, "").0).await.status, 200, "in another session");
            }
            for id in others {
                assert_eq!(gate.send(call(id, &session, "").0).await.status, 200, "{id}");
            }
            drop(hanging);
            eventually("its id is free again", async || {
                match gate.send(call(id, &session, "").0).await.status {
                    200 => Ok(()),
                    status => Err(format!("{status}")),
                }
            })
            .await;
        }
        gate.assert_healthy().await;
    });
}

#[test]
fn opening_connections_has_its_own_window() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("free").await;
        for _ in 0..20 {
            agent.call(&mcp::search()).await.assert_allowed();
        }
        agent.call(&mcp::search()).await.assert_refused(429, "rate_limited");
        let openings = [mcp::initialize(), mcp::request("server/discover", json!({}))];
        for turn in 0..60 {
            let answer = agent.call(&openings[turn % 2]).await;
            assert_eq!(answer.status, 200, "{turn}: {answer:?}");
        }
        for opening in &openings {
            let refused = agent.call(opening).await;
            refused.assert_refused(429, "rate_limited");
            assert!(String::from_utf8_lossy(&refused.body).contains("opening connections"), "{refused:?}");
            gate.assert_unseen(&refused.marker);
        }
    });
}

/// All requests that can stay open, of one key on both Envoys.
async fn everything(agent: &Agent, gates: &[std::net::SocketAddr]) -> Vec<(String, Connection)> {
    let mut all = Vec::new();
    for gate in gates {
        let agent = Agent { gate: *gate, ..agent.clone() };
        // Several, so that each worker has some.
        for _ in 0..3 {
            let call = mcp::image("standard");
            for (what, request, body) in [
                ("GET stream", stream(), String::new()),
                ("listen", mcp::post(&listen()).upstream("sse-open"), listen().to_string()),
                ("a call's stream", mcp::post(&call).upstream("sse-open"), call.to_string()),
                ("WebSocket", websocket(), String::new()),
            ] {
                let opened = open(&agent, request, &body).await.expect("it may be opened");
                all.push((format!("{what} at {gate}"), opened));
            }
        }
    }
    all
}

async fn assert_ends(all: Vec<(String, Connection)>, since: Instant, why: &str) {
    for (what, mut connection) in all {
        let ended = connection.read_until(b"no upstream says this").await;
        assert!(ended.is_err() && since.elapsed() < BOUND, "{why}: {what} after {:?}", since.elapsed());
    }
}

#[test]
fn a_keys_open_requests_end_with_the_key() {
    run(async {
        let mut gate = gate().await;
        let gates = [gate.address, gate.another_envoy().await];
        let bystander = gate.agent("enterprise").await;
        let mut others = everything(&bystander, &gates).await;
        let reason = || Reason { reason: "test".into() };

        let revoked = gate.agent("enterprise").await;
        let open = everything(&revoked, &gates).await;
        let began = Instant::now();
        gate.admin.revoke_key(&revoked.key, &reason()).await.unwrap();
        assert_ends(open, began, "revoked").await;

        let rotated = gate.agent("enterprise").await;
        let open = everything(&rotated, &gates).await;
        gate.admin.rotate_key(&rotated.key, &RotateKey { grace_seconds: 1, reason: None }).await.unwrap();
        assert_ends(open, Instant::now() + Duration::from_secs(1), "rotated").await;

        let end = harness::agent::from_now(3_000);
        let expiring = gate.key(&bystander.tenant, NewKey::default().expires_at(end)).await;
        let open = everything(&expiring, &gates).await;
        assert_ends(open, Instant::now() + Duration::from_secs(3), "expired").await;

        let suspended = gate.agent("enterprise").await;
        let open = everything(&suspended, &gates).await;
        let began = Instant::now();
        gate.admin.suspend_tenant(&suspended.tenant, &Reason { reason: "test".into() }).await.unwrap();
        assert_ends(open, began, "suspended").await;

        // All others are still open.
        for (what, connection) in &mut others {
            let alive = tokio::select! {
                _ = connection.read_until(b"no upstream says this") => false,
                () = wait(Duration::from_millis(20)) => true,
            };
            assert!(alive, "{what} of another key has ended: {}", connection.so_far());
        }
        // The call that was cut off did not fail, so it is charged.
        assert_eq!(gate.settled(&revoked).await.posted.get(), 30);
        gate.assert_healthy().await;
    });
}
