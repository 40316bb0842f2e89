//! The requests to a new ledger, in this order: each operation once with success and once with a refusal.

use super::recorder::{Ask, Recorder};
use crate::fixture::{Bench, POLICY, pace, report_body};
use crate::http::api::document::Examples;
use crate::http::tests::decision;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const INSTANCE: &str = "01900000-0000-7000-8000-0000000000a1";
const LEASE: &str = "01900000-0000-7000-8000-0000000000a2";
const FORGOTTEN: &str = "01900000-0000-7000-8000-0000000000a3";
const REPORTED: &str = "01900000-0000-7000-8000-0000000000a4";
const BATCH: &str = "01900000-0000-7000-8000-0000000000a5";

/// Requests for every operation. The ledger must be new, so that counts and positions are the same each time.
pub(super) async fn examples(bench: &Bench) -> Examples {
    let mut recorder = Recorder::new(bench);
    audit_of_a_new_ledger(&mut recorder).await;
    let tenant = tenants(&mut recorder).await;
    let agent = agents(&mut recorder, &tenant).await;
    let key = keys(&mut recorder, &tenant, &agent).await;
    admin_keys(&mut recorder, &tenant).await;
    filter_keys(&mut recorder).await;
    calls(&mut recorder, &tenant, &key, &agent).await;
    policy(&mut recorder).await;
    recorder.examples()
}

fn id(answer: &Value) -> String {
    answer["id"].as_str().unwrap().to_owned()
}

fn anonymous() -> Ask<'static> {
    Ask { secret: Some(""), ..Ask::default() }
}

fn of(id: &str) -> Ask<'_> {
    Ask { id, ..Ask::default() }
}

fn query(query: &str) -> Ask<'_> {
    Ask { query, ..Ask::default() }
}

fn body(body: Value) -> Ask<'static> {
    Ask { body, ..Ask::default() }
}

fn body_for(id: &str, body: Value) -> Ask<'_> {
    Ask { id, body, ..Ask::default() }
}

fn reason(reason: &str) -> Value {
    json!({"reason": reason})
}

async fn audit_of_a_new_ledger(recorder: &mut Recorder<'_>) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while {
        let status = recorder.bench.get("/v1/audit/status").await;
        status["sealed"] != status["newest"]
    } {
        assert!(Instant::now() < deadline, "the trail was not sealed");
        pace().await;
    }
    recorder.answer("GET /v1/audit/status", Ask::default()).await;
    recorder.problem("GET /v1/audit/status", anonymous(), 401).await;
    recorder.answer("GET /v1/audit/export", Ask::default()).await;
    recorder.problem("GET /v1/audit/export", query("?day=yesterday"), 400).await;
    recorder.answer("GET /v1/audit/key", Ask::default()).await;
    recorder.problem("GET /v1/audit/key", anonymous(), 401).await;
}

async fn tenants(recorder: &mut Recorder<'_>) -> String {
    let create = json!({"name": "Acme", "tier": "pro", "credits": 1000, "budget": 800});
    let tenant = id(&recorder.answer("POST /v1/tenants", body(create)).await);
    recorder.problem("POST /v1/tenants", body(json!({"name": "Acme", "tier": "gold"})), 400).await;
    recorder.answer("GET /v1/tenants", Ask::default()).await;
    recorder.problem("GET /v1/tenants", query("?limit=0"), 400).await;
    recorder.answer("GET /v1/tenants/{id}", of(&tenant)).await;
    recorder.problem("GET /v1/tenants/{id}", of("ten_none"), 404).await;
    let update = json!({"name": "Acme Ltd", "tier": "pro", "budget": 900, "reason": "a larger contract"});
    recorder.answer("PATCH /v1/tenants/{id}", body_for(&tenant, update.clone())).await;
    let stale = Ask { header: Some(("if-match", "\"1\"")), ..body_for(&tenant, update) };
    recorder.problem("PATCH /v1/tenants/{id}", stale, 412).await;
    recorder.answer("POST /v1/tenants/{id}/suspend", body_for(&tenant, reason("unpaid invoice"))).await;
    recorder
        .problem("POST /v1/tenants/{id}/suspend", body_for("ten_none", reason("unpaid invoice")), 404)
        .await;
    recorder.answer("POST /v1/tenants/{id}/resume", body_for(&tenant, reason("invoice paid"))).await;
    recorder.problem("POST /v1/tenants/{id}/resume", body_for(&tenant, reason("")), 400).await;
    let grant = |amount: u64| body_for(&tenant, json!({"amount": amount, "reason": "top-up for December"}));
    recorder.answer("POST /v1/tenants/{id}/credits", grant(500)).await;
    recorder.problem("POST /v1/tenants/{id}/credits", grant(0), 400).await;
    let withdraw = |amount: u64| {
        let correct = json!({"direction": "withdraw", "amount": amount, "reason": "granted twice"});
        body_for(&tenant, correct)
    };
    recorder.answer("POST /v1/tenants/{id}/corrections", withdraw(500)).await;
    recorder.problem("POST /v1/tenants/{id}/corrections", withdraw(5000), 409).await;
    recorder.answer("GET /v1/tenants/{id}/balance", of(&tenant)).await;
    recorder.problem("GET /v1/tenants/{id}/balance", of("ten_none"), 404).await;
    recorder.answer("GET /v1/tenants/{id}/budget", of(&tenant)).await;
    recorder.problem("GET /v1/tenants/{id}/budget", of("ten_none"), 404).await;
    tenant
}

