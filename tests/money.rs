//! Charges: the price, charged once for calls that were not seen to fail, and never more than the tenant has.

use client::{UsageGroup, UsageQuery};
use harness::agent::NewKey;
use harness::clock::eventually;
use harness::gate::at_once;
use harness::http2::Http2;
use harness::{Agent, Gate, Response, mcp, run};
use protocol::admin::Balance;
use protocol::audit::Outcome;
use serde_json::{Value, json};
use std::time::Duration;

fn assert_holds(balance: Balance, available: u64, posted: u64) {
    assert_eq!((balance.available.get(), balance.posted.get()), (available, posted), "{balance:?}");
}

#[test]
fn each_quality_has_its_price() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("pro").await;
        let mut spent = 0;
        for (quality, price) in [("standard", 5), ("premium", 15), ("ultra", 25), ("ultra_plus", 40)] {
            let response = agent.call(&mcp::image(quality)).await;
            response.assert_allowed();
            gate.upstream.the_one(&response.marker);
            spent += price;
            assert_holds(gate.settled(&agent).await, 1000 - spent, spent);
        }
        let default = agent.call(&mcp::call("image_generate", json!({"prompt": "no quality given"}))).await;
        default.assert_allowed();
        assert_holds(gate.settled(&agent).await, 1000 - spent - 5, spent + 5);
        let charged = gate.decisions(&agent, Outcome::Allowed, 5).await;
        let mut credits: Vec<u64> =
            charged.iter().map(|decision| decision["credits"].as_u64().unwrap()).collect();
        credits.sort_unstable();
        assert_eq!(credits, [5, 5, 15, 25, 40]);
        gate.assert_healthy().await;
    });
}

#[test]
fn a_quality_without_a_price_is_refused_and_names_the_priced_ones() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("pro").await;
        for quality in
            [json!("Ultra"), json!("ultra "), json!(""), json!(5), json!(null), json!(["standard"])]
        {
            let call = mcp::call("image_generate", json!({"prompt": "a", "quality": quality}));
            let refused = agent.call(&call).await;
            assert!(matches!(refused.status, 400 | 403), "{quality}: {refused:?}");
            gate.assert_unseen(&refused.marker);
        }
        let refused = agent.call(&mcp::image("golden")).await;
        refused.assert_refused(400, "invalid_request");
        assert!(refused.text().contains("premium, standard, ultra, ultra_plus"), "{}", refused.text());
        assert_holds(gate.settled(&agent).await, 1000, 0);
    });
}

#[test]
fn a_tier_too_low_is_denied_before_the_quota_and_costs_nothing() {
    run(async {
        let gate = Gate::shared().await;
        for tier in ["free", "hobby"] {
            for credits in [1000, 0] {
                let agent = gate.agent_with(tier, credits, NewKey::default()).await;
                let refused = agent.call(&mcp::image("ultra_plus")).await;
                refused.assert_refused(403, "tier_denied");
                assert_eq!(refused.code(), Some(40302));
                assert!(refused.text().contains("pro"), "{}", refused.text());
                gate.assert_unseen(&refused.marker);
                assert_holds(gate.settled(&agent).await, credits, 0);
            }
        }
        let enterprise = gate.agent("enterprise").await;
        enterprise.call(&mcp::image("ultra_plus")).await.assert_allowed();
        assert_holds(gate.settled(&enterprise).await, 960, 40);
    });
}

/// Calls once with this behaviour of the upstream; the call must be refunded completely.
async fn assert_refunded(gate: &Gate, behaviour: &str, status: u16) {
    let agent = gate.agent("pro").await;
    let response = agent.send(mcp::post(&mcp::image("ultra")).upstream(behaviour)).await;
    assert_eq!(response.status, status, "{behaviour}: {response:?}");
    gate.upstream.the_one(&response.marker);
    let decision = gate.decisions(&agent, Outcome::UpstreamError, 1).await.remove(0);
    assert_eq!(decision["credits"], 0, "{behaviour}: {decision}");
    assert_eq!(decision["tool"], "image_generate", "{behaviour}: {decision}");
    assert_holds(gate.settled(&agent).await, 1000, 0);
}

#[test]
fn a_call_that_was_seen_to_fail_is_refunded() {
    run(async {
        let gate = Gate::shared().await;
        for (behaviour, status) in [
            ("is-error", 200),
            ("is-error chunked", 200),
            ("is-error sse", 200),
            ("rpc-error", 200),
            ("rpc-error sse", 200),
            ("status=500", 500),
            ("status=503", 503),
            ("status=404", 404),
            ("close", 503),
            ("close-after-headers", 200),
            ("close-mid-body", 200),
        ] {
            assert_refunded(gate, behaviour, status).await;
        }
        gate.assert_healthy().await;
    });
}

