//! Refusals as fast as one connection gets them, while the ledger hangs: paid calls are recorded, and unauthenticated
//! clients have no influence on storage.

use harness::agent::{NewKey, unknown_secret};
use harness::clock::{eventually_within, run_within};
use harness::{Agent, Gate, Request, Response, mcp, policy, wait};
use protocol::admin::Reason;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const BUILDS: &str = "/api/v1/mcp/projects/1/builds";
const PAUSE: Duration = Duration::from_secs(10);
/// More than a worker keeps of all decisions.
const REFUSALS: u64 = 30_000;
/// Connections that send the same request. Envoy does not pipeline.
const CONNECTIONS: usize = 3;
const MINUTES: Duration = Duration::from_secs(600);
/// Counts of a minute are reported when it is over.
const REPORTED_WITHIN: Duration = Duration::from_secs(180);
const STORAGE_BYTES_MAX: u64 = 1 << 20;

/// A gate of one worker, whose queues get the whole flood, with a caller that has a lease.
async fn gate() -> (Gate, Agent) {
    let gate = Gate::options()
        .policy(|policy| policy::limit_tier(policy, "enterprise", 1_000_000, "60s"))
        .shipped_timeout()
        .workers(1)
        .start()
        .await;
    let agent = gate.agent_with("enterprise", 100_000, NewKey::default()).await;
    gate.cache_key(&agent).await;
    (gate, agent)
}

/// Answers of a flood by status.
type Answers = BTreeMap<u16, u64>;

/// Sends the same request on its own connection until it is stopped.
fn flood(gate: SocketAddr, request: &Request, stop: &Arc<AtomicBool>) -> JoinHandle<Answers> {
    // Without a body: Envoy closes a connection if it answers before all of a request has arrived.
    let (sent, stop) = (request.head(), Arc::clone(stop));
    tokio::spawn(async move {
        let mut answers = Answers::new();
        let mut stream = TcpStream::connect(gate).await.expect("the gate listens");
        let mut read = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            stream.write_all(&sent).await.expect("the gate reads");
            read.clear();
            let mut found = Vec::new();
            while found.is_empty() {
                assert!(stream.read_buf(&mut read).await.expect("the gate answers") > 0, "it has closed");
                found = statuses(&read);
            }
            found.into_iter().for_each(|status| *answers.entry(status).or_default() += 1);
        }
        answers
    })
}

/// The statuses of all complete header sections.
fn statuses(read: &[u8]) -> Vec<u16> {
    const BEGIN: &[u8] = b"HTTP/1.1 ";
    let begins = read.windows(BEGIN.len()).enumerate().filter(|(_, bytes)| *bytes == BEGIN);
    let digits = begins.filter_map(|(place, _)| read.get(place + BEGIN.len()..place + BEGIN.len() + 3));
    digits.map(|digits| String::from_utf8_lossy(digits).parse().expect("a status")).collect()
}

fn summarize() -> Value {
    mcp::call("summarize", json!({"text": "a long story"}))
}

/// Calls that cost credits, some leased and some exact. Returns the answers.
fn paid_calls(agent: &Agent, stop: &Arc<AtomicBool>) -> JoinHandle<Vec<Response>> {
    let (agent, stop) = (agent.clone(), Arc::clone(stop));
    tokio::spawn(async move {
        let mut answers = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            answers.push(agent.call(&summarize()).await);
            if answers.len() % 10 == 0 {
                answers.push(agent.call(&mcp::image("standard")).await);
            }
            wait(Duration::from_millis(40)).await;
        }
        answers
    })
}

/// Bytes that all rows use, without free pages of the file.
async fn stored(gate: &Gate, name: &str) -> u64 {
    let copy = gate.directory().join(name);
    let database = format!("sqlite:{}", gate.directory().join("ledger.db").display());
    let copied = copy.clone();
    tokio::task::spawn_blocking(move || {
        ledger::backup(&database.parse().expect("a database"), &copied, None).expect("it can be copied")
    })
    .await
    .expect("no panic");
    bytes(&copy)
}

