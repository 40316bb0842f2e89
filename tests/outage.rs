//! Ledger outages: priced calls are refused, free calls continue, and no acknowledged write is lost.

use harness::clock::{eventually, eventually_within};
use harness::gate::{GateOptions, at_once};
use harness::relay::{self, Fault};
use harness::{Agent, Gate, Response, mcp, policy, run, wait};
use protocol::audit::Outcome;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A gate whose reservations expire soon enough for a test.
async fn gate_with_short_reservations() -> Gate {
    with_short_reservations("4s").start().await
}

fn with_short_reservations(time_to_live: &'static str) -> GateOptions {
    Gate::options().policy(move |policy| {
        policy["settings"]["reservation_ttl"] = policy::yaml(time_to_live);
        policy::limit_tier(policy, "enterprise", 100_000, "60s");
    })
}

/// Callers that run until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    paid: Arc<AtomicU64>,
    running: Vec<tokio::task::JoinHandle<Vec<Response>>>,
}

impl Load {
    fn start(agents: &[Agent]) -> Load {
        let (stop, paid) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let running = agents.iter().map(|agent| {
            let (agent, stop, paid) = (agent.clone(), stop.clone(), paid.clone());
            tokio::spawn(async move {
                let mut answers = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let answer = agent.call(&mcp::image("standard")).await;
                    paid.fetch_add(u64::from(answer.status == 200), Ordering::Relaxed);
                    answers.push(answer);
                    // While the ledger is unavailable, refusals come at once; hundreds of thousands of them would prove
                    // no more.
                    wait(Duration::from_millis(5)).await;
                }
                answers
            })
        });
        let running = running.collect();
        Load { stop, paid, running }
    }

    /// Waits until so many more calls are charged.
    async fn wait_for_paid_calls(&self, more: u64) {
        let wanted = self.paid.load(Ordering::Relaxed) + more;
        eventually("calls are paid", async || match self.paid.load(Ordering::Relaxed) {
            paid if paid >= wanted => Ok(()),
            paid => Err(format!("{paid} of {wanted}")),
        })
        .await;
    }

    async fn stop(self) -> Vec<Response> {
        self.stop.store(true, Ordering::Relaxed);
        let mut answers = Vec::new();
        for caller in self.running {
            answers.extend(caller.await.unwrap());
        }
        answers
    }
}

#[test]
fn killing_the_ledger_under_load_loses_nothing_that_was_acknowledged() {
    run(async {
        let mut gate = gate_with_short_reservations().await;
        let agent = gate.agent_with("enterprise", 1_000_000, harness::NewKey::default()).await;
        gate.cache_key(&agent).await;
        let mut answers = Vec::new();
        for round in 0..2 {
            let load = Load::start(&vec![agent.clone(); 8]);
            load.wait_for_paid_calls(60).await;
            gate.kill_ledger();
            wait(Duration::from_millis(500)).await;

            // Priced calls are refused at once, with the true reason.
            let refused = agent.call(&mcp::image("standard")).await;
            refused.assert_refused(503, "ledger_unavailable");
            assert_eq!(refused.code(), Some(50301), "{refused:?}");
            gate.assert_unseen(&refused.marker);
            // Free calls of a cached key continue, on both workers.
            let free = at_once((0..20).map(|_| agent.owned_call(mcp::search()))).await;
            free.iter().for_each(Response::assert_allowed);
            // Longer than the reservations last in the second round, so their commits come late.
            wait(Duration::from_secs(if round == 0 { 1 } else { 6 })).await;
            gate.restart_ledger().await;
            load.wait_for_paid_calls(30).await;
            answers.extend(load.stop().await);
        }
        let paid = answers.iter().filter(|answer| answer.status == 200).count();
        let arrived = gate.upstream.markers();
        for refused in answers.iter().filter(|answer| answer.status != 200) {
            refused.assert_refused(503, "ledger_unavailable");
            assert!(!arrived.contains(&refused.marker), "reached the upstream: {refused:?}");
        }
        assert!(paid < answers.len(), "no call met the outage");

        let charged = u64::try_from(paid).unwrap() * 5;
        eventually_within(Duration::from_secs(30), "every acknowledged call is charged, once", async || {
            let balance = gate.balance(&agent).await;
            let is_right = balance.pending.is_zero() && balance.posted.get() == charged;
            if is_right { Ok(()) } else { Err(format!("{charged} expected, {balance:?}")) }
        })
        .await;
        assert_every_reservation_ended(&gate, &agent).await;
        gate.assert_serving(&agent).await;
    });
}