#[test]
fn an_answer_is_charged_however_it_is_framed() {
    run(async {
        let gate = Gate::shared().await;
        for behaviour in
            ["", "chunked", "trailers", "sse", "sse trailers", "bytes=60000", "gzip", "delay-ms=300"]
        {
            let agent = gate.agent("pro").await;
            let response = agent.send(mcp::post(&mcp::image("premium")).upstream(behaviour)).await;
            assert_eq!(response.status, 200, "{behaviour}: {response:?}");
            assert!(response.is_complete, "{behaviour}");
            gate.decisions(&agent, Outcome::Allowed, 1).await;
            assert_holds(gate.settled(&agent).await, 985, 15);
        }
    });
}

#[test]
fn a_call_that_asks_for_more_input_is_not_charged_yet() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("pro").await;
        let response = agent.send(mcp::post(&mcp::image("ultra")).upstream("input-required")).await;
        response.assert_allowed();
        assert_holds(gate.settled(&agent).await, 1000, 0);
    });
}

#[test]
fn a_client_that_disconnects_before_the_answer_pays_for_the_call() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("pro").await;
        // The upstream has the call, so it was reserved; its answer never comes.
        let request = agent.post(&mcp::image("ultra")).upstream("hang");
        let marker = request.marker().to_owned();
        let mut connection = harness::http1::Connection::open(gate.address).await;
        connection.write(&request.head()).await.unwrap();
        connection.write(mcp::image("ultra").to_string().as_bytes()).await.unwrap();
        eventually("the call is upstream", async || {
            if gate.upstream.seen(&marker).is_empty() { Err("not yet".to_owned()) } else { Ok(()) }
        })
        .await;
        assert_eq!(gate.balance(&agent).await.pending.get(), 25);
        drop(connection);
        let decision = gate.decisions(&agent, Outcome::Cancelled, 1).await.remove(0);
        assert_eq!(decision["credits"], 25, "{decision}");
        assert_holds(gate.settled(&agent).await, 975, 25);
        gate.assert_healthy().await;
    });
}

#[test]
fn a_client_that_disconnects_during_the_reservation_is_refunded() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("pro").await;
        // The key is cached: from now on only the reservation is awaited.
        agent.call(&mcp::search()).await.assert_allowed();
        let client = Http2::open(gate.address).await;
        let mut markers = Vec::new();
        for round in 0..60_u64 {
            let request = agent.post(&mcp::image("standard")).upstream("hang");
            markers.push(request.marker.clone());
            let microseconds = round * 100;
            client.reset_after(request, harness::wait(Duration::from_micros(microseconds))).await.unwrap();
        }
        // On a fast machine the last calls have gone upstream before their client disconnects, and are charged.
        let posted = eventually("what was reserved is settled", async || {
            let of_kind = async |kind: &str| rows(gate, &agent, kind).await.len();
            let (reserved, voided, posted) =
                (of_kind("reserved").await, of_kind("voided").await, of_kind("posted").await);
            let is_over = reserved > 0 && reserved == voided + posted;
            if is_over { Ok(posted) } else { Err(format!("{voided} and {posted} of {reserved}")) }
        })
        .await;
        assert!(posted < 60, "nobody left before the reservation was there");
        let seen = markers.iter().filter(|marker| !gate.upstream.seen(marker).is_empty()).count();
        assert!(seen <= posted, "{seen} went upstream and {posted} were paid");
        let posted = u64::try_from(posted).unwrap();
        assert_holds(gate.settled(&agent).await, 1000 - 5 * posted, 5 * posted);
        gate.assert_serving(&agent).await;
    });
}

/// The rows of this kind in a tenant's audit trail.
async fn rows(gate: &Gate, agent: &Agent, kind: &str) -> Vec<Value> {
    let rows = gate.audit(agent).await;
    rows.into_iter().filter(|row| row.kind == kind).map(|row| row.detail).collect()
}