async fn agents(recorder: &mut Recorder<'_>, tenant: &str) -> String {
    let create = |tenant: &str| body(json!({"tenant_id": tenant, "name": "release bot"}));
    let agent = id(&recorder.answer("POST /v1/agents", create(tenant)).await);
    recorder.problem("POST /v1/agents", create("ten_none"), 400).await;
    recorder.answer("GET /v1/agents", Ask::default()).await;
    recorder.problem("GET /v1/agents", query("?limit=0"), 400).await;
    recorder.answer("GET /v1/agents/{id}", of(&agent)).await;
    recorder.problem("GET /v1/agents/{id}", of("agt_none"), 404).await;
    agent
}

async fn keys(recorder: &mut Recorder<'_>, tenant: &str, agent: &str) -> String {
    let create = |tenant: &str| {
        body(json!({
            "tenant_id": tenant, "agent_id": agent, "name": "ci", "scopes": ["read", "generate"],
            "services": ["studio"], "tools": ["search", {"name": "image_generate"}],
            "limits": [{"permits": 60, "window_seconds": 60}], "concurrency": {"requests": 8, "streams": 2},
            "expires_at": "2099-01-01T00:00:00.000Z", "budget": 200,
        }))
    };
    let key = id(&recorder.answer("POST /v1/keys", create(tenant)).await);
    recorder.problem("POST /v1/keys", create("ten_none"), 400).await;
    recorder.answer("GET /v1/keys", query("?state=active")).await;
    recorder.problem("GET /v1/keys", query("?state=unused"), 400).await;
    recorder.answer("GET /v1/keys/{id}", of(&key)).await;
    recorder.problem("GET /v1/keys/{id}", of("key_none"), 404).await;
    let update = json!({"scopes": ["read"], "tools": null, "budget": 300, "reason": "no longer generates"});
    recorder.answer("PATCH /v1/keys/{id}", body_for(&key, update.clone())).await;
    let stale = Ask { header: Some(("if-match", "\"1\"")), ..body_for(&key, update) };
    recorder.problem("PATCH /v1/keys/{id}", stale, 412).await;
    recorder.answer("GET /v1/keys/{id}/budget", of(&key)).await;
    recorder.problem("GET /v1/keys/{id}/budget", of("key_none"), 404).await;
    let rotate =
        |seconds: u32| body_for(&key, json!({"grace_seconds": seconds, "reason": "yearly rotation"}));
    recorder.answer("POST /v1/keys/{id}/rotate", rotate(3600)).await;
    recorder.problem("POST /v1/keys/{id}/rotate", rotate(2_592_001), 400).await;
    let (other, _) = recorder.bench.key(tenant).await;
    recorder.answer("POST /v1/keys/{id}/expire", body_for(&other, reason("trial is over"))).await;
    recorder.answer("POST /v1/keys/{id}/revoke", body_for(&other, reason("found in a public log"))).await;
    recorder.problem("POST /v1/keys/{id}/expire", body_for(&other, reason(" ")), 400).await;
    recorder.problem("POST /v1/keys/{id}/revoke", body_for("key_none", reason("leaked")), 404).await;
    key
}

async fn admin_keys(recorder: &mut Recorder<'_>, tenant: &str) {
    let (_, operator) = recorder.bench.admin("operator", Some(tenant)).await;
    let as_operator = |ask: Ask<'static>| Ask { secret: Some(&operator), ..ask };
    let create = body(json!({"name": "support", "role": "auditor", "tenant_id": tenant}));
    let made = id(&recorder.answer("POST /v1/admin-keys", create).await);
    let create = body(json!({"name": "myself", "role": "owner"}));
    recorder.problem("POST /v1/admin-keys", as_operator(create), 403).await;
    let all = recorder.answer("GET /v1/admin-keys", Ask::default()).await;
    recorder.problem("GET /v1/admin-keys", as_operator(Ask::default()), 403).await;
    recorder.answer("POST /v1/admin-keys/{id}/revoke", body_for(&made, reason("left the team"))).await;
    let first = id(&all["items"][0]);
    recorder.problem("POST /v1/admin-keys/{id}/revoke", body_for(&first, reason("left the team")), 409).await;
}