/// Checks in the audit trail that every reservation was posted, voided or expired, exactly once.
async fn assert_every_reservation_ended(gate: &Gate, agent: &Agent) {
    let rows = gate.audit(agent).await;
    let ids = |kinds: &[&str]| {
        let mut ids: Vec<String> = rows
            .iter()
            .filter(|row| kinds.contains(&row.kind.as_str()))
            .map(|row| row.detail["reservation_id"].as_str().unwrap_or_else(|| panic!("{row:?}")).to_owned())
            .collect();
        ids.sort();
        ids
    };
    let reserved = ids(&["reserved"]);
    assert!(!reserved.is_empty());
    assert_eq!(reserved, ids(&["posted", "voided", "unaccounted"]));
}

#[test]
fn a_ledger_that_hangs_is_an_outage_too() {
    run(async {
        let mut gate = with_short_reservations("4s").shipped_timeout().start().await;
        let agent = gate.agent("enterprise").await;
        gate.cache_key(&agent).await;
        gate.pause_ledger();
        let began = Instant::now();
        let refused = agent.call(&mcp::image("ultra")).await;
        refused.assert_refused(503, "ledger_unavailable");
        assert!(began.elapsed() < Duration::from_secs(12), "the client waited {:?}", began.elapsed());
        gate.assert_unseen(&refused.marker);
        agent.call(&mcp::search()).await.assert_allowed();
        gate.resume_ledger();
        // The reservation may exist; nobody was served for it, so it is refunded.
        eventually("the credits are back", async || {
            let balance = gate.balance(&agent).await;
            if balance.available.get() == 1000 { Ok(()) } else { Err(format!("{balance:?}")) }
        })
        .await;
        agent.call(&mcp::image("standard")).await.assert_allowed();
        assert_eq!(gate.settled(&agent).await.posted.get(), 5);
        assert_every_reservation_ended(&gate, &agent).await;
    });
}

#[test]
fn an_uncached_key_is_refused_while_the_ledger_is_unavailable() {
    run(async {
        let mut gate = gate_with_short_reservations().await;
        let known = gate.agent("pro").await;
        gate.cache_key(&known).await;
        let stranger = gate.agent("pro").await;
        gate.kill_ledger();
        let refused = stranger.call(&mcp::search()).await;
        refused.assert_refused(503, "ledger_unavailable");
        gate.assert_unseen(&refused.marker);
        let random =
            mcp::post(&mcp::search()).key(&harness::agent::unknown_secret()).send(gate.address).await;
        random.assert_refused(503, "ledger_unavailable");
        gate.assert_unseen(&random.marker);
        known.call(&mcp::search()).await.assert_allowed();
        // Limits hold without the ledger.
        let limited = at_once((0..310).map(|_| known.owned_call(mcp::search()))).await;
        assert!(limited.iter().filter(|answer| answer.status == 200).count() <= 279);
        gate.restart_ledger().await;
        eventually("the key is found", async || match stranger.call(&mcp::search()).await.status {
            200 => Ok(()),
            status => Err(format!("{status}")),
        })
        .await;
    });
}

#[test]
fn key_records_are_trusted_only_as_long_as_stated() {
    run(async {
        let mut gate = Gate::options()
            .policy(|policy| policy["settings"]["key_stale"] = policy::yaml("8s"))
            .start()
            .await;
        let agent = gate.agent("enterprise").await;
        gate.cache_key(&agent).await;
        // While the feed confirms the records, they stay trusted.
        wait(Duration::from_secs(9)).await;
        let resolved = gate.ledger_calls("/filter/v1/resolve").await;
        let answers = at_once((0..20).map(|_| agent.owned_call(mcp::search()))).await;
        answers.iter().for_each(Response::assert_allowed);
        assert!(gate.ledger_calls("/filter/v1/resolve").await <= resolved + 2);
        gate.kill_ledger();
        agent.call(&mcp::search()).await.assert_allowed();
        let bound = Duration::from_secs(25);
        let refused = eventually_within(bound, "the record is not trusted any more", async || {
            let answer = agent.call(&mcp::search()).await;
            if answer.status == 503 { Ok(answer) } else { Err(format!("{answer:?}")) }
        })
        .await;
        refused.assert_refused(503, "ledger_unavailable");
        gate.restart_ledger().await;
        eventually("the key is found again", async || match agent.call(&mcp::search()).await.status {
            200 => Ok(()),
            status => Err(format!("{status}")),
        })
        .await;
    });
}

