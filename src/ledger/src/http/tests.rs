//! The API over a real socket.

#![allow(clippy::arithmetic_side_effects)]

mod described;
mod exact;
mod explained;
mod issued;
mod leases;
mod lifecycle;
mod operations;
mod repeats;
mod several;
mod tenancy;
mod trail;
mod unaccounted;

use crate::fixture::{
    Bench, POLICY, code, dump, expect, is_on_postgresql, new_uuid, on_postgresql, pace, report_body,
    reserve_body, uuid_of,
};
use crate::moment;
use protocol::filter::PolicyAnswer;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Runs all tests of this module on PostgreSQL too.
#[test]
fn on_postgresql_the_api_does_the_same() {
    if !is_on_postgresql() {
        let passed = on_postgresql("http::tests::");
        assert!(passed > 30, "{passed} tests are too few to be all");
    }
}

fn decision(outcome: &str, key_id: &str, tenant_id: &str, tool: &str, credits: u64) -> Value {
    json!({
        "id": new_uuid(), "at": moment::now(), "outcome": outcome, "key_id": key_id,
        "tenant_id": tenant_id, "service": "studio", "tool": tool, "credits": credits, "status": 200,
        "duration_ms": 12, "policy_version": "v1", "envoy": "e1",
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_created_with_credits_and_granted_more() {
    let bench = Bench::start().await;
    let id = bench.tenant(100).await;
    assert_eq!(bench.balance(&id).await, [100, 100, 0, 0]);
    let grant = json!({"amount": 50, "reason": "top-up"});
    let answer = bench.post(&format!("/v1/tenants/{id}/credits"), grant, StatusCode::CREATED).await;
    assert_eq!(answer["balance"]["available"], 150);
    let shown = bench.get(&format!("/v1/tenants/{id}")).await;
    assert_eq!((shown["tier"].as_str(), shown["balance"]["granted"].as_u64()), (Some("pro"), Some(150)));
    assert_eq!(bench.get("/v1/tenants").await["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_reserved_and_charged_in_part_and_repeated_steps_move_nothing() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(100).await;
    let (key, _) = bench.key(&tenant).await;
    let id = new_uuid();
    let first = expect(bench.reserve(&id, &key, 40).await, StatusCode::CREATED).await;
    assert_eq!(bench.balance(&tenant).await, [100, 60, 40, 0]);
    let again = expect(bench.reserve(&id, &key, 40).await, StatusCode::CREATED).await;
    assert_eq!(first, again);
    let other = expect(bench.reserve(&id, &key, 41).await, StatusCode::CONFLICT).await;
    assert_eq!(code(&other), "conflict");
    let renew = json!({"action": "renew", "ttl_seconds": 600});
    assert_eq!(bench.settle(&id, renew).await, json!({"settled": 1, "recorded": 0}));
    let post = json!({"action": "post", "credits": 30});
    assert_eq!(bench.settle(&id, post.clone()).await, json!({"settled": 1, "recorded": 0}));
    assert_eq!(bench.settle(&id, post).await, json!({"settled": 0, "recorded": 0}));
    assert_eq!(bench.settle(&id, json!({"action": "void"})).await["settled"], 0);
    assert_eq!(bench.balance(&tenant).await, [100, 70, 0, 30]);
    let audit = bench.get(&format!("/v1/audit?tenant_id={tenant}")).await;
    let kinds: Vec<_> = audit["items"].as_array().unwrap().iter().map(|row| row["kind"].clone()).collect();
    assert_eq!(kinds, ["posted", "reserved", "key_created", "credits_granted", "tenant_created"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_without_credits_and_an_inactive_key_get_different_errors() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(10).await;
    let (key, _) = bench.key(&tenant).await;
    let poor = expect(bench.reserve("r1", &key, 11).await, StatusCode::PAYMENT_REQUIRED).await;
    assert_eq!(code(&poor), "quota_exceeded");
    let reason = json!({"reason": "leaked"});
    bench.post(&format!("/v1/keys/{key}/revoke"), reason, StatusCode::OK).await;
    for key in [key.as_str(), "key_unknown"] {
        let refused = expect(bench.reserve("r2", key, 1).await, StatusCode::FORBIDDEN).await;
        assert_eq!(code(&refused), "key_inactive");
    }
    assert_eq!(bench.balance(&tenant).await, [10, 10, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_reservation_is_charged_and_a_late_settlement_is_a_correction() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(20).await;
    let (key, _) = bench.key(&tenant).await;
    let mut asked = reserve_body("r1", &key, 10, 1);
    asked["overrun_credits_max"] = json!(10);
    bench.post("/filter/v1/reserve", asked, StatusCode::CREATED).await;
    let deadline = Instant::now() + Duration::from_secs(15);
    while bench.balance(&tenant).await != [20, 10, 0, 10] {
        assert!(Instant::now() < deadline, "the reservation did not expire");
        pace().await;
    }
    expect(bench.reserve("r2", &key, 7).await, StatusCode::CREATED).await;
    assert_eq!(bench.settle("r1", json!({"action": "post", "credits": 20})).await["settled"], 1);
    assert_eq!(bench.balance(&tenant).await, [20, 0, 7, 13]);
    let audit = bench.get("/v1/audit?kind=correction").await;
    let detail = &audit["items"][0]["detail"];
    assert_eq!((detail["credits"].as_u64(), detail["shortfall"].as_u64()), (Some(13), Some(7)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_works_with_both_secrets_during_the_grace_period() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(0).await;
    let (key, old) = bench.key(&tenant).await;
    let path = format!("/v1/keys/{key}/rotate");
    let graced = bench.post(&path, json!({"grace_seconds": 3600}), StatusCode::OK).await;
    let new = graced["secret"].as_str().unwrap();
    let of_old = expect(bench.resolve(&old).await, StatusCode::OK).await;
    assert_eq!((of_old["state"].as_str(), of_old["expires_at"].is_string()), (Some("active"), true));
    let of_new = expect(bench.resolve(new).await, StatusCode::OK).await;
    assert_eq!((of_new["key_id"].as_str(), of_new["expires_at"].is_null()), (Some(key.as_str()), true));

    let at_once = bench.post(&path, json!({}), StatusCode::OK).await;
    for secret in [old.as_str(), new] {
        assert_eq!(expect(bench.resolve(secret).await, StatusCode::OK).await["state"], "expired");
    }
    let newest = at_once["secret"].as_str().unwrap();
    assert_eq!(expect(bench.resolve(newest).await, StatusCode::OK).await["state"], "active");
    assert_eq!(bench.resolve("ark_unknown").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_listed_by_state_and_in_pages() {
    let bench = Bench::start().await;
    let (tenant, other) = (bench.tenant(0).await, bench.tenant(0).await);
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(bench.key(&tenant).await.0);
    }
    bench.key(&other).await;
    bench.post(&format!("/v1/keys/{}/revoke", made[1]), json!({"reason": "x"}), StatusCode::OK).await;
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = bench.get(&format!("/v1/keys?tenant_id={tenant}&limit=2{cursor}")).await;
        seen.extend(
            page["items"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, made);
    let revoked = bench.get("/v1/keys?state=revoked").await;
    assert_eq!(revoked["items"].as_array().unwrap().len(), 1);
    assert_eq!(revoked["items"][0]["id"].as_str(), Some(made[1].as_str()));
    assert_eq!(bench.get("/v1/keys?state=active").await["items"].as_array().unwrap().len(), 5);
    assert!(bench.get(&format!("/v1/keys/{}", made[0])).await.get("secret").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_are_recorded_once_and_summed() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(100).await;
    let (key, _) = bench.key(&tenant).await;
    let told = |usage_tokens: Value, mut decision: Value| {
        decision["usage_tokens"] = usage_tokens;
        decision
    };
    let decisions = [
        told(json!({"input": 700, "output": 30}), decision("allowed", &key, &tenant, "image_generate", 5)),
        told(json!({"input": 5}), decision("allowed", &key, &tenant, "search", 0)),
        decision("rate_limited", &key, &tenant, "search", 0),
    ];
    let mut batch = report_body("b1", decisions);
    batch["decisions_dropped"] = json!(2);
    let answer = bench.post("/filter/v1/report", batch.clone(), StatusCode::OK).await;
    assert_eq!(answer["recorded"], 3);
    assert_eq!(bench.post("/filter/v1/report", batch, StatusCode::OK).await["recorded"], 0);
    let latency = json!({"p50": 12, "p95": 12, "p99": 12});
    let usage = bench.get("/v1/usage?group_by=tool").await;
    assert_eq!(
        usage["items"],
        json!([
            {"tool": "image_generate", "calls": 1, "allowed": 1, "credits": 5,
             "usage_tokens": {"input": 700, "output": 30}, "latency_ms": latency},
            {"tool": "search", "calls": 2, "allowed": 1, "credits": 0,
             "usage_tokens": {"input": 5, "output": 0}, "latency_ms": latency},
        ])
    );
    let first = bench.get("/v1/usage?group_by=tool&limit=1").await;
    let page = bench.request(Method::GET, "/v1/usage?group_by=tool&limit=1");
    let page = page.query(&[("cursor", first["next_cursor"].as_str().unwrap())]).send().await.unwrap();
    let second = expect(page, StatusCode::OK).await;
    assert_eq!((&first["items"][0], &second["items"][0]), (&usage["items"][0], &usage["items"][1]));
    assert!(second["next_cursor"].is_null());
    let total = bench.get("/v1/usage?from=2020-01-01T00:00:00Z&to=2999-01-01T00:00:00Z").await;
    assert_eq!(
        total["items"],
        json!([{"calls": 3, "allowed": 2, "credits": 5,
                                        "usage_tokens": {"input": 705, "output": 30}, "latency_ms": latency}])
    );
    assert_eq!(bench.get("/v1/usage?to=2020-01-01T00:00:00Z").await["items"], json!([]));
    let by_all = bench.get("/v1/usage?group_by=tenant,key,tool").await;
    assert_eq!(by_all["items"][0]["key_id"].as_str(), Some(key.as_str()));
    let limited = bench.get("/v1/audit?outcome=rate_limited").await;
    assert_eq!(limited["items"].as_array().unwrap().len(), 1);
    assert_eq!(limited["items"][0]["detail"]["tool"], "search");
    assert_eq!(bench.get("/v1/audit?kind=decisions_dropped").await["items"][0]["detail"]["count"], 2);
    // Counted once, and shown wherever the trail is looked at as a whole.
    assert_eq!(bench.get("/v1/audit/status").await["decisions_dropped"], 2);
    let shown = async |path: &str| {
        let url = format!("http://{}{path}", bench.running.address);
        let request = bench.client.get(url).bearer_auth(&bench.credentials.admin_key);
        request.send().await.unwrap().text().await.unwrap()
    };
    assert!(shown("/metrics").await.contains("agentrelay_ledger_decisions_dropped_total 2"));
    assert!(shown("/v1/audit/export").await.contains("\"decisions_dropped\":2"));
    assert!(bench.get(&format!("/v1/keys/{key}")).await["last_used_at"].is_string());

    let page = bench.get("/v1/audit?limit=2").await;
    let cursor = page["next_cursor"].as_str().unwrap();
    let next = bench.get(&format!("/v1/audit?limit=1000&cursor={cursor}")).await;
    let all: Vec<u64> = [&page, &next]
        .iter()
        .flat_map(|page| {
            page["items"].as_array().unwrap().iter().map(|row| row["sequence"].as_u64().unwrap())
        })
        .collect();
    let without_gaps: Vec<u64> = (1..=all[0]).rev().collect();
    assert_eq!(all, without_gaps);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_change_feed_answers_at_once_resumes_and_resets_unknown_positions() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(0).await;
    let (key, _) = bench.key(&tenant).await;
    let start = bench.get("/filter/v1/changes").await;
    assert_eq!((start["reset"].as_bool(), start["changes"].as_array().unwrap().len()), (Some(false), 0));
    let after = start["next"].as_u64().unwrap();

    let began = Instant::now();
    let path = format!("/filter/v1/changes?after={after}&wait_ms=20000");
    let (revoke, reason) = (format!("/v1/keys/{key}/revoke"), json!({"reason": "leaked"}));
    let (feed, _) = tokio::join!(bench.get(&path), bench.post(&revoke, reason, StatusCode::OK));
    assert!(began.elapsed() < Duration::from_secs(15), "the long poll did not wake");
    assert_eq!(feed["changes"], json!([{"kind": "key", "key_id": key}]));
    let next = feed["next"].as_u64().unwrap();
    let nothing = bench.get(&format!("/filter/v1/changes?after={next}&wait_ms=10")).await;
    assert_eq!(nothing, json!({"next": next, "reset": false, "envoys": 0, "changes": []}));

    let bench = bench.restart().await;
    assert_eq!(bench.get(&path).await["changes"], feed["changes"]);
    for stranger in [0, next + 1, u64::MAX] {
        let answer = bench.get(&format!("/filter/v1/changes?after={stranger}&wait_ms=20000")).await;
        assert_eq!(answer, json!({"next": next, "reset": true, "envoys": 0, "changes": []}), "{stranger}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_envoy_hears_at_once_of_one_that_joins() {
    let bench = Bench::start().await;
    let [one, two] = ["i1", "i2"].map(uuid_of);
    let first = bench.get(&format!("/filter/v1/changes?instance={one}")).await;
    assert_eq!(first["envoys"], 1);
    let after = first["next"].as_u64().unwrap();
    let poll = format!("/filter/v1/changes?instance={one}&after={after}&wait_ms=20000");
    let began = Instant::now();
    let join = format!("/filter/v1/changes?instance={two}");
    let (feed, joined) = tokio::join!(bench.get(&poll), bench.get(&join));
    assert!(began.elapsed() < Duration::from_secs(15), "the long poll did not wake");
    assert_eq!((&feed["envoys"], &joined["envoys"]), (&json!(2), &json!(2)));
    assert_eq!(feed["changes"], json!([{"kind": "envoy", "instance": two}]));
    // An Envoy that calls again, here or at a ledger that has just started, has not joined.
    let next = feed["next"].as_u64().unwrap();
    let bench = bench.restart().await;
    let again = bench.get(&format!("/filter/v1/changes?instance={two}&after={next}&wait_ms=10")).await;
    assert_eq!(again, json!({"next": next, "reset": false, "envoys": 2, "changes": []}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_a_long_poll() {
    let bench = Bench::start().await;
    let after = bench.get("/filter/v1/changes").await["next"].as_u64().unwrap();
    let poll = bench.request(Method::GET, &format!("/filter/v1/changes?after={after}&wait_ms=25000")).send();
    let began = Instant::now();
    let poll = tokio::spawn(poll);
    // The poll has arrived when its connection is counted; a poll that comes too late fails, which is accepted.
    tokio::task::yield_now().await;
    bench.running.shutdown().await;
    let _ = poll.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(24), "the stop waited for the poll");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_is_served_with_its_version_and_followed_when_its_file_changes() {
    let bench = Bench::start().await;
    let answer = bench.request(Method::GET, "/filter/v1/policy").send().await.unwrap();
    let etag = answer.headers()["etag"].to_str().unwrap().to_owned();
    let PolicyAnswer { tag, policy, session_secrets } = answer.json().await.unwrap();
    let document: Value = serde_json::from_str(&policy).unwrap();
    let shown = bench.get("/v1/policy").await;
    assert_eq!((format!("\"{tag}\""), session_secrets.len()), (etag.clone(), 1));
    assert!(tag.starts_with(shown["version"].as_str().unwrap()));
    assert!(
        !shown
            .to_string()
            .contains(&protocol::api_key::KeyHash::from_bytes(*session_secrets[0].bytes()).to_string())
    );
    assert_eq!(shown["document"], document);
    assert_eq!(bench.get("/v1/tiers").await, document["tiers"]);
    assert_eq!(bench.get("/v1/tools").await, json!({"services": document["services"]}));
    let known = bench.request(Method::GET, "/filter/v1/policy").header("if-none-match", &etag);
    assert_eq!(known.send().await.unwrap().status(), StatusCode::NOT_MODIFIED);

    let after = bench.get("/filter/v1/changes").await["next"].as_u64().unwrap();
    std::fs::write(bench.policy_path(), "tiers: {free: {rank: 0, colour: red}}").unwrap();
    std::fs::write(bench.policy_path(), POLICY.replace("permits: 20,", "permits: 21,")).unwrap();
    let feed = bench.get(&format!("/filter/v1/changes?after={after}&wait_ms=20000")).await;
    let changed = bench.request(Method::GET, "/filter/v1/policy").header("if-none-match", &etag);
    let changed = changed.send().await.unwrap();
    assert_eq!(changed.status(), StatusCode::OK);
    let version = bench.get("/v1/policy").await["version"].clone();
    assert_eq!(feed["changes"], json!([{"kind": "policy", "version": version}]));
    let changed: PolicyAnswer = changed.json().await.unwrap();
    assert!(changed.tag.starts_with(version.as_str().unwrap()));
    let document: Value = serde_json::from_str(&changed.policy).unwrap();
    assert_eq!(document["tiers"]["free"]["limits"][0]["permits"], 21);
    assert_eq!(changed.session_secrets, session_secrets);
    assert_eq!(bench.get("/v1/audit?kind=policy_in_force").await["items"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_policy_file_stops_a_start_but_not_a_running_ledger() {
    let bench = Bench::start().await;
    let version = bench.get("/v1/policy").await["version"].clone();
    std::fs::write(bench.policy_path(), POLICY.replace("rank: 0,", "rank: 0, colour: red,")).unwrap();
    let url = format!("http://{}/metrics", bench.running.address);
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let text = bench.client.get(&url).send().await.unwrap().text().await.unwrap();
        if text.contains("agentrelay_ledger_policies_refused_total 1") {
            break;
        }
        assert!(Instant::now() < deadline, "the faulty file was not judged");
    }
    assert_eq!(bench.get("/v1/policy").await["version"], version);
    let Bench { directory, running, .. } = bench;
    running.shutdown().await;
    let Err(error) = crate::start(Bench::config(&directory)).await else { panic!("it started") };
    assert!(error.to_string().contains("tiers.free.colour"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_makes_one_thing_and_never_replays_a_secret() {
    let bench = Bench::start().await;
    let send = |path: &str, body: Value| {
        bench.request(Method::POST, path).header("idempotency-key", "deploy-17").json(&body).send()
    };
    let body = json!({"name": "Acme", "tier": "free", "credits": 5});
    let first = expect(send("/v1/tenants", body.clone()).await.unwrap(), StatusCode::CREATED).await;
    let again = expect(send("/v1/tenants", body).await.unwrap(), StatusCode::CREATED).await;
    assert_eq!(first, again);
    let other = send("/v1/tenants", json!({"name": "Other", "tier": "free"})).await.unwrap();
    let other = expect(other, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(code(&other), "idempotency_key_reused");

    let tenant = first["id"].as_str().unwrap();
    let (path, grant) = (format!("/v1/tenants/{tenant}/credits"), json!({"amount": 7, "reason": "gift"}));
    for _ in 0..2 {
        expect(send(&path, grant.clone()).await.unwrap(), StatusCode::CREATED).await;
    }
    assert_eq!(bench.balance(tenant).await, [12, 12, 0, 0]);

    let key = json!({"tenant_id": tenant, "name": "ci", "scopes": ["read"]});
    let made = expect(send("/v1/keys", key.clone()).await.unwrap(), StatusCode::CREATED).await;
    let exists = expect(send("/v1/keys", key).await.unwrap(), StatusCode::CONFLICT).await;
    assert_eq!(code(&exists), "key_exists");
    assert!(exists["detail"].as_str().unwrap().contains(made["id"].as_str().unwrap()));
    assert_eq!(bench.get("/v1/keys").await["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_is_a_problem_with_a_code_and_the_requests_id() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(1).await;
    let key = |more: Value| {
        let mut key = json!({"tenant_id": tenant, "name": "ci", "scopes": ["read"]});
        key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        key.to_string()
    };
    let large = format!("\"{}\"", "x".repeat(300 * 1024));
    let past = "2020-01-01T00:00:00Z";
    let ttl = reserve_body("r", "key_1", 1, 0).to_string();
    for (method, path, body, status, code_expected, says) in [
        ("GET", "/nowhere", "", 404, "not_found", "path"),
        ("GET", "/v1/nowhere", "", 404, "not_found", "path"),
        ("DELETE", "/v1/tenants", "", 405, "method_not_allowed", "Allow"),
        ("POST", "/v1/tenants", "{", 400, "invalid_request", "EOF"),
        ("POST", "/v1/tenants", "{\"name\": \"A\", \"tier\": 5}", 400, "invalid_request", "tier: "),
        ("POST", "/v1/tenants", "{\"name\": \"A\", \"tier\": \"gold\"}", 400, "invalid_request", "tier: "),
        ("POST", "/v1/tenants", "{\"name\": \"\", \"tier\": \"free\"}", 400, "invalid_request", "name: "),
        ("POST", "/v1/tenants", "{\"name\": \"A\", \"tier\": \"free\"} 1", 400, "invalid_request", "after"),
        ("POST", "/v1/tenants", "{\"nam\": \"A\"}", 400, "invalid_request", "nam"),
        ("POST", "/v1/tenants", &large, 413, "body_too_large", "larger"),
        ("POST", "/v1/keys", &key(json!({"scopes": ["read", ""]})), 400, "invalid_request", "scopes[1]"),
        ("POST", "/v1/keys", &key(json!({"expires_at": past})), 400, "invalid_request", "expires_at"),
        (
            "POST",
            "/v1/keys",
            &key(json!({"limits": [{"permits": 0, "window_seconds": 1}]})),
            400,
            "invalid_request",
            "limits[0]",
        ),
        ("POST", "/v1/keys", &key(json!({"tenant_id": "ten_none"})), 400, "invalid_request", "tenant_id"),
        ("GET", "/v1/keys?stat=active", "", 400, "invalid_request", "stat"),
        ("GET", "/v1/keys?limit=0", "", 400, "invalid_request", "limit"),
        ("GET", "/v1/keys/key_none", "", 404, "not_found", "id"),
        ("GET", "/v1/keys/%20", "", 404, "not_found", "id"),
        ("GET", "/v1/tenants/ten_none/balance", "", 404, "not_found", "id"),
        ("GET", "/v1/usage?cursor=%5B%22search%22%5D", "", 400, "invalid_request", "cursor"),
        ("GET", "/v1/policy/shadow-report?limit=0", "", 400, "invalid_request", "limit"),
        ("GET", "/v1/usage?group_by=colour", "", 400, "invalid_request", "group_by"),
        ("GET", "/v1/audit?outcome=maybe", "", 400, "invalid_request", "outcome"),
        ("GET", "/v1/audit?kind=maybe", "", 400, "invalid_request", "kind"),
        ("POST", "/filter/v1/reserve", &ttl, 400, "invalid_request", "ttl_seconds"),
        ("GET", "/filter/v1/changes?after=-1", "", 400, "invalid_request", "after"),
    ] {
        let request = bench.request(method.parse().unwrap(), path).header("x-request-id", "req-7");
        let response = request.body(body.to_owned()).send().await.unwrap();
        let place = format!("{method} {path} {}", body.chars().take(80).collect::<String>());
        assert_eq!(response.status().as_u16(), status, "{place}");
        assert_eq!(response.headers()["content-type"], "application/problem+json", "{place}");
        assert_eq!(response.headers()["x-request-id"], "req-7", "{place}");
        assert_eq!(response.headers().contains_key("allow"), status == 405, "{place}");
        let problem: Value = response.json().await.unwrap();
        assert_eq!(
            (code(&problem), problem["status"].as_u64()),
            (code_expected, Some(status.into())),
            "{place}"
        );
        assert_eq!(problem["request_id"], "req-7", "{place}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(says), "{place}: {detail}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_api_accepts_only_its_own_kind_of_credential() {
    let bench = Bench::start().await;
    let (admin, filter) = (bench.credentials.admin_key.clone(), bench.credentials.filter_key.clone());
    let made_up = moment::new_secret(protocol::api_key::Kind::Admin).unwrap();
    for (path, header, accepted) in [
        ("/v1/tenants", format!("Bearer {admin}"), true),
        ("/v1/tenants", format!("bEARER  {admin}"), true),
        ("/v1/tenants", format!("Bearer {filter}"), false),
        ("/v1/tenants", format!("Basic {admin}"), false),
        ("/v1/tenants", format!("Bearer {made_up}"), false),
        ("/v1/tenants", "Bearer".to_owned(), false),
        ("/filter/v1/policy", format!("Bearer {filter}"), true),
        ("/filter/v1/policy", format!("Bearer {admin}"), false),
    ] {
        let url = format!("http://{}{path}", bench.running.address);
        let response = bench.client.get(&url).header("authorization", &header).send().await.unwrap();
        assert_eq!(response.status().is_success(), accepted, "{path} {header}");
        if !accepted {
            assert_eq!(response.headers()["www-authenticate"], "Bearer");
            let problem = expect(response, StatusCode::UNAUTHORIZED).await;
            assert!(!problem.to_string().contains(&admin) && !problem.to_string().contains(&filter));
        }
        assert_eq!(bench.client.get(&url).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
        let twice = bench.client.get(&url).bearer_auth(&admin).header("authorization", &header);
        assert_eq!(twice.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_life_readiness_and_counts() {
    let bench = Bench::start().await;
    bench.tenant(3).await;
    for path in ["/healthz", "/readyz"] {
        let url = format!("http://{}{path}", bench.running.address);
        assert_eq!(bench.client.get(url).send().await.unwrap().status(), StatusCode::OK, "{path}");
    }
    let url = format!("http://{}/metrics", bench.running.address);
    let deadline = Instant::now() + Duration::from_secs(15);
    let text = loop {
        let text = bench.client.get(&url).send().await.unwrap().text().await.unwrap();
        // An operation has its answer a moment before it leaves the queue.
        if text.contains("agentrelay_ledger_queue_depth 0") || Instant::now() > deadline {
            break text;
        }
        pace().await;
    };
    for line in [
        "agentrelay_ledger_http_requests_total{method=\"POST\",route=\"/v1/tenants\",status=\"201\"} 1",
        "agentrelay_ledger_transfers_total{kind=\"grant\"} 1",
        "agentrelay_ledger_decisions_total{outcome=\"allowed\"} 0",
        "agentrelay_ledger_commit_seconds_count",
        "agentrelay_ledger_commit_operations_bucket",
        "agentrelay_ledger_queue_depth 0",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_the_database_or_the_metrics() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(10).await;
    let (key, secret) = bench.key(&tenant).await;
    let rotated = bench.post(&format!("/v1/keys/{key}/rotate"), json!({}), StatusCode::OK).await;
    let with_idempotency_key = bench
        .request(Method::POST, "/v1/keys")
        .header("idempotency-key", "k")
        .json(&json!({"tenant_id": tenant, "name": "ci", "scopes": ["read"]}));
    let kept = expect(with_idempotency_key.send().await.unwrap(), StatusCode::CREATED).await;
    bench.resolve(&secret).await;
    let url = format!("http://{}/metrics", bench.running.address);
    let metrics = bench.client.get(url).send().await.unwrap().bytes().await.unwrap();
    let Bench { directory, credentials, running, .. } = bench;

    // Once with the write-ahead log next to it, once after the log was merged into the file.
    let mut texts = vec![metrics.to_vec()];
    let read_all = |texts: &mut Vec<Vec<u8>>| {
        let files = std::fs::read_dir(directory.path()).unwrap();
        texts.extend(files.map(|file| std::fs::read(file.unwrap().path()).unwrap()));
    };
    read_all(&mut texts);
    running.shutdown().await;
    read_all(&mut texts);
    texts.extend(dump(&directory));
    let holds = |text: &Vec<u8>, what: &[u8]| text.windows(what.len()).any(|window| window == what);
    assert!(texts.iter().any(|text| holds(text, key.as_bytes())), "the rows were not searched");
    let secrets = [
        secret.as_str(),
        rotated["secret"].as_str().unwrap(),
        kept["secret"].as_str().unwrap(),
        &credentials.admin_key,
        &credentials.filter_key,
    ];
    for secret in secrets {
        // Only the random part, so that a removed prefix does not hide it.
        assert!(!texts.iter().any(|text| holds(text, &secret.as_bytes()[4..44])));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_survive_a_restart() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(100).await;
    let (key, secret) = bench.key(&tenant).await;
    expect(bench.reserve("r1", &key, 30).await, StatusCode::CREATED).await;
    let bench = bench.restart().await;
    assert_eq!(bench.balance(&tenant).await, [100, 70, 30, 0]);
    assert_eq!(
        expect(bench.resolve(&secret).await, StatusCode::OK).await["key_id"].as_str(),
        Some(key.as_str())
    );
    bench.settle("r1", json!({"action": "post", "credits": 30})).await;
    assert_eq!(bench.balance(&tenant).await, [100, 70, 0, 30]);
    let again = crate::init(&Bench::config(&bench.directory).database, |_| Ok(()));
    assert!(matches!(again, Err(crate::Error::AlreadyInitialised(_))));
}
