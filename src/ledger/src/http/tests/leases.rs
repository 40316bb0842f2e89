//! Leased credits and shares of permits, over a real socket.

use super::decision;
use crate::fixture::{Bench, apart, code, expect, new_uuid, pace, report_body, uuid_of};
use crate::store::laws;
use crate::store::sql::{Connection, Purpose};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const LEASES: &str = "/filter/v1/leases";
/// A call waits at most 1.2 s, in which a stalled machine returns nothing: then the test repeats it.
const ROUNDS_MAX: u64 = 5;

fn round(instance: &str, parts: &Value) -> Value {
    let mut round = json!({"instance": uuid_of(instance), "envoy": "e1"});
    round.as_object_mut().unwrap().extend(parts.as_object().unwrap().clone());
    round
}

fn ask(lease_id: &str, tenant_id: &str, credits: u64, price: u64) -> Value {
    json!({"lease_id": uuid_of(lease_id), "tenant_id": tenant_id, "credits": credits, "price": price})
}

fn account(lease_id: &str, revision: u64, spent: u64, closed: bool) -> Value {
    json!({"lease_id": uuid_of(lease_id), "revision": revision, "spent": spent, "closed": closed})
}

impl Bench {
    async fn round(&self, instance: &str, parts: &Value) -> Value {
        self.post(LEASES, round(instance, parts), StatusCode::OK).await
    }

    async fn metrics(&self) -> String {
        let url = format!("http://{}/metrics", self.running.address);
        self.client.get(url).send().await.unwrap().text().await.unwrap()
    }

    /// The number of recalls.
    async fn recalls(&self) -> u64 {
        let metrics = self.metrics().await;
        let mut lines = metrics.lines();
        let count = lines.find_map(|line| line.strip_prefix("agentrelay_ledger_lease_recalls_total "));
        count.expect("it is counted").parse().unwrap()
    }

    /// The answer to a call that waits for nothing and recalls nothing. The fastest of five decides, because any one
    /// may be slow on a shared machine.
    async fn refused_at_once(&self, key: &str, credits: u64) -> Value {
        let recalls = self.recalls().await;
        let (mut quickest, mut told) = (Duration::MAX, Value::Null);
        for _ in 0..5 {
            let began = Instant::now();
            let answer = self.reserve(&new_uuid(), key, credits).await;
            told = expect(answer, StatusCode::PAYMENT_REQUIRED).await;
            quickest = quickest.min(began.elapsed());
        }
        assert!(quickest < Duration::from_secs(1), "a call waited for nothing");
        assert_eq!(self.recalls().await, recalls);
        told
    }

    async fn ask(&self, instance: &str, lease_id: &str, tenant_id: &str, credits: u64) -> u64 {
        let answer = self.round(instance, &json!({"asks": [ask(lease_id, tenant_id, credits, 1)]})).await;
        assert_eq!(answer["leases"][0]["lease_id"], uuid_of(lease_id));
        answer["leases"][0]["credits"].as_u64().unwrap()
    }

