//! Leased credits and global limits over several Envoys: calls need no ledger call each, and nothing is spent twice.

use harness::agent::NewKey;
use harness::clock::{eventually, eventually_within, run_within};
use harness::http1::Connection;
use harness::{Agent, Gate, Response, mcp, policy, stats, wait};
use protocol::admin::{Lease, LeaseState};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const CLIENTS: usize = 8;
/// One burst runs at a time, because the results depend on its rate.
static BURST: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
const MINUTES: Duration = Duration::from_secs(900);

fn summarize() -> Value {
    mcp::call("summarize", json!({"text": "a long story"}))
}

/// A gate of two Envoys with two workers each, whose rate limits no test reaches.
async fn two_envoys() -> (Gate, [SocketAddr; 2]) {
    let mut gate = Gate::options()
        .policy(|policy| policy::limit_tier(policy, "enterprise", 1_000_000, "60s"))
        .start()
        .await;
    let envoys = [gate.address, gate.another_envoy().await];
    (gate, envoys)
}

/// A gate whose tier `pro` is limited to 300 calls a minute over all Envoys.
async fn with_a_global_limit() -> Gate {
    let limits = || policy::yaml("[{permits: 300, window: 60s, global: true}]");
    Gate::options().policy(move |policy| policy["tiers"]["pro"]["limits"] = limits()).start().await
}

/// The answers of parallel clients.
#[derive(Default)]
struct Tally {
    sent: AtomicU64,
    passed: AtomicU64,
    refused: AtomicU64,
    broken: AtomicU64,
}

impl Tally {
    fn counts(&self) -> (u64, u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        (count(&self.passed), count(&self.refused), count(&self.broken))
    }

    fn note(&self, answer: Result<Response, String>) -> bool {
        let counter = match answer {
            Ok(answer) if answer.status == 200 => {
                let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
                assert!(body.get("result").is_some(), "{body}");
                &self.passed
            }
            Ok(answer) if answer.status == 402 => &self.refused,
            Ok(answer) => panic!("{answer:?}"),
            Err(_) => &self.broken,
        };
        counter.fetch_add(1, Ordering::SeqCst);
        !std::ptr::eq(counter, &raw const self.broken)
    }
}

