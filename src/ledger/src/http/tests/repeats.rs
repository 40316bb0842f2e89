//! Repeated requests, and changes at an outdated version, for every operation of the document.

use super::operations::{Fixtures, operations};
use crate::fixture::{Bench, POLICY, code, expect};
use reqwest::header::ETAG;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

async fn newest_fact(bench: &Bench) -> Value {
    bench.get("/v1/audit?limit=1").await["items"][0]["sequence"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn posts_with_the_same_idempotency_key_run_once_and_another_body_is_refused() {
    let bench = Bench::start().await;
    for operation in operations(&bench).await.iter().filter(|operation| operation.method == Method::POST) {
        let place = operation.place();
        // It changes nothing.
        if place == "POST /v1/policy/check" {
            continue;
        }
        assert!(operation.parameters("header").contains(&"Idempotency-Key".to_owned()), "{place}");
        let fixtures = Fixtures::new(&bench, "owner").await;
        let (path, body) = (fixtures.path(operation), fixtures.body(operation));
        let send = async |body: &Value| {
            let request = bench.request(Method::POST, &path).header("idempotency-key", "again");
            request.json(body).send().await.unwrap()
        };
        let first = send(&body).await;
        let (status, etag) = (first.status(), first.headers().get(ETAG).cloned());
        let first: Value = first.json().await.unwrap();
        assert!(status.is_success(), "{place}: {first}");
        let fact = newest_fact(&bench).await;
        let second = send(&body).await;
        if first["secret"].is_string() {
            let refused = expect(second, StatusCode::CONFLICT).await;
            assert_eq!(code(&refused), "key_exists", "{place}");
            assert!(refused["detail"].as_str().unwrap().contains(first["id"].as_str().unwrap()), "{place}");
        } else {
            assert_eq!(second.headers().get(ETAG).cloned(), etag, "{place}");
            assert_eq!(expect(second, status).await, first, "{place}");
        }
        assert_eq!(newest_fact(&bench).await, fact, "{place} was done twice");
        let mut other = body.clone();
        let changed = ["reason", "name"].into_iter().find(|field| body.get(*field).is_some()).unwrap();
        other[changed] = json!("something else");
        let refused = expect(send(&other).await, StatusCode::UNPROCESSABLE_ENTITY).await;
        assert_eq!(code(&refused), "idempotency_key_reused", "{place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_does_not_undo_later_changes() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(0).await;
    let path = format!("/v1/tenants/{tenant}");
    let send = async |action: &str, key: &str| {
        let request = bench.request(Method::POST, &format!("{path}/{action}"));
        let request = request.header("idempotency-key", key).json(&json!({"reason": "unpaid"}));
        expect(request.send().await.unwrap(), StatusCode::OK).await
    };
    let suspended = send("suspend", "k1").await;
    send("resume", "k2").await;
    assert_eq!(send("suspend", "k1").await, suspended);
    assert!(bench.get(&path).await["suspended_at"].is_null(), "the tenant was suspended again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_with_an_outdated_if_match_is_refused() {
    let bench = Bench::start().await;
    let fixtures = Fixtures::new(&bench, "owner").await;
    let mut tried = 0;
    for operation in operations(&bench).await {
        let place = operation.place();
        if !matches!(operation.method, Method::PATCH | Method::PUT) {
            continue;
        }
        tried += 1;
        assert!(operation.parameters("header").contains(&"If-Match".to_owned()), "{place} has no If-Match");
        let request = bench.request(operation.method.clone(), &fixtures.path(&operation));
        let stale =
            request.header("if-match", "\"999\"").json(&fixtures.body(&operation)).send().await.unwrap();
        let refused = expect(stale, StatusCode::PRECONDITION_FAILED).await;
        assert_eq!(code(&refused), "precondition_failed", "{place}");
    }
    assert!(tried >= 3, "only {tried} operations change fixtures");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_may_name_several_etags_and_a_weak_etag_matches_nothing() {
    let bench = Bench::start().await;
    let fixtures = Fixtures::new(&bench, "owner").await;
    for operation in operations(&bench).await {
        if !matches!(operation.method, Method::PATCH | Method::PUT) {
            continue;
        }
        let place = operation.place();
        let path = fixtures.path(&operation);
        let change = async |conditions: &[&str]| {
            let body = match operation.path.as_str() {
                "/v1/policy" => POLICY.to_owned(),
                _ => fixtures.body(&operation).to_string(),
            };
            let request = bench.request(operation.method.clone(), &path).body(body);
            let request = conditions.iter().fold(request, |request, tags| request.header("if-match", *tags));
            request.send().await.unwrap().status()
        };
        let shown = bench.request(Method::GET, &path).send().await.unwrap();
        let now = shown.headers()[ETAG].to_str().unwrap();
        let within = now.replace('"', ",");
        let others =
            ["\"998\", \"999\"", &format!("W/{now}"), &format!("\"999\", W/{now}"), &format!("\"{within}\"")];
        for refused in others {
            assert_eq!(change(&[refused]).await, StatusCode::PRECONDITION_FAILED, "{place}: {refused}");
        }
        for faulty in ["", "999", "\"999", "\"999\" \"998\"", "W/", "*, \"999\""] {
            assert_eq!(change(&[faulty]).await, StatusCode::BAD_REQUEST, "{place}: {faulty}");
        }
        assert_eq!(
            change(&["\"a,b\" ,,W/\"1\"", &format!("\"999\",{now},")]).await,
            StatusCode::OK,
            "{place}"
        );
        assert_eq!(change(&["*"]).await, StatusCode::OK, "{place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_with_an_etag_is_described_with_one() {
    let bench = Bench::start().await;
    let mut seen = 0;
    for operation in operations(&bench).await {
        let fixtures = Fixtures::new(&bench, "owner").await;
        let request = bench.request(operation.method.clone(), &fixtures.path(&operation));
        let request = match (&operation.method, operation.path.as_str()) {
            (&Method::GET, _) => request,
            (_, "/v1/policy") => request.body(POLICY),
            _ => request.json(&fixtures.body(&operation)),
        };
        let answer = request.send().await.unwrap();
        let (status, has_etag) = (answer.status(), answer.headers().contains_key(ETAG));
        let described = &operation.described["responses"][status.as_str()];
        assert!(described.is_object(), "{} answers {status}", operation.place());
        assert_eq!(has_etag, described["headers"]["ETag"].is_object(), "{}", operation.place());
        seen += usize::from(has_etag);
    }
    assert!(seen > 5, "only {seen} answers have an ETag");
}