#[test]
fn a_tool_passes_uncharged_during_an_outage_if_the_policy_says_so() {
    run(async {
        let mut gate = Gate::options()
            .policy(|policy| {
                policy["services"]["studio"]["tools"]["image_generate"]["price"]["on_ledger_outage"] =
                    policy::yaml("allow");
            })
            .start()
            .await;
        let agent = gate.agent("pro").await;
        gate.cache_key(&agent).await;
        gate.kill_ledger();
        let allowed = agent.call(&mcp::image("ultra")).await;
        allowed.assert_allowed();
        gate.upstream.the_one(&allowed.marker);
        gate.restart_ledger().await;
        let decisions = gate.decisions(&agent, Outcome::Allowed, 21).await;
        let image = decisions.iter().find(|decision| decision["tool"] == "image_generate").unwrap();
        assert_eq!(image["credits"], 0, "{image}");
        assert_eq!(gate.settled(&agent).await.available.get(), 1000);
    });
}

#[test]
fn a_long_answer_keeps_its_reservation_beyond_its_time_to_live() {
    run(async {
        // Renewed in time even if the machine stalls for some seconds.
        let gate = with_short_reservations("10s").start().await;
        let agent = gate.agent("pro").await;
        let request = mcp::post(&mcp::image("ultra")).upstream("delay-ms=25000");
        let began = Instant::now();
        let slow = tokio::spawn({
            let agent = agent.clone();
            async move { agent.send(request).await }
        });
        eventually("the credits are reserved", async || {
            let balance = gate.balance(&agent).await;
            if balance.pending.get() == 25 { Ok(()) } else { Err(format!("{balance:?}")) }
        })
        .await;
        while began.elapsed() < Duration::from_secs(20) {
            wait(Duration::from_millis(400)).await;
            let balance = gate.balance(&agent).await;
            assert_eq!(
                (balance.available.get(), balance.pending.get()),
                (975, 25),
                "after {:?}",
                began.elapsed()
            );
        }
        slow.await.unwrap().assert_allowed();
        let balance = gate.settled(&agent).await;
        assert_eq!((balance.available.get(), balance.posted.get()), (975, 25));
        let kinds: Vec<String> = gate.audit(&agent).await.into_iter().map(|row| row.kind).collect();
        assert!(!kinds.iter().any(|kind| kind == "unaccounted" || kind == "correction"), "{kinds:?}");
    });
}

#[test]
fn a_changed_policy_is_in_force_without_a_restart() {
    run(async {
        let gate = Gate::options().policy(|_| {}).start().await;
        let agent = gate.agent("pro").await;
        agent.call(&mcp::image("standard")).await.assert_allowed();
        let before = gate.decisions(&agent, Outcome::Allowed, 1).await.remove(0);

        let mut changed = policy::shipped();
        changed["services"]["studio"]["tools"]["image_generate"]["price"]["credits"] = policy::yaml("6");
        gate.change_policy(&changed);
        let mut calls = 1_u64;
        eventually("the new price holds", async || {
            let posted = gate.settled(&agent).await.posted.get();
            agent.call(&mcp::image("standard")).await.assert_allowed();
            calls += 1;
            match gate.settled(&agent).await.posted.get() - posted {
                6 => Ok(()),
                price => Err(format!("{price}")),
            }
        })
        .await;
        let decisions = gate.decisions(&agent, Outcome::Allowed, usize::try_from(calls).unwrap()).await;
        // Each was decided by one version, and its audit row names the version.
        let version = |price: u64| -> Vec<&Value> {
            let mut versions: Vec<&Value> = decisions
                .iter()
                .filter(|decision| decision["credits"] == price)
                .map(|decision| &decision["policy_version"])
                .collect();
            versions.dedup();
            versions
        };
        assert_eq!(version(5), [&before["policy_version"]]);
        assert_eq!(version(6).len(), 1);
        assert_ne!(version(5), version(6));

        // An invalid file changes nothing.
        let mut faulty = changed.clone();
        faulty["tiers"]["pro"]["limits"] = policy::yaml("[{permits: 0, window: 60s}]");
        gate.change_policy(&faulty);
        eventually("the ledger says what is wrong with it", async || {
            if gate.ledger_log().contains("tiers.pro.limits[0]") {
                Ok(())
            } else {
                Err("no word of it".to_owned())
            }
        })
        .await;
        agent.call(&mcp::image("standard")).await.assert_allowed();
        gate.assert_serving(&agent).await;
    });
}

const RESERVE: &str = "/filter/v1/reserve";
const RESOLVE: &str = "/filter/v1/resolve";
const REPORT: &str = "/filter/v1/report";