/// Sends calls from so many clients at once, each with a connection to every Envoy in turn, until `calls` were sent.
async fn send_burst(agent: &Agent, envoys: &[SocketAddr], calls: u64) -> Arc<Tally> {
    let tally = Arc::new(Tally::default());
    let clients = (0..CLIENTS).map(|client| {
        let (tally, agent, envoys) = (tally.clone(), agent.clone(), envoys.to_vec());
        tokio::spawn(async move {
            let mut connections = Vec::new();
            for envoy in &envoys {
                connections.push(Some(Connection::open(*envoy).await));
            }
            let mut turn = client;
            while tally.sent.fetch_add(1, Ordering::SeqCst) < calls {
                turn += 1;
                let place = turn % connections.len();
                let Some(connection) = &mut connections[place] else {
                    if connections.iter().all(Option::is_none) {
                        return;
                    }
                    tally.sent.fetch_sub(1, Ordering::SeqCst);
                    continue;
                };
                if !tally.note(connection.exchange(agent.post(&summarize())).await) {
                    connections[place] = None;
                }
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    for client in clients {
        client.await.expect("no client panics");
    }
    tally
}

/// Calls until there is a lease, and returns how many passed. The first calls reserve exactly.
async fn until_leased(gate: &Gate, agent: &Agent) -> u64 {
    let mut passed = 0;
    loop {
        for _ in 0..8 {
            agent.call(&summarize()).await.assert_allowed();
            passed += 1;
        }
        wait(Duration::from_millis(200)).await;
        if leases(gate, agent).await.iter().any(|lease| lease.state == LeaseState::Open) {
            return passed;
        }
        assert!(passed < 200, "there is no lease");
    }
}

async fn leases(gate: &Gate, agent: &Agent) -> Vec<Lease> {
    let mut all = Vec::new();
    let mut cursor = None;
    loop {
        let page =
            gate.admin.leases(Some(&agent.tenant), None, cursor.as_deref()).await.expect("a page of leases");
        all.extend(page.items);
        match page.next_cursor {
            Some(next) => cursor = Some(next),
            None => return all,
        }
    }
}

#[test]
fn two_envoys_spend_ten_thousand_credits_and_not_one_more_ten_times() {
    run_within(MINUTES, async {
        let _alone = BURST.lock().await;
        let (gate, envoys) = two_envoys().await;
        for round in 1..=10 {
            let agent = gate.agent_with("enterprise", 10_000, NewKey::default()).await;
            let began = Instant::now();
            let tally = send_burst(&agent, &envoys, 10_400).await;
            let (mut passed, refused, broken) = tally.counts();
            assert_eq!((passed + refused, broken), (10_400, 0), "round {round}");
            // A call that comes while an Envoy returns the last credits, and waits too long because the machine stalls,
            // is refused although the next call finds credits.
            for _ in 0..refused.saturating_sub(400) {
                passed += u64::from(agent.call(&summarize()).await.status == 200);
            }
            assert_eq!(passed, 10_000, "round {round}");
            assert_eq!(agent.call(&summarize()).await.status, 402);
            let balance = gate.settled(&agent).await;
            assert_eq!((balance.available.get(), balance.posted.get()), (0, 10_000));
            println!("round {round}: 10,000 of 10,400 calls in {:.1} s", began.elapsed().as_secs_f64());
        }
        gate.assert_healthy().await;
    });
}

#[test]
fn a_killed_envoy_costs_at_most_its_leases_and_the_ledger_reports_the_amount() {
    run_within(MINUTES, async {
        let _alone = BURST.lock().await;
        let (gate, envoys) = two_envoys().await;
        let agent = gate.agent_with("enterprise", 10_000, NewKey::default()).await;
        let victim = gate.siblings[0].pid().to_string();
        let storm = send_burst(&agent, &envoys, 10_400);
        let kill = async {
            eventually_within(Duration::from_secs(60), "half of it is spent", async || {
                let balance = gate.balance(&agent).await;
                if balance.available.get() < 6_000 { Ok(()) } else { Err(format!("{balance:?}")) }
            })
            .await;
            let killed = std::process::Command::new("kill").args(["-s", "KILL", &victim]).status();
            assert!(killed.expect("kill can be run").success());
        };
        let (tally, ()) = tokio::join!(storm, kill);
        let (passed, refused, broken) = tally.counts();
        assert!(passed <= 10_000, "{passed} passed");
        assert!(broken >= 1, "nobody noticed the kill");
        // Its leases become lost when they expire: then nothing is pending, and everything is accounted for.
        let balance = eventually_within(Duration::from_secs(90), "its leases are lost", async || {
            let balance = gate.balance(&agent).await;
            if balance.pending.is_zero() { Ok(balance) } else { Err(format!("{balance:?}")) }
        })
        .await;
        let leases = leases(&gate, &agent).await;
        let lost: u64 = leases.iter().map(|lease| lease.lost.get()).sum();
        println!("{passed} passed, {refused} refused, {broken} broken, {lost} lost: {balance:?}");
        assert!(leases.iter().all(|lease| lease.state != LeaseState::Open));
        // The charge is the sum of the calls that passed, of those whose answer reached nobody, and of those without a
        // statement.
        assert!(balance.posted.get() >= passed);
        assert!(balance.posted.get() <= passed + lost + broken, "{balance:?}");
        assert_eq!(balance.posted.get() + balance.available.get(), 10_000);
        // The tenant can go on.
        let rest = balance.available.get();
        for _ in 0..rest.min(20) {
            let answer = agent.call(&summarize()).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    });
}

#[test]
fn at_steady_load_a_thousand_leased_calls_cost_the_ledger_five_at_most() {
    run_within(MINUTES, async {
        let _alone = BURST.lock().await;
        let (gate, envoys) = two_envoys().await;
        let agent = gate.agent_with("enterprise", 1_000_000, NewKey::default()).await;
        send_burst(&agent, &envoys, 4_000).await;
        let calls = async || {
            let mut sum = 0;
            for admin in [gate.envoy.admin, gate.siblings[0].admin] {
                let found = stats::envoy(admin, "agentrelay_callouts.kind").await;
                sum += found.iter().map(|(_, count)| count).sum::<u64>();
            }
            sum
        };
        let before = calls().await;
        let began = Instant::now();
        let tally = send_burst(&agent, &envoys, 12_000).await;
        assert_eq!(tally.counts(), (12_000, 0, 0));
        let (after, took) = (calls().await, began.elapsed().as_secs_f64());
        let calls = (after - before) as f64;
        let per_thousand = calls / 12.0;
        println!("{per_thousand:.1} ledger calls for 1,000 requests, at {:.0} requests/s", 12_000.0 / took);
        // Leases last for a time, so a machine too slow for 1,500 requests/s needs as many ledger calls for fewer
        // requests.
        assert!(per_thousand <= 5.0 || calls <= 7.5 * took, "{per_thousand}");
    });
}

#[test]
fn failed_calls_and_idle_leases_are_returned() {
    run_within(MINUTES, async {
        let gate = Gate::shared().await;
        let agent = gate.agent("pro").await;
        let passed = until_leased(gate, &agent).await;
        let failing = mcp::post(&summarize()).upstream("is-error");
        assert_eq!(agent.send(failing).await.status, 200);
        let broken = mcp::post(&summarize()).upstream("status=500");
        assert_eq!(agent.send(broken).await.status, 500);
        let balance = gate.settled(&agent).await;
        assert_eq!((balance.available.get(), balance.posted.get()), (1000 - passed, passed));
        let leases = leases(gate, &agent).await;
        assert!(
            leases.iter().all(|lease| lease.state == LeaseState::Closed && lease.lost.is_zero()),
            "{leases:?}"
        );
        let charged: u64 = gate
            .decisions(&agent, protocol::audit::Outcome::Allowed, passed as usize)
            .await
            .iter()
            .map(|decision| decision["credits"].as_u64().expect("a number"))
            .sum();
        assert_eq!(charged, passed);
        gate.assert_healthy().await;
    });
}

#[test]
fn a_call_that_fails_long_after_its_lease_was_returned_is_refunded() {
    run_within(MINUTES, async {
        let gate = Gate::shared().await;
        let agent = gate.agent("pro").await;
        let passed = until_leased(gate, &agent).await;
        let slow = agent.post(&summarize()).upstream("delay-ms=9000,status=500").send(gate.address);
        assert_eq!(slow.await.status, 500);
        eventually("it is given back", async || {
            let balance = gate.balance(&agent).await;
            let found = (balance.available.get(), balance.pending.get(), balance.posted.get());
            if found == (1000 - passed, 0, passed) { Ok(()) } else { Err(format!("{balance:?}")) }
        })
        .await;
    });
}

#[test]
fn a_global_limit_holds_over_two_envoys_and_its_shares_follow_the_traffic() {
    run_within(MINUTES, async {
        let mut gate = with_a_global_limit().await;
        let envoys = [gate.address, gate.another_envoy().await];
        let agent = gate.agent("pro").await;
        let admitted = Arc::new(std::sync::Mutex::new(Vec::new()));
        let until = Instant::now() + Duration::from_secs(130);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (admitted, agent) = (admitted.clone(), agent.clone());
                tokio::spawn(async move {
                    let mut connection = Connection::open(envoys[client % 2]).await;
                    while Instant::now() < until {
                        let sent = Instant::now();
                        let answer =
                            connection.exchange(agent.post(&mcp::search())).await.expect("an answer");
                        match answer.status {
                            200 => admitted.lock().expect("nobody panics").push((sent, Instant::now())),
                            429 => assert!((1..=61).contains(&answer.retry_after())),
                            status => panic!("{status}: {answer:?}"),
                        }
                        // The second Envoy has nearly all of the traffic, and must get nearly all of the permits.
                        let pause = if client % 2 == 0 { 400 } else { 60 };
                        wait(Duration::from_millis(pause)).await;
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.expect("no client panics");
        }
        let mut admitted =
            Arc::try_unwrap(admitted).expect("all are done").into_inner().expect("nobody panics");
        admitted.sort();
        // A call was admitted somewhere between being sent and being answered. More than 300 in 60 s is certain only of
        // those sent after a moment and answered within 60 s of it.
        for (place, (sent, _)) in admitted.iter().enumerate() {
            let inside =
                admitted[place..].iter().filter(|(_, answered)| *answered - *sent <= Duration::from_secs(60));
            let count = inside.count();
            assert!(count <= 300, "{count} within 60 s");
        }
        println!("{} admitted in 130 s, of at most 900", admitted.len());
        assert!(admitted.len() >= 500, "only {} were admitted: the limit is not used", admitted.len());
        gate.assert_healthy().await;
    });
}

#[test]
fn concurrent_calls_pass_while_a_global_limit_has_permits() {
    run_within(MINUTES, async {
        let gate = with_a_global_limit().await;
        let agent = Arc::new(gate.agent("pro").await);
        let calls: Vec<_> = (0..200)
            .map(|_| {
                let agent = agent.clone();
                tokio::spawn(async move { agent.call(&mcp::search()).await })
            })
            .collect();
        for call in calls {
            call.await.expect("no call panics").assert_allowed();
        }
    });
}

#[test]
fn without_the_ledger_a_lease_and_a_share_last_until_they_expire() {
    run_within(MINUTES, async {
        let mut gate = with_a_global_limit().await;
        let agent = gate.agent("pro").await;
        // The change feed reports the creation of the key, so the workers look it up again.
        gate.cache_key(&agent).await;
        let passed = until_leased(&gate, &agent).await;
        eventually("there is a lease with something left", async || {
            let open = leases(&gate, &agent).await;
            let left =
                open.iter().any(|lease| lease.state == LeaseState::Open && lease.granted > lease.spent);
            if left { Ok(()) } else { Err(format!("{open:?}")) }
        })
        .await;
        gate.kill_ledger();
        agent.call(&summarize()).await.assert_allowed();
        gate.restart_ledger().await;
        let balance = gate.settled(&agent).await;
        assert_eq!((balance.available.get(), balance.posted.get()), (999 - passed, passed + 1));
    });
}