    async fn account(
        &self,
        instance: &str,
        lease_id: &str,
        revision: u64,
        spent: u64,
        closed: bool,
    ) -> Value {
        let accounts = [account(lease_id, revision, spent, closed)];
        self.round(instance, &json!({"accounts": accounts})).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_opened_spent_and_closed_and_repeated_steps_move_nothing() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(1000).await;
    assert_eq!(bench.ask("i1", "l1", &tenant, 100).await, 100);
    assert_eq!(bench.ask("i1", "l1", &tenant, 100).await, 100);
    assert_eq!(bench.balance(&tenant).await, [1000, 900, 100, 0]);
    for _ in 0..2 {
        let answer = bench.account("i1", "l1", 2, 40, false).await;
        assert_eq!((answer["lease_ttl_ms"].as_u64(), answer.get("ended")), (Some(30_000), None));
        assert_eq!(bench.balance(&tenant).await, [1000, 900, 60, 40]);
    }
    bench.account("i1", "l1", 1, 39, false).await;
    assert_eq!(bench.balance(&tenant).await, [1000, 900, 60, 40]);
    // Two calls failed.
    bench.account("i1", "l1", 3, 38, false).await;
    assert_eq!(bench.balance(&tenant).await, [1000, 900, 62, 38]);
    bench.account("i1", "l1", 4, 70, true).await;
    assert_eq!(bench.balance(&tenant).await, [1000, 930, 0, 70]);
    bench.account("i1", "l1", 5, 69, true).await;
    assert_eq!(bench.balance(&tenant).await, [1000, 931, 0, 69]);
    let late = bench.account("i1", "l1", 6, 70, false).await;
    assert_eq!(late["ended"], json!([uuid_of("l1")]));
    assert_eq!(bench.ask("i1", "l1", &tenant, 100).await, 0);
    assert_eq!(bench.balance(&tenant).await, [1000, 931, 0, 69]);
    let audit = bench.get(&format!("/v1/audit?tenant_id={tenant}&limit=2")).await;
    let kinds: Vec<_> = audit["items"].as_array().unwrap().iter().map(|row| row["kind"].clone()).collect();
    assert_eq!(kinds, ["lease_closed", "lease_opened"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_a_part_of_the_available_credits_or_is_refused() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(1000).await;
    // A quarter of 1000, of 750, of 563; then eight calls of 60 are too many.
    for (id, price, expected) in
        [("l1", 1, 250), ("l2", 1, 187), ("l3", 60, 0), ("l4", 17, 140), ("l5", 1, 105)]
    {
        let answer = bench.round("i1", &json!({"asks": [ask(id, &tenant, 5000, price)]})).await;
        assert_eq!(answer["leases"][0]["credits"], expected, "{id}");
    }
    assert_eq!(bench.ask("i1", "small", &tenant, 7).await, 0);
    assert_eq!(bench.ask("i1", "unknown", "ten_unknown", 10).await, 0);
    let reason = json!({"reason": "unpaid"});
    bench.post(&format!("/v1/tenants/{tenant}/suspend"), reason.clone(), StatusCode::OK).await;
    assert_eq!(bench.ask("i1", "suspended", &tenant, 10).await, 0);
    bench.post(&format!("/v1/tenants/{tenant}/resume"), reason, StatusCode::OK).await;
    for number in 0..4 {
        assert_eq!(bench.ask("i1", &format!("more{number}"), &tenant, 8).await, 8);
    }
    assert_eq!(bench.ask("i1", "ninth", &tenant, 8).await, 0);
    assert_eq!(bench.ask("i2", "elsewhere", &tenant, 8).await, 8);
    // In one round: returned credits are available for the asks.
    let parts = json!({"asks": [ask("after", &tenant, 8, 1)], "accounts": [account("l1", 1, 0, true)]});
    assert_eq!(bench.round("i1", &parts).await["leases"][0]["credits"], 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn inconsistent_statements_move_nothing_and_are_counted() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(1000).await;
    bench.ask("i1", "l1", &tenant, 100).await;
    for (instance, spent) in [("i1", 101), ("i2", 5)] {
        assert_eq!(bench.account(instance, "l1", 1, spent, false).await["ended"], json!([uuid_of("l1")]));
    }
    assert_eq!(bench.balance(&tenant).await, [1000, 900, 100, 0]);
    assert_eq!(bench.account("i1", "never", 1, 5, false).await["ended"], json!([uuid_of("never")]));
    // Its Envoy gave up the ask, which arrives all the same: there would be no statement about the lease.
    assert_eq!(bench.account("i1", "given-up", 1, 0, true).await.get("ended"), None);
    assert_eq!(bench.ask("i1", "given-up", &tenant, 100).await, 0);
    assert_eq!(bench.balance(&tenant).await, [1000, 900, 100, 0]);
    assert!(bench.metrics().await.contains("agentrelay_ledger_lease_accounts_refused_total 2"));

    let many: Vec<Value> = (0..1001).map(|number| account(&format!("l{number}"), 1, 0, true)).collect();
    let refused = bench.post(LEASES, round("i1", &json!({"accounts": many})), StatusCode::BAD_REQUEST).await;
    assert!(refused["detail"].as_str().unwrap().starts_with("accounts: "), "{refused}");
    let refused = bench.post(LEASES, json!({"instance": uuid_of("i1")}), StatusCode::BAD_REQUEST).await;
    assert_eq!(code(&refused), "invalid_request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_a_dead_envoy_is_charged_listed_and_corrected_by_a_late_statement() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(1000).await;
    bench.ask("i1", "l1", &tenant, 100).await;
    bench.account("i1", "l1", 1, 30, false).await;
    bench.ask("i2", "l2", &tenant, 50).await;
    let metrics = bench.metrics().await;
    assert!(metrics.contains("agentrelay_ledger_leases_open 2"), "{metrics}");
    assert!(metrics.contains("agentrelay_ledger_lease_credits_out 120"), "{metrics}");
    // As if its Envoy had sent nothing for a long time.
    let database = Bench::config(&bench.directory).database;
    let expire = format!("UPDATE leases SET expires_at = 1600000000000 WHERE id = '{}'", uuid_of("l1"));
    apart(|| Connection::open(&database, Purpose::Write).unwrap().execute(&expire, &[]).unwrap());
    let deadline = Instant::now() + Duration::from_secs(15);
    while bench.balance(&tenant).await != [1000, 850, 50, 100] {
        assert!(Instant::now() < deadline, "the lease was not lost");
        pace().await;
    }
    let lost = bench.get(&format!("/v1/leases?tenant_id={tenant}&state=lost")).await;
    let [lost] = lost["items"].as_array().unwrap().as_slice() else { panic!("{lost}") };
    assert_eq!([&lost["id"], &lost["envoy"], &lost["state"]], [&uuid_of("l1"), "e1", "lost"]);
    assert_eq!([&lost["granted"], &lost["spent"], &lost["lost"]], [100, 30, 70]);
    // Counted after the commit that marks the lease as lost.
    while !bench.metrics().await.contains("agentrelay_ledger_lease_credits_lost_total 70") {
        assert!(Instant::now() < deadline, "what was lost is not counted");
        pace().await;
    }

    assert_eq!(bench.account("i1", "l1", 2, 40, false).await["ended"], json!([uuid_of("l1")]));
    bench.account("i1", "l1", 3, 45, true).await;
    assert_eq!(bench.balance(&tenant).await, [1000, 905, 50, 45]);
    let audit = bench.get(&format!("/v1/audit?tenant_id={tenant}&limit=2")).await;
    let rows = audit["items"].as_array().unwrap();
    assert_eq!([&rows[0]["kind"], &rows[1]["kind"]], ["lease_set_right", "lease_lost"]);
    assert_eq!([&rows[1]["detail"]["spent"], &rows[1]["detail"]["lost"]], [30, 70]);
    assert_eq!(rows[1]["actor"], "ledger");

    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = bench.get(&format!("/v1/leases?limit=1{cursor}")).await;
        seen.extend(page["items"].as_array().unwrap().iter().map(|lease| lease["id"].clone()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, ["l1", "l2"].map(uuid_of));
    assert_eq!(bench.get("/v1/leases?state=open").await["items"][0]["id"], uuid_of("l2"));
    let laws = apart(|| laws::broken(&Connection::open(&database, Purpose::Read).unwrap()).unwrap());
    assert_eq!(laws, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_enough_credits_recalls_leases_and_waits_for_them() {
    let bench = Bench::start().await;
    let mut round = 0;
    let (tenant, key, answer, lent) = loop {
        round += 1;
        let tenant = bench.tenant(100).await;
        let (key, _) = bench.key(&tenant).await;
        let (lease, next) = (format!("l{round}"), format!("next{round}"));
        assert_eq!(bench.ask("i1", &lease, &tenant, 100).await, 25);
        expect(bench.reserve(&new_uuid(), &key, 75).await, StatusCode::CREATED).await;
        let after = bench.get("/filter/v1/changes").await["next"].as_u64().unwrap();
        let returns = async {
            let feed = bench.get(&format!("/filter/v1/changes?after={after}&wait_ms=20000")).await;
            assert_eq!(feed["changes"], json!([{"kind": "recall", "tenant_id": tenant}]));
            // While a call waits, no leases are granted: the Envoy would get what it has just returned.
            let parts =
                json!({"asks": [ask(&next, &tenant, 8, 1)], "accounts": [account(&lease, 1, 5, true)]});
            bench.round("i1", &parts).await["leases"][0]["credits"].clone()
        };
        let id = new_uuid();
        let (answer, lent) = tokio::join!(bench.reserve(&id, &key, 20), returns);
        if answer.status() == StatusCode::CREATED || round == ROUNDS_MAX {
            break (tenant, key, answer, lent);
        }
    };
    expect(answer, StatusCode::CREATED).await;
    assert_eq!(lent, 0);
    assert_eq!(bench.balance(&tenant).await, [100, 0, 95, 5]);
    assert_eq!(bench.recalls().await, round);

    // Really used up: nothing can be returned.
    let poor = bench.refused_at_once(&key, 1).await;
    assert_eq!(code(&poor), "quota_exceeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_that_ignores_a_recall_is_waited_for_once() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(100).await;
    let (key, _) = bench.key(&tenant).await;
    assert_eq!(bench.ask("i1", "l1", &tenant, 100).await, 25);
    expect(bench.reserve("r1", &key, 75).await, StatusCode::CREATED).await;
    // More than can be returned.
    bench.refused_at_once(&key, 26).await;
    let after = bench.get("/filter/v1/changes").await["next"].as_u64().unwrap();

    let began = Instant::now();
    let calls = [bench.reserve("r3", &key, 25), bench.reserve("r4", &key, 25)];
    let [one, other] = calls;
    let (one, other) = tokio::join!(one, other);
    assert_eq!([one.status(), other.status()], [StatusCode::PAYMENT_REQUIRED; 2]);
    assert!((Duration::from_secs(1)..Duration::from_secs(20)).contains(&began.elapsed()));
    // A call without it: the ledger knows that the lease will not be returned, and has recalled it once.
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let began = Instant::now();
        expect(bench.reserve("r5", &key, 25).await, StatusCode::PAYMENT_REQUIRED).await;
        if began.elapsed() < Duration::from_secs(1) {
            break;
        }
        assert!(Instant::now() < deadline, "calls wait for an Envoy that does not answer");
    }
    let feed = bench.get(&format!("/filter/v1/changes?after={after}")).await;
    assert_eq!(feed["changes"].as_array().unwrap().len(), 1);
    assert_eq!(bench.balance(&tenant).await, [100, 0, 100, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_budget_limits_and_recalls_leases_and_a_keys_budget_counts_leased_calls() {
    let bench = Bench::start().await;
    let mut round = 0;
    let (tenant, key, path, lease, answer) = loop {
        round += 1;
        let tenant = bench.tenant(1000).await;
        let (key, _) = bench.key(&tenant).await;
        let path = format!("/v1/tenants/{tenant}");
        let budget = json!({"budget": 100, "reason": "pilot"});
        let patch = bench.request(Method::PATCH, &path).json(&budget).send().await.unwrap();
        expect(patch, StatusCode::OK).await;
        let lease = format!("l{round}");
        assert_eq!(bench.ask("i1", &lease, &tenant, 500).await, 100);
        assert_eq!(bench.ask("i1", &format!("more{round}"), &tenant, 500).await, 0);
        assert_eq!(bench.get(&format!("{path}/budget")).await["spent"], 100);
        let returns = async {
            let deadline = Instant::now() + Duration::from_secs(15);
            while bench.recalls().await < round {
                assert!(Instant::now() < deadline, "nothing was called back");
                pace().await;
            }
            bench.account("i1", &lease, 1, 40, true).await;
        };
        let id = new_uuid();
        let (answer, ()) = tokio::join!(bench.reserve(&id, &key, 50), returns);
        if answer.status() == StatusCode::CREATED || round == ROUNDS_MAX {
            break (tenant, key, path, lease, answer);
        }
    };
    expect(answer, StatusCode::CREATED).await;
    assert_eq!(bench.get(&format!("{path}/budget")).await["spent"], 90);

    // The key's own sum: its reservation, and the leased calls of its decisions, once.
    let mut leased = decision("allowed", &key, &tenant, "search", 7);
    leased["lease_id"] = json!(uuid_of(&lease));
    let exact = decision("allowed", &key, &tenant, "search", 3);
    let batch = report_body("b1", [leased, exact]);
    for _ in 0..2 {
        bench.post("/filter/v1/report", batch.clone(), StatusCode::OK).await;
    }
    assert_eq!(bench.get(&format!("/v1/keys/{key}/budget")).await["spent"], 57);
    assert_eq!(bench.get(&format!("{path}/budget")).await["spent"], 90);
    let budget = json!({"budget": 60, "reason": "pilot"});
    let patch = bench.request(Method::PATCH, &format!("/v1/keys/{key}")).json(&budget).send().await.unwrap();
    expect(patch, StatusCode::OK).await;
    let poor = expect(bench.reserve("r2", &key, 4).await, StatusCode::PAYMENT_REQUIRED).await;
    assert!(poor["detail"].as_str().unwrap().contains("57 of its budget of 60"), "{poor}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_divided_into_shares_and_recalled_when_another_envoy_needs_more() {
    let bench = Bench::start().await;
    let share = async |instance: &str, revision: u64, keep: u64, wanted: u64| {
        let limit = json!({"permits": 100, "window_seconds": 60});
        let ask = json!({
            "owner": "key_1", "limit_id": 4_000_000_000_u32, "limit": limit, "revision": revision, "used": keep,
            "keep": keep, "wanted": wanted,
        });
        let answer = bench.round(instance, &json!({"shares": [ask]})).await;
        assert_eq!(answer["share_ttl_ms"], 120_000);
        let share = &answer["shares"][0];
        assert_eq!([&share["owner"], &share["revision"]], [&json!("key_1"), &json!(revision)]);
        (share["permits"].as_u64().unwrap(), share["elsewhere"].as_u64().unwrap())
    };
    assert_eq!(share("i1", 1, 0, 100).await, (50, 50));
    assert_eq!(share("i1", 2, 50, 100).await, (75, 25));
    assert_eq!(share("i1", 2, 50, 100).await, (75, 25));
    let after = bench.get("/filter/v1/changes").await["next"].as_u64().unwrap();
    // The first Envoy used 50 of its 75.
    assert_eq!(share("i2", 1, 0, 60).await, (12, 38));
    for (revision, keep, permits) in [(2, 12, 18), (3, 18, 24), (4, 24, 25)] {
        assert_eq!(share("i2", revision, keep, 60).await.0, permits);
    }
    assert_eq!(bench.get(&format!("/filter/v1/changes?after={after}")).await["changes"], json!([]));
    // It has used all that there is.
    assert_eq!(share("i2", 5, 25, 60).await, (25, 25));
    let feed = bench.get(&format!("/filter/v1/changes?after={after}")).await;
    assert_eq!(feed["changes"], json!([{"kind": "share", "owner": "key_1", "limit_id": 4_000_000_000_u32}]));
    assert_eq!(share("i1", 3, 10, 10).await, (10, 65));
    assert_eq!(share("i1", 1, 50, 100).await, (10, 65));
    assert_eq!(share("i2", 6, 25, 60).await, (57, 33));
    let bench = bench.restart().await;
    let limit = json!({"permits": 100, "window_seconds": 60});
    let ask = json!({
        "owner": "key_1", "limit_id": 4_000_000_000_u32, "limit": limit, "revision": 1, "used": 0, "keep": 0,
        "wanted": 100,
    });
    let third = bench.round("i3", &json!({"shares": [ask]})).await;
    assert_eq!(third["shares"][0]["permits"], 16);
}
