//! Why a request ended as it did, and what of the audit trail is about a request, a key, a tool or a service.

use super::decision;
use crate::fixture::{Bench, code, expect, report_body};
use protocol::EventId;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

fn id(number: u128) -> String {
    EventId::from_bits((0x0192_f0c0_0000_7000 << 64) | (0x8000 << 48) | number).to_string()
}

async fn tell(bench: &Bench, batch: &str, decisions: &[Value]) {
    let batch = report_body(batch, decisions.iter().cloned());
    bench.post("/filter/v1/report", batch, StatusCode::OK).await;
}

/// A refused decision with its reason.
fn refused(number: u128, outcome: &str, of: (&str, &str), tool: &str, reason: Value) -> Value {
    let mut decision = decision(outcome, of.0, of.1, tool, 0);
    decision["id"] = json!(id(number));
    decision["status"] = json!(403);
    decision["reason"] = reason;
    decision
}

async fn items(bench: &Bench, query: &str) -> Vec<Value> {
    bench.get(&format!("/v1/audit?{query}")).await["items"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_explained_by_its_rule_what_it_needed_and_what_there_was() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(100).await;
    let (key, _) = bench.key(&tenant).await;
    let of = (key.as_str(), tenant.as_str());
    let tier = json!({"rule": "tier", "needed": "enterprise", "had": "free", "argument": "quality",
                      "value": "ultra_plus", "open": ["standard"]});
    let limit = json!({"rule": "limit", "of": "tier", "name": "pro", "per": "tenant", "permits": 20,
                       "window_seconds": 60, "global": true, "wait_seconds": 7});
    let cases = [
        ("tier_denied", tier, json!("enterprise"), json!("free"), "send `quality` as one of: standard"),
        (
            "insufficient_scope",
            json!({"rule": "scope", "needed": ["read", "generate"], "had": ["read"]}),
            json!("read generate"),
            json!("read"),
            "a key with generate",
        ),
        (
            "insufficient_scope",
            json!({"rule": "grant", "kind": "tool", "needed": "wipe"}),
            json!("tool wipe"),
            json!("no grant"),
            "grant it",
        ),
        (
            "rate_limited",
            limit,
            json!("fewer than 20 in 60 s"),
            json!("20 in 60 s"),
            "tier with a higher limit",
        ),
        (
            "rate_limited",
            json!({"rule": "concurrency", "max": 8}),
            json!("fewer than 8 in progress"),
            json!("8 in progress"),
            "wait until one ends",
        ),
        (
            "quota_exceeded",
            json!({"rule": "credits", "needed": 40, "had": 3, "paid_from": "balance"}),
            json!("40 credits"),
            json!("3 credits"),
            "ask the tenant's owner for credits",
        ),
        (
            "invalid_request",
            json!({"rule": "check", "told": "argument `q` must be one of: a"}),
            Value::Null,
            Value::Null,
            "argument `q` must be one of: a",
        ),
    ];
    for (number, (outcome, reason, needed, had, words)) in (1..).zip(cases) {
        let decision = refused(number, outcome, of, "image_generate", reason.clone());
        tell(&bench, &format!("b{number}"), &[decision]).await;
        let told = bench.get(&format!("/v1/decisions/{}", id(number))).await;
        assert_eq!((&told["needed"], &told["had"]), (&needed, &had), "{told}");
        assert_eq!((&told["rule"], &told["reason"]), (&reason["rule"], &reason), "{told}");
        assert_eq!((&told["key_id"], &told["tenant_id"]), (&json!(key), &json!(tenant)));
        assert_eq!((told["tier"].as_str(), told["policy_is_in_force"].as_bool()), (Some("pro"), Some(false)));
        let sentences: Vec<&str> =
            told["sentences"].as_array().unwrap().iter().map(|sentence| sentence.as_str().unwrap()).collect();
        let text = sentences.join(" ");
        for said in [&key, &tenant, "tier pro", "image_generate", "studio", "policy v1", outcome, words] {
            assert!(text.contains(said), "{said:?} is not in: {text}");
        }
    }
    let nobody = bench.request(Method::GET, &format!("/v1/decisions/{}", id(99))).send().await.unwrap();
    assert_eq!(code(&expect(nobody, StatusCode::NOT_FOUND).await), "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paid_call_is_explained_with_what_was_done_for_it() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(100).await;
    let (key, _) = bench.key(&tenant).await;
    let call = id(1);
    expect(bench.reserve(&call, &key, 5).await, StatusCode::CREATED).await;
    let early = bench.request(Method::GET, &format!("/v1/decisions/{call}")).send().await.unwrap();
    let early = expect(early, StatusCode::NOT_FOUND).await;
    assert!(early["detail"].as_str().unwrap().contains("not decided yet"), "{early}");
    bench.settle(&call, json!({"action": "post", "credits": 5})).await;
    let mut decision = decision("allowed", &key, &tenant, "image_generate", 5);
    decision["id"] = json!(call);
    decision["reservation_id"] = json!(call);
    tell(&bench, "b1", &[decision]).await;
    let told = bench.get(&format!("/v1/decisions/{call}")).await;
    let kinds: Vec<&str> =
        told["events"].as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["reserved", "posted"]);
    assert_eq!((&told["rule"], told["credits"].as_u64()), (&Value::Null, Some(5)));
    assert!(told["sentences"][1].as_str().unwrap().contains("5 credits were charged"), "{told}");

    let by_request = items(&bench, &format!("request_id={call}")).await;
    let kinds: Vec<&str> = by_request.iter().map(|row| row["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["decision", "posted", "reserved"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trail_is_searched_by_key_tool_service_and_outcome_within_the_callers_tenant() {
    let bench = Bench::start().await;
    let (tenant, other) = (bench.tenant(100).await, bench.tenant(100).await);
    let (key, _) = bench.key(&tenant).await;
    let (others, _) = bench.key(&other).await;
    let reason = json!({"rule": "concurrency", "max": 8});
    let mut elsewhere = refused(3, "rate_limited", (&others, &other), "deploy", reason.clone());
    elsewhere["service"] = json!("ci");
    let decisions = [
        refused(1, "rate_limited", (&key, &tenant), "search", reason.clone()),
        refused(2, "allowed", (&key, &tenant), "draw", Value::Null),
        elsewhere,
    ];
    tell(&bench, "b1", &decisions).await;
    let decided = |rows: Vec<Value>| {
        rows.iter().filter_map(|row| row["detail"]["id"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    for (query, numbers) in [
        (format!("key_id={key}"), vec![2, 1]),
        (format!("key_id={key}&kind=decision&outcome=rate_limited"), vec![1]),
        ("tool=draw".to_owned(), vec![2]),
        ("service=ci".to_owned(), vec![3]),
        ("service=studio&kind=decision".to_owned(), vec![2, 1]),
        (format!("tenant_id={other}&kind=decision"), vec![3]),
        ("tool=draw&from=2100-01-01T00:00:00Z".to_owned(), vec![]),
        ("tool=draw&to=2020-01-01T00:00:00Z".to_owned(), vec![]),
        (format!("request_id={}", id(3)), vec![3]),
        (format!("request_id={}&key_id={key}", id(3)), vec![]),
    ] {
        let expected: Vec<String> = numbers.into_iter().map(id).collect();
        assert_eq!(decided(items(&bench, &query).await), expected, "{query}");
    }
    // What administrators did to the key is about the key.
    let made = items(&bench, &format!("key_id={key}&kind=key_created")).await;
    assert_eq!(made.len(), 1);

    let create = json!({"name": "support", "role": "auditor", "tenant_id": tenant});
    let auditor = bench.post("/v1/admin-keys", create, StatusCode::CREATED).await;
    let auditor = auditor["secret"].as_str().unwrap();
    let ask = async |path: String| bench.ask_as(auditor, &Method::GET, &path, &Value::Null).await.status();
    assert_eq!(ask(format!("/v1/decisions/{}", id(1))).await, StatusCode::OK);
    assert_eq!(ask(format!("/v1/decisions/{}", id(3))).await, StatusCode::NOT_FOUND);
}