#[test]
fn unexpected_answers_to_a_reservation_count_as_an_outage() {
    run(async {
        let gate = Gate::options().relay().start().await;
        let agent = gate.agent("enterprise").await;
        gate.cache_key(&agent).await;
        for (what, fault) in relay::STRANGE {
            gate.relay().fail(RESERVE, fault);
            let answers = at_once((0..4).map(|_| agent.owned_call(mcp::image("standard")))).await;
            for refused in answers {
                assert_eq!(refused.status, 503, "{what}: {refused:?}");
                refused.assert_refused(503, "ledger_unavailable");
                gate.assert_unseen(&refused.marker);
            }
            gate.relay().restore();
            gate.assert_serving(&agent).await;
        }
        agent.call(&mcp::image("standard")).await.assert_allowed();
        assert_eq!(gate.settled(&agent).await.available.get(), 995);
    });
}

#[test]
fn a_reservation_whose_answer_is_lost_is_refunded() {
    run(async {
        let gate = Gate::options().relay().start().await;
        let agent = gate.agent("enterprise").await;
        gate.cache_key(&agent).await;
        gate.relay().fail(RESERVE, Fault::LoseAnswer);
        let answers = at_once((0..10).map(|_| agent.owned_call(mcp::image("ultra")))).await;
        for refused in answers {
            refused.assert_refused(503, "ledger_unavailable");
            gate.assert_unseen(&refused.marker);
        }
        gate.relay().restore();
        // Long before the reservations would expire.
        eventually("the credits are back", async || {
            let balance = gate.balance(&agent).await;
            if balance.available.get() == 1000 { Ok(()) } else { Err(format!("{balance:?}")) }
        })
        .await;
        let kinds: Vec<String> = gate.audit(&agent).await.into_iter().map(|row| row.kind).collect();
        assert_eq!(kinds.iter().filter(|kind| *kind == "reserved").count(), 10, "the ledger had made them");
        assert_every_reservation_ended(&gate, &agent).await;
    });
}

#[test]
fn unexpected_answers_about_a_key_admit_nobody() {
    run(async {
        let gate = Gate::options().relay().start().await;
        let known = gate.agent("enterprise").await;
        gate.cache_key(&known).await;
        for (what, fault) in relay::STRANGE {
            let stranger = gate.agent("pro").await;
            gate.relay().fail(RESOLVE, fault);
            let refused = stranger.call(&mcp::search()).await;
            assert_eq!(refused.status, 503, "{what}: {refused:?}");
            refused.assert_refused(503, "ledger_unavailable");
            gate.assert_unseen(&refused.marker);
            gate.relay().restore();
            gate.assert_serving(&known).await;
            eventually("the key is found", async || match stranger.call(&mcp::search()).await.status {
                200 => Ok(()),
                status => Err(format!("after {what}: {status}")),
            })
            .await;
        }
    });
}

#[test]
fn a_report_without_an_answer_is_sent_again_and_counted_once() {
    run(async {
        let gate = Gate::options().relay().start().await;
        let agent = gate.agent("enterprise").await;
        gate.cache_key(&agent).await;
        let mut calls = 0;
        for fault in [Fault::Close, Fault::LoseAnswer, relay::STRANGE[2].1, relay::STRANGE[5].1] {
            gate.relay().fail(REPORT, fault);
            for _ in 0..5 {
                agent.call(&mcp::image("standard")).await.assert_allowed();
                calls += 1;
            }
            // Some deliveries are attempted and fail.
            wait(Duration::from_millis(700)).await;
            gate.relay().restore();
            assert_eq!(gate.settled(&agent).await.posted.get(), calls * 5, "{fault:?}");
        }
        gate.decisions(&agent, Outcome::Allowed, usize::try_from(calls).unwrap() + 20).await;
        assert_every_reservation_ended(&gate, &agent).await;
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn a_lost_change_feed_is_resumed() {
    run(async {
        let gate = Gate::options().relay().start().await;
        let agent = gate.agent("enterprise").await;
        gate.cache_key(&agent).await;
        for (what, fault) in relay::STRANGE {
            gate.relay().fail("/filter/v1/changes", fault);
            gate.relay().fail("/filter/v1/policy", fault);
            // A change ends the open poll, and the next poll fails.
            let passing = gate.agent("pro").await;
            wait(Duration::from_millis(300)).await;
            agent.call(&mcp::search()).await.assert_allowed();
            gate.relay().restore();
            gate.assert_serving(&passing).await;
            assert!(!what.is_empty());
        }
        let revocation = protocol::admin::Reason { reason: "test".into() };
        gate.admin.revoke_key(&agent.key, &revocation).await.unwrap();
        eventually("the change is heard", async || match agent.call(&mcp::search()).await.status {
            401 => Ok(()),
            status => Err(format!("{status}")),
        })
        .await;
        gate.assert_healthy().await;
    });
}
