//! The transport with a ledger that answers late, incorrectly, or not at all.

#![allow(clippy::arithmetic_side_effects)]

use crate::{Client, Error};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use protocol::TenantId;
use protocol::admin::GrantCredits;
use protocol::problem::Problem;
use std::sync::{Arc, Mutex};

/// The idempotency keys of the POSTs that arrived.
type Seen = Arc<Mutex<Vec<String>>>;

async fn ledger(app: Router) -> Client {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    Client::new(&format!("http://{address}"), "ara_test").unwrap()
}

fn tenant() -> TenantId {
    TenantId::parse("ten_1").unwrap()
}

#[tokio::test]
async fn a_post_answered_503_is_repeated_with_the_same_idempotency_key() {
    let seen = Seen::default();
    let grant = |State(seen): State<Seen>, headers: HeaderMap| async move {
        let mut seen = seen.lock().unwrap();
        seen.push(headers["idempotency-key"].to_str().unwrap().to_owned());
        if seen.len() < 3 {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        Json(serde_json::json!({
            "id": "tra_1", "tenant_id": "ten_1", "amount": 5, "reason": "test",
            "balance": {"granted": 5, "available": 5, "pending": 0, "posted": 0},
        }))
        .into_response()
    };
    let client =
        ledger(Router::new().route("/v1/tenants/ten_1/credits", post(grant)).with_state(seen.clone())).await;

    let grant = GrantCredits { amount: 5.try_into().unwrap(), reason: "test".into() };
    let granted = client.grant_credits(&tenant(), &grant).await.unwrap();

    assert_eq!(granted.balance.available.get(), 5);
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|id| *id == seen[0]));
}

#[tokio::test]
async fn a_post_with_an_unknown_result_reports_its_idempotency_key() {
    let seen = Seen::default();
    let grant = |State(seen): State<Seen>, headers: HeaderMap| async move {
        seen.lock().unwrap().push(headers["idempotency-key"].to_str().unwrap().to_owned());
        StatusCode::BAD_GATEWAY
    };
    let client =
        ledger(Router::new().route("/v1/tenants/ten_1/credits", post(grant)).with_state(seen.clone())).await;

    let grant = GrantCredits { amount: 5.try_into().unwrap(), reason: "test".into() };
    let first = client.grant_credits(&tenant(), &grant).await.unwrap_err();
    let key = first.idempotency_key().unwrap().to_owned();
    let again = client.repeating(key.clone()).grant_credits(&tenant(), &grant).await.unwrap_err();

    assert_eq!(again.idempotency_key(), Some(key.as_str()));
    assert_eq!(*seen.lock().unwrap(), [key.clone(), key]);
    assert_eq!(client.tenant(&tenant()).await.unwrap_err().idempotency_key(), None, "nothing was changed");
}

#[tokio::test]
async fn errors_are_distinguished_by_what_the_caller_can_do() {
    let answer = |status: u16| async move {
        let problem = Problem {
            kind: Problem::urn("test"),
            status,
            title: "Title".into(),
            detail: Some("detail".into()),
            request_id: None,
            available: None,
            paid_from: None,
            contact: None,
            upgrade_url: None,
        };
        (StatusCode::from_u16(status).unwrap(), Json(problem))
    };
    let app = Router::new()
        .route("/v1/tenants/ten_401", get(move || answer(401)))
        .route("/v1/tenants/ten_404", get(move || answer(404)))
        .route("/v1/tenants/ten_422", get(move || answer(422)))
        .route("/v1/tenants/ten_html", get(|| async { "<html>" }));
    let client = ledger(app).await;
    let ask = async |id: &str| client.tenant(&TenantId::parse(id).unwrap()).await.unwrap_err();

    assert!(matches!(ask("ten_401").await, Error::Credential(_)));
    assert!(matches!(ask("ten_404").await, Error::NotFound(_)));
    assert_eq!(ask("ten_422").await.to_string(), "Title: detail");
    assert!(matches!(ask("ten_html").await, Error::Unexpected { .. }));
}

#[tokio::test]
async fn an_unreachable_ledger_is_reported_as_unavailable_with_its_address() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);

    let error = Client::new(&url, "ara_test").unwrap().tenant(&tenant()).await.unwrap_err();

    assert!(matches!(error, Error::Unavailable { .. }));
    assert!(error.to_string().contains(&url), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[test]
fn an_invalid_address_or_key_is_refused_at_once() {
    assert!(matches!(Client::new("localhost:7420", "ara_x"), Err(Error::Configuration(_))));
    assert!(matches!(Client::new("http://127.0.0.1:1", "ara_\n"), Err(Error::Configuration(_))));
}
