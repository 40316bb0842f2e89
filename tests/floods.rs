//! Floods of requests: memory and the load on the ledger stay bounded, and valid keys are served.

use harness::agent::unknown_secret;
use harness::clock::eventually;
use harness::gate::at_once;
use harness::http1::Connection;
use harness::http2::Http2;
use harness::{Agent, Gate, Request, mcp, run, stats, wait};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most lookups of one worker per second; `LOOKUPS_PER_SECOND` of the filter.
const LOOKUPS_PER_SECOND: u64 = 1000;
const WORKERS: u64 = 2;
const FLOODS_MAX: usize = 5;

/// Calls with 12,000 random keys. Returns the statuses of their answers.
async fn flood(gate: SocketAddr) -> Vec<u16> {
    let clients = (0..20).map(|_| async move {
        let client = Arc::new(Http2::open(gate).await);
        let mut statuses = Vec::new();
        for _ in 0..12 {
            // Many at a time: the ledger might keep up with sequential requests.
            let asked = (0..50).map(|_| {
                let client = Arc::clone(&client);
                async move { client.send(mcp::post(&mcp::search()).key(&unknown_secret())).await }
            });
            for response in at_once(asked).await {
                let response = response.unwrap();
                // 401 if the ledger does not know the key, 503 if no more lookups are made now.
                assert!(matches!(response.status, 401 | 503), "{response:?}");
                statuses.push(response.status);
            }
        }
        statuses
    });
    at_once(clients).await.concat()
}

async fn caller(gate: &Gate) -> Agent {
    gate.agent("enterprise").await
}

#[test]
fn a_flood_of_random_keys_is_cheap_and_valid_keys_are_served() {
    let _turn = crate::TURN.blocking_lock();
    run(async {
        let gate = Gate::options().start().await;
        let agent = caller(&gate).await;
        // Cached on every worker, after the change feed has reported the key, so that no more lookups are needed.
        gate.cache_key(&agent).await;
        let resolved = gate.ledger_calls("/filter/v1/resolve").await;
        let memory = gate.stat("server.memory_allocated").await;

        let began = Instant::now();
        let (mut refused, mut not_looked_up, mut served) = (0, 0, 0);
        // If the machine stalls, the ledger may keep up with the flood.
        for _ in 0..FLOODS_MAX {
            let flood = tokio::spawn(flood(gate.address));
            while !flood.is_finished() {
                let response = agent.call(&mcp::search()).await;
                assert!(matches!(response.status, 200 | 429), "a valid key during the flood: {response:?}");
                served += u32::from(response.status == 200);
                // Leaves permits for the call that follows.
                wait(Duration::from_millis(20)).await;
            }
            let statuses = flood.await.unwrap();
            assert_eq!(statuses.len(), 12_000);
            refused += statuses.len() as u64;
            not_looked_up += statuses.iter().filter(|status| **status == 503).count();
            if not_looked_up > 0 {
                break;
            }
        }
        eprintln!("of {refused} random keys {not_looked_up} were not looked up");
        assert!(served > 0, "nothing was served during the flood");
        let seconds = began.elapsed().as_secs() + 1;
        let resolves = gate.ledger_calls("/filter/v1/resolve").await - resolved;
        assert!(
            resolves <= WORKERS * LOOKUPS_PER_SECOND * (seconds + 1),
            "the ledger was asked {resolves} times in {seconds} s"
        );
        assert!(resolves < refused, "each of {refused} random keys was asked for");
        let grown = gate.stat("server.memory_allocated").await.saturating_sub(memory);
        assert!(grown < 64 << 20, "memory grew by {grown} bytes");
        gate.assert_serving(&agent).await;

        // New keys are found during the flood.
        let fresh = caller(&gate).await;
        eventually("a new key is known", async || match fresh.call(&mcp::search()).await.status {
            200 => Ok(()),
            status => Err(format!("{status}")),
        })
        .await;
    });
}

#[test]
fn a_repeated_unknown_key_rarely_calls_the_ledger() {
    let _turn = crate::TURN.blocking_lock();
    run(async {
        let gate = Gate::options().start().await;
        let unknown = unknown_secret();
        let call = |secret: String, address| async move {
            mcp::post(&mcp::search()).key(&secret).send(address).await
        };
        let answers = at_once((0..100).map(|_| call(unknown.clone(), gate.address))).await;
        for refused in &answers {
            refused.assert_refused(401, "auth_denied");
        }
        let resolves = gate.ledger_calls("/filter/v1/resolve").await;
        assert!(resolves <= 10, "{resolves} lookups for one key");
        // Malformed keys never reach the ledger.
        for n in 0..50 {
            let refused = call(format!("ark_{n}"), gate.address).await;
            refused.assert_refused(401, "auth_denied");
        }
        assert!(gate.ledger_calls("/filter/v1/resolve").await <= resolves);
        assert!(stats::ledger(gate.ledger_address).await.contains("agentrelay_ledger"));
    });
}

/// The resident memory of a process.
fn resident_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Requests of one key whose bodies never end, and requests with large headers, hold no more bytes than a key may.
#[test]
fn unfinished_requests_of_one_key_use_bounded_memory() {
    let _turn = crate::TURN.blocking_lock();
    const UNFINISHED: usize = 3000;
    run(async {
        let gate = Gate::options().start().await;
        let (greedy, other) = (caller(&gate).await, caller(&gate).await);
        gate.cache_key(&greedy).await;
        gate.cache_key(&other).await;
        // The last requests have larger headers than allowed: Envoy answers them before the filter.
        for (head_bytes, body_bytes, status) in [(0, 15_000, 429), (12_000, 1_000, 429), (40_000, 1_000, 431)]
        {
            let before = gate.stat("server.memory_allocated").await;
            let resident_before = resident_bytes(gate.envoy.pid());
            let mut connections = Vec::with_capacity(UNFINISHED);
            for _ in 0..UNFINISHED {
                let request = greedy
                    .with_key(Request::post(mcp::PATH))
                    .header("content-type", "application/json")
                    .header("content-length", "16000")
                    .header("x-large", "x".repeat(head_bytes));
                let mut connection = Connection::open(gate.address).await;
                // An early refusal closes the connection, perhaps before all of the request is written.
                let _ = connection.write(&[request.head(), vec![b' '; body_bytes]].concat()).await;
                connections.push(connection);
            }
            let mut refused = 0;
            for connection in &mut connections[UNFINISHED - 500..] {
                let answer = connection.response().await.unwrap();
                assert_eq!(answer.status, status, "{answer:?}");
                refused += 1;
            }
            assert_eq!(refused, 500);
            // A refused request is released within a second, in which its client may read the reason.
            eventually("what is held is bounded", async || {
                let held = gate.stat("http.gate.downstream_rq_active").await;
                let grown = gate.stat("server.memory_allocated").await.saturating_sub(before);
                let seen = format!(
                    "{held} requests of {head_bytes} and {body_bytes} bytes are held, in {grown} bytes"
                );
                if held < 1000 && grown < 48 << 20 { Ok(()) } else { Err(seen) }
            })
            .await;
            // Refused requests were held for a second, and Envoy's allocator keeps the freed memory.
            let grown = resident_bytes(gate.envoy.pid()).saturating_sub(resident_before);
            eprintln!(
                "{UNFINISHED} heads of {head_bytes} with {body_bytes} bytes: {} MiB RSS more",
                grown >> 20
            );
            assert!(grown < 256 << 20, "RSS grew by {grown} bytes");
            // Other keys are not affected.
            other.call(&mcp::search()).await.assert_allowed();
            drop(connections);
        }
        gate.assert_healthy().await;
    });
}