#[test]
fn a_client_that_disconnects_within_the_answer_pays_for_it() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("pro").await;
        let mut connection = harness::http1::Connection::open(gate.address).await;
        let request = agent.post(&mcp::image("ultra")).upstream("sse-open");
        connection.write(&request.head()).await.unwrap();
        connection.write(mcp::image("ultra").to_string().as_bytes()).await.unwrap();
        connection.read_until(b"structuredContent").await.unwrap();
        drop(connection);
        gate.decisions(&agent, Outcome::Allowed, 1).await;
        assert_holds(gate.settled(&agent).await, 975, 25);
    });
}

#[test]
fn a_free_tool_makes_no_ledger_call() {
    run(async {
        let gate = Gate::options().start().await;
        let agent = gate.agent("enterprise").await;
        gate.cache_key(&agent).await;
        let resolved = gate.ledger_calls("/filter/v1/resolve").await;
        // One lookup of this key by each worker, and up to three of the key that `cache_key` creates and revokes.
        assert!((1..=8).contains(&resolved), "{resolved} lookups by two workers");
        for _ in 0..5 {
            let answers = at_once((0..40).map(|_| agent.owned_call(mcp::search()))).await;
            answers.iter().for_each(Response::assert_allowed);
        }
        assert_eq!(gate.ledger_calls("/filter/v1/resolve").await, resolved);
        assert_eq!(gate.ledger_calls("/filter/v1/reserve").await, 0);
        assert_holds(gate.settled(&agent).await, 1000, 0);
        // The decisions follow later, many in one report.
        let query = UsageQuery { group_by: vec![UsageGroup::Key, UsageGroup::Tool], ..UsageQuery::default() };
        eventually("all calls are in the usage", async || {
            let rows = gate.admin.usage(&query, None).await.map_err(|error| error.to_string())?.items;
            let row = rows.iter().find(|row| row.key_id.as_ref() == Some(&agent.key)).cloned();
            row.filter(|row| (row.calls, row.allowed, row.credits.get()) == (220, 220, 0))
                .ok_or(format!("{rows:?}"))
        })
        .await;
        let reports = gate.ledger_calls("/filter/v1/report").await;
        assert!(reports < 130, "{reports} reports for 240 calls and more");
    });
}

#[test]
fn a_hundred_credits_are_twenty_calls_of_five_and_not_one_more() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("enterprise", 100, NewKey::default()).await;
        let answers = at_once((0..200).map(|_| agent.owned_call(mcp::image("standard")))).await;
        let passed = answers.iter().filter(|answer| answer.status == 200).count();
        assert_eq!(passed, 20);
        for refused in answers.iter().filter(|answer| answer.status != 200) {
            refused.assert_refused(402, "quota_exceeded");
            assert_eq!(refused.code(), Some(40201));
            gate.assert_unseen(&refused.marker);
        }
        assert_holds(gate.settled(&agent).await, 0, 100);
        agent.call(&mcp::image("standard")).await.assert_refused(402, "quota_exceeded");
        gate.assert_serving(&agent).await;
    });
}

#[test]
fn refunded_credits_can_be_spent_again() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("pro", 5, NewKey::default()).await;
        for _ in 0..3 {
            let failed = agent.send(mcp::post(&mcp::image("standard")).upstream("is-error")).await;
            assert_eq!(failed.status, 200, "{failed:?}");
            assert_holds(gate.settled(&agent).await, 5, 0);
        }
        agent.call(&mcp::image("standard")).await.assert_allowed();
        assert_holds(gate.settled(&agent).await, 0, 5);
    });
}

#[test]
fn all_keys_of_a_tenant_spend_the_same_credits() {
    run(async {
        let gate = Gate::shared().await;
        let first = gate.agent_with("enterprise", 50, NewKey::default()).await;
        let second = gate.key(&first.tenant, NewKey::default()).await;
        let other = gate.agent_with("enterprise", 50, NewKey::default()).await;
        let callers: Vec<Agent> =
            (0..30).map(|n| if n % 2 == 0 { first.clone() } else { second.clone() }).collect();
        let answers = at_once(callers.iter().map(|agent| agent.owned_call(mcp::image("standard")))).await;
        assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 10);
        assert_holds(gate.settled(&first).await, 0, 50);
        assert_holds(gate.settled(&other).await, 50, 0);
    });
}

#[test]
fn a_leased_tool_is_charged_its_price() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent_with("pro", 3, NewKey::default()).await;
        let summarize = || mcp::call("summarize", json!({"text": "long"}));
        for _ in 0..3 {
            agent.call(&summarize()).await.assert_allowed();
        }
        agent.call(&summarize()).await.assert_refused(402, "quota_exceeded");
        assert_holds(gate.settled(&agent).await, 0, 3);
    });
}