async fn filter_keys(recorder: &mut Recorder<'_>) {
    let create =
        || Ask { header: Some(("idempotency-key", "envoy-west")), ..body(json!({"name": "envoy-west"})) };
    let made = id(&recorder.answer("POST /v1/filter-keys", create()).await);
    recorder.problem("POST /v1/filter-keys", create(), 409).await;
    recorder.answer("GET /v1/filter-keys", Ask::default()).await;
    recorder.problem("GET /v1/filter-keys", query("?limit=1001"), 400).await;
    let rotate = || body_for(&made, json!({"grace_seconds": 3600, "reason": "yearly rotation"}));
    recorder.answer("POST /v1/filter-keys/{id}/rotate", rotate()).await;
    recorder.answer("POST /v1/filter-keys/{id}/revoke", body_for(&made, reason("cluster removed"))).await;
    recorder.problem("POST /v1/filter-keys/{id}/rotate", rotate(), 409).await;
    recorder.problem("POST /v1/filter-keys/{id}/revoke", body_for("flt_none", reason("unused")), 404).await;
}

/// The id of a refused request.
const WEST_3: &str = "0192f0c0-0000-7000-8000-000000000003";

/// The reports of Envoys, and what the API then shows.
async fn calls(recorder: &mut Recorder<'_>, tenant: &str, key: &str, agent: &str) {
    let bench = recorder.bench;
    let ask = json!({"lease_id": LEASE, "tenant_id": tenant, "credits": 10, "price": 1});
    let round = json!({"instance": INSTANCE, "envoy": "envoy-west", "asks": [ask]});
    bench.post("/filter/v1/leases", round, StatusCode::OK).await;
    recorder.answer("GET /v1/leases", query("?state=open")).await;
    recorder.problem("GET /v1/leases", query("?state=gone"), 400).await;
    bench.expired_reservation(FORGOTTEN, tenant, key, 5).await;
    recorder.answer("GET /v1/reservations", query("?state=unaccounted")).await;
    recorder.problem("GET /v1/reservations", query("?state=gone"), 400).await;
    let mut decision = decision("allowed", key, tenant, "search", 1);
    decision["id"] = json!(REPORTED);
    decision["envoy"] = json!("envoy-west");
    decision["agent_id"] = json!(agent);
    decision["usage_tokens"] = json!({"input": 700, "output": 30});
    decision["would_deny"] = json!("rate_limited");
    let mut batch = report_body(BATCH, [decision]);
    batch["envoy"] = json!("envoy-west");
    bench.post("/filter/v1/report", batch, StatusCode::OK).await;
    recorder.answer("GET /v1/usage", query("?group_by=tenant,tool,outcome")).await;
    recorder.problem("GET /v1/usage", query("?group_by=colour"), 400).await;
    recorder.answer("GET /v1/policy/shadow-report", Ask::default()).await;
    recorder.problem("GET /v1/policy/shadow-report", query("?from=2026-11-22T09:30:00Z"), 400).await;
    recorder.answer("GET /v1/audit", query("?limit=3")).await;
    let mut refused = crate::http::tests::decision("insufficient_scope", key, tenant, "image_generate", 0);
    refused["id"] = json!(WEST_3);
    refused["at"] = json!("2026-11-22T09:30:00.000Z");
    refused["status"] = json!(403);
    refused["envoy"] = json!("envoy-west");
    refused["reason"] = json!({"rule": "scope", "needed": ["generate"], "had": ["read"]});
    let mut batch = report_body("batch_west_2", [refused]);
    batch["envoy"] = json!("envoy-west");
    bench.post("/filter/v1/report", batch, StatusCode::OK).await;
    recorder.answer("GET /v1/decisions/{id}", of(WEST_3)).await;
    recorder.problem("GET /v1/decisions/{id}", of("none"), 404).await;
    let period = "?from=2026-11-22T00:00:00Z&to=2026-11-21T00:00:00Z";
    recorder.problem("GET /v1/audit", query(period), 400).await;
}

async fn policy(recorder: &mut Recorder<'_>) {
    let document = |text: &str| serde_json::from_str::<Value>(&policy::yaml::to_json(text).unwrap()).unwrap();
    recorder.answer("GET /v1/policy", Ask::default()).await;
    recorder.problem("GET /v1/policy", anonymous(), 401).await;
    recorder.answer("GET /v1/tiers", Ask::default()).await;
    recorder.problem("GET /v1/tiers", anonymous(), 401).await;
    recorder.answer("GET /v1/tools", Ask::default()).await;
    recorder.problem("GET /v1/tools", anonymous(), 401).await;
    let faulty = || body(document(&POLICY.replace("rank: 0,", "rank: 0, colour: red,")));
    let without_tier = POLICY.replace("  pro: {rank: 1, limits: [{permits: 300, window: 60s}]}\n", "");
    recorder.answer("POST /v1/policy/check", body(document(&without_tier))).await;
    recorder.problem("POST /v1/policy/check", faulty(), 400).await;
    recorder.problem("PUT /v1/policy", body(document(&without_tier)), 409).await;
    let changed = POLICY.replace("permits: 300", "permits: 600");
    recorder.answer("PUT /v1/policy", body(document(&changed))).await;
}
