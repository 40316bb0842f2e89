//! Calls without a settlement before their reservation expires: charged, listed, refunded or corrected.

use harness::agent::NewKey;
use harness::clock::eventually;
use harness::gate::at_once;
use harness::relay::Fault;
use harness::{Agent, Gate, mcp, policy, run, stats, wait};
use protocol::Credits;
use protocol::admin::{CorrectCredits, Direction, Reservation, ReservationState};
use std::time::Duration;

const REPORT: &str = "/filter/v1/report";

async fn gate() -> Gate {
    let short = |policy: &mut serde_yaml_ng::Value| {
        policy["settings"]["reservation_ttl"] = policy::yaml("3s");
        policy::limit_tier(policy, "enterprise", 100_000, "60s");
    };
    Gate::options().policy(short).relay().start().await
}

async fn listed(gate: &Gate, agent: &Agent, state: ReservationState) -> Vec<Reservation> {
    let page = gate.admin.reservations(Some(&agent.tenant), Some(state), None).await;
    page.expect("a page of reservations").items
}

async fn kinds(gate: &Gate, agent: &Agent, kind: &str) -> usize {
    gate.audit(agent).await.iter().filter(|row| row.kind == kind).count()
}

/// Waits until so much is charged and nothing is reserved.
async fn charged(gate: &Gate, agent: &Agent, credits: u64) {
    eventually("the credits are charged", async || {
        let balance = gate.balance(agent).await;
        let is_so = balance.pending.is_zero() && balance.posted.get() == credits;
        if is_so { Ok(()) } else { Err(format!("{credits} expected, {balance:?}")) }
    })
    .await;
}

#[test]
fn exact_calls_of_a_killed_envoy_are_charged_and_listed_until_refunded() {
    run(async {
        let mut gate = gate().await;
        let sibling = gate.another_envoy().await;
        let agent = gate.agent_with("enterprise", 1000, NewKey::default()).await;
        let prices = [("standard", 5), ("premium", 15), ("ultra", 25), ("standard", 5)];
        let calls = prices.map(|(quality, _)| {
            let request = agent.post(&mcp::image(quality)).upstream("delay-ms=120000");
            tokio::spawn(request.try_send(sibling))
        });
        eventually("the credits are reserved", async || {
            let balance = gate.balance(&agent).await;
            if balance.pending.get() == 50 { Ok(()) } else { Err(format!("{balance:?}")) }
        })
        .await;
        let victim = gate.siblings[0].pid().to_string();
        let killed = std::process::Command::new("kill").args(["-s", "KILL", &victim]).status();
        assert!(killed.expect("kill can be run").success());
        for call in calls {
            assert!(call.await.expect("no caller panics").is_err(), "who would have answered?");
        }

        charged(&gate, &agent, 50).await;
        let unaccounted = listed(&gate, &agent, ReservationState::Unaccounted).await;
        let mut found: Vec<u64> = unaccounted.iter().map(|one| one.charged.get()).collect();
        found.sort_unstable();
        assert_eq!(found, [5, 5, 15, 25]);
        assert!(unaccounted.iter().all(|one| one.key_id == agent.key && one.tool == "image_generate"));
        assert_eq!(kinds(&gate, &agent, "unaccounted").await, 4);
        let metrics = stats::ledger(gate.ledger_address).await;
        assert!(metrics.contains("agentrelay_ledger_reservation_credits_unaccounted_total 50"), "{metrics}");

        for one in unaccounted {
            let correction = CorrectCredits {
                direction: Direction::Refund,
                amount: one.charged,
                reason: "its Envoy was killed".to_owned(),
                reservation_id: Some(one.id),
                key_id: None,
            };
            gate.admin.correct_credits(&agent.tenant, &correction).await.expect("it is given back");
            let again = gate.admin.correct_credits(&agent.tenant, &correction).await;
            assert!(again.is_err(), "it was given back twice");
        }
        assert_eq!(gate.balance(&agent).await.available.get(), 1000);
        assert_eq!(listed(&gate, &agent, ReservationState::Unaccounted).await, []);
        agent.call(&mcp::image("standard")).await.assert_allowed();
        charged(&gate, &agent, 5).await;
    });
}

#[test]
fn a_late_settlement_corrects_the_charge_once() {
    run(async {
        let gate = gate().await;
        let agent = gate.agent_with("enterprise", 1000, NewKey::default()).await;
        gate.cache_key(&agent).await;
        // Calls end, some proven to have failed, and the ledger gets no settlements.
        gate.relay().fail(REPORT, Fault::Close);
        let calls = (0..12).map(|number| {
            let quality = if number % 2 == 0 { "standard" } else { "ultra" };
            let request = agent.post(&mcp::image(quality));
            let request = if number % 3 == 0 { request.upstream("status=500") } else { request };
            let gate = agent.gate;
            async move { request.send(gate).await.status }
        });
        let statuses = at_once(calls).await;
        assert_eq!(statuses.iter().filter(|status| **status == 500).count(), 4, "{statuses:?}");
        charged(&gate, &agent, 6 * 5 + 6 * 25).await;
        let unaccounted = listed(&gate, &agent, ReservationState::Unaccounted).await;
        assert_eq!(unaccounted.len(), 12);
        assert!(unaccounted.iter().all(|one| one.charged == one.reserved && !one.charged.is_zero()));

        // Then it gets them, some more than once: at first the answers are lost.
        gate.relay().fail(REPORT, Fault::LoseAnswer);
        eventually("some of it is told", async || match kinds(&gate, &agent, "correction").await {
            0 => Err("nothing yet".to_owned()),
            _ => Ok(()),
        })
        .await;
        wait(Duration::from_millis(700)).await;
        gate.relay().restore();
        let served = 4 * 5 + 4 * 25;
        charged(&gate, &agent, served).await;
        agent.call(&mcp::image("standard")).await.assert_allowed();
        charged(&gate, &agent, served + 5).await;
        eventually("all is accounted for", async || {
            match listed(&gate, &agent, ReservationState::Unaccounted).await.as_slice() {
                [] => Ok(()),
                rest => Err(format!("{rest:?}")),
            }
        })
        .await;
        let corrected = listed(&gate, &agent, ReservationState::Corrected).await;
        let given_back = corrected.iter().filter(|one| one.charged == Credits::ZERO).count();
        // If the machine stalls, the last call's reservation may expire too before its settlement arrives.
        let count = corrected.len();
        assert!(matches!(count, 12 | 13) && given_back == 4, "{corrected:?}");
        assert_eq!(kinds(&gate, &agent, "unaccounted").await, count);
        assert_eq!(kinds(&gate, &agent, "correction").await, count);
        assert_eq!(gate.balance(&agent).await.available.get(), 1000 - served - 5);
        gate.assert_serving(&agent).await;
    });
}