fn bytes(file: &Path) -> u64 {
    std::fs::metadata(file).expect("the copy is there").len()
}

async fn items(gate: &Gate, path: &str) -> Vec<Value> {
    let answer = Request::get(path).key(&gate.credentials().admin_key).send(gate.ledger_address).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["items"].as_array().expect("a page").clone()
}

/// Floods with these requests, with the ledger paused for 10 s meanwhile. Returns the results.
async fn flooded(gate: &mut Gate, agent: &Agent, requests: &[Request]) -> (Vec<Response>, Answers) {
    let (stop, stop_paying) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let paying = paid_calls(agent, &stop_paying);
    // Enough calls for a lease.
    wait(Duration::from_secs(3)).await;
    let all = requests.iter().flat_map(|request| [request; CONNECTIONS]);
    let floods: Vec<_> = all.map(|request| flood(gate.address, request, &stop)).collect();
    wait(Duration::from_secs(1)).await;
    gate.pause_ledger();
    let began = Instant::now();
    let refused = async |gate: &Gate| {
        let mut sum = 0;
        for outcome in ["auth_denied", "rate_limited", "invalid_request"] {
            sum += gate.stat(&format!("wasmcustom.agentrelay_decisions.outcome={outcome}")).await;
        }
        sum
    };
    let before = refused(gate).await;
    eventually_within(Duration::from_secs(90), "the flood is one", async || {
        let so_far = refused(gate).await - before;
        if began.elapsed() >= PAUSE && so_far >= REFUSALS { Ok(()) } else { Err(format!("{so_far}")) }
    })
    .await;
    gate.resume_ledger();
    wait(Duration::from_secs(2)).await;
    stop.store(true, Ordering::Relaxed);
    let mut answers = Answers::new();
    for flood in floods {
        for (status, count) in flood.await.expect("no panic") {
            *answers.entry(status).or_default() += count;
        }
    }
    wait(Duration::from_secs(1)).await;
    stop_paying.store(true, Ordering::Relaxed);
    (paying.await.expect("no panic"), answers)
}

/// Checks that every call that passed is in the audit trail and in the sums of usage.
async fn assert_recorded(gate: &Gate, agent: &Agent, answers: &[Response]) {
    let id = |answer: &Response| {
        gate.upstream.the_one(&answer.marker).header("x-agentrelay-request-id").expect("it has an id")
    };
    let passed = answers.iter().filter(|answer| answer.status == 200);
    let passed: BTreeSet<String> = passed.map(id).collect();
    assert!(passed.len() > 50, "hardly a call was paid: {}", passed.len());
    eventually_within(REPORTED_WITHIN, "every paid call is in the audit trail and in usage", async || {
        let rows = gate.audit(agent).await;
        let known: BTreeSet<String> = rows
            .iter()
            .filter(|row| row.kind == "decision" && row.detail["credits"].as_u64() > Some(0))
            .map(|row| row.detail["id"].as_str().expect("an id").to_owned())
            .collect();
        let usage = items(gate, &format!("/v1/usage?group_by=outcome&key_id={}", agent.key)).await;
        let counted = usage
            .iter()
            .find(|row| row["outcome"] == "allowed")
            .map_or(0, |row| row["calls"].as_u64().expect("a number"));
        let lacking = passed.difference(&known).count();
        // Caching the key took a free call, which is counted too.
        if lacking == 0 && counted >= passed.len() as u64 {
            Ok(())
        } else {
            Err(format!("of {} paid calls {lacking} lack, usage has {counted}", passed.len()))
        }
    })
    .await;
    assert_eq!(gate.stat("wasmcustom.agentrelay_paid_dropped").await, 0);
}

#[test]
fn a_flood_without_a_key_costs_no_record_and_no_storage() {
    let turn = crate::TURN.blocking_lock();
    run_within(MINUTES, async move {
        let (mut gate, agent) = gate().await;
        agent.call(&mcp::image("standard")).await.assert_allowed();
        let before = stored(&gate, "before.db").await;
        // No key, a malformed one, two unknown ones, and a revoked one.
        let former = gate.agent("free").await;
        gate.admin.revoke_key(&former.key, &Reason { reason: "test".into() }).await.expect("it is revoked");
        let requests = [
            former.get(BUILDS),
            Request::get("/mcp"),
            Request::get("/mcp").key("nonsense"),
            Request::get(BUILDS),
            Request::get("/nowhere"),
            Request::get("/mcp").key(&unknown_secret()),
            Request::get(BUILDS).key(&unknown_secret()),
        ];
        let (paid, refused) = flooded(&mut gate, &agent, &requests).await;
        drop(turn);
        assert!(refused.keys().all(|status| matches!(status, 401 | 404 | 503)), "{refused:?}");
        assert_recorded(&gate, &agent, &paid).await;

        // Not one by one, but none is missing.
        let sum: u64 = refused.values().sum();
        let counts = async |of: &str| {
            let rows = items(&gate, &format!("/v1/audit?kind=decisions_counted&limit=1000{of}")).await;
            (rows.len(), rows.iter().filter_map(|row| row["detail"]["count"].as_u64()).sum::<u64>())
        };
        eventually_within(REPORTED_WITHIN, "every refusal is counted", async || {
            let (rows, counted) = counts("").await;
            let formers = counts(&format!("&actor={}", former.key)).await.1;
            assert!(rows < 60, "{rows} rows");
            let usage = items(&gate, "/v1/usage?group_by=tenant").await;
            let of = |tenant: Value| {
                usage
                    .iter()
                    .find(|row| row["tenant_id"] == tenant)
                    .map_or(0, |row| row["calls"].as_u64().expect("calls"))
            };
            let summed = of(Value::Null) + of(json!(former.tenant));
            // Gate::cache_key has revoked a key too, and called the workers with it.
            let is_all = counted >= sum && summed <= counted && summed >= sum && formers > 1000;
            if is_all { Ok(()) } else { Err(format!("{sum}: {counted}, {formers}, {summed}")) }
        })
        .await;
        let rows = items(&gate, "/v1/audit?kind=decisions_counted&outcome=auth_denied").await;
        let services: BTreeSet<&str> =
            rows.iter().filter_map(|row| row["detail"]["service"].as_str()).collect();
        assert!(rows.iter().any(|row| row["actor"] == "anonymous"), "{rows:?}");
        assert!(services.len() >= 2, "{rows:?}");
        assert_eq!(gate.stat("wasmcustom.agentrelay_queue_dropped").await, 0);
        assert!(items(&gate, "/v1/audit?outcome=auth_denied&kind=decision").await.is_empty());

        let grown = stored(&gate, "after.db").await - before;
        eprintln!("{sum} refusals, {} paid calls: {grown} bytes more", paid.len());
        assert!(grown < STORAGE_BYTES_MAX, "{sum} refusals took {grown} bytes");
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn refusals_of_a_key_displace_no_paid_call() {
    let turn = crate::TURN.blocking_lock();
    run_within(MINUTES, async move {
        let (mut gate, agent) = gate().await;
        let noisy = gate.agent_with("free", 0, NewKey::default().limit(1, 60)).await;
        noisy.get(BUILDS).send(gate.address).await;
        let requests = [noisy.get(BUILDS)];
        let (paid, refused) = flooded(&mut gate, &agent, &requests).await;
        drop(turn);
        assert!(refused[&429] > REFUSALS, "{refused:?}");
        assert_recorded(&gate, &agent, &paid).await;
        // The dropped decisions are reported, and all were of the flood.
        let lost = gate.stat("wasmcustom.agentrelay_queue_dropped").await;
        assert!(lost > 0, "the flood was none");
        gate.assert_serving(&agent).await;
    });
}
