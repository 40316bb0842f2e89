//! HTTP: routes, credentials, bounds, and the form of every answer. Decides nothing about keys or money.

pub(crate) mod admin;
pub(crate) mod api;
mod authenticate;
mod caller;
mod check;
pub(crate) mod connections;
mod extract;
mod feed;
mod filter;
mod observe;
mod problem;
mod rate;
pub(crate) mod report;
mod stream;
#[cfg(test)]
mod tests;
pub(crate) mod waiting;

use crate::audit::chain::Signer;
use crate::metrics::Metrics;
use crate::policies::document::InForce;
use crate::policies::in_force::Policies;
use crate::store::Store;
use api::document;
use authenticate::CredentialCache;
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use feed::Noted;
use problem::{Code, Refused};
use protocol::session::SessionSecret;
use rate::Rates;
use serde_json::Value;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::debug;
use waiting::Waiting;

/// Largest request body, except for [`REPORT_BYTES_MAX`] and policies.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// Largest batch of a filter.
const REPORT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// If the database does not answer within this time, the policy and the secrets of sessions known here stay in use.
const POLICY_LOOK_TIMEOUT: Duration = Duration::from_millis(500);

/// What the handlers share.
pub(crate) struct Parts {
    pub(crate) store: Arc<Store>,
    pub(crate) policy: watch::Receiver<Arc<InForce>>,
    /// The secrets of sessions, as they were last read.
    pub(crate) session_secrets: Mutex<Vec<SessionSecret>>,
    pub(crate) policies: Arc<Policies>,
    pub(crate) signer: Arc<Signer>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) audit_retention_days: Option<u32>,
    pub(crate) stopping: watch::Receiver<bool>,
}

/// [`Parts`], and the state that only the API has.
pub(crate) struct Service {
    parts: Parts,
    credential_cache: CredentialCache,
    rates: Rates,
    waiting: Waiting,
    envoys_noted: Noted,
    document: Value,
}

impl Deref for Service {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl Service {
    pub(crate) fn new(parts: Parts) -> Arc<Service> {
        let document = document::of(&admin::endpoints(), &document::examples());
        let (credential_cache, rates) = (CredentialCache::default(), Rates::default());
        let (waiting, envoys_noted) = (Waiting::default(), Noted::default());
        Arc::new(Service { parts, credential_cache, rates, waiting, envoys_noted, document })
    }

    fn policy(&self) -> Arc<InForce> {
        Arc::clone(&self.policy.borrow())
    }

    /// The policy in force, after a look into the database: another ledger may have replaced it, and an Envoy that was told
    /// so must get the new one.
    async fn newest_policy(&self) -> Arc<InForce> {
        if timeout(POLICY_LOOK_TIMEOUT, self.policies.refresh()).await.is_err() {
            debug!("the database did not answer in time; answering with the policy known here");
        }
        self.policy()
    }

    /// The secrets of sessions, from the database; if it does not answer, those known here.
    async fn session_secrets(&self) -> Vec<SessionSecret> {
        let read = timeout(POLICY_LOOK_TIMEOUT, self.store.session_secrets()).await;
        let mut known = self.session_secrets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(Ok(secrets)) = read {
            *known = secrets;
        }
        known.clone()
    }
}

/// The whole API.
pub(crate) fn router(service: Arc<Service>) -> Router {
    let admin = api::router(&service, admin::endpoints());
    let filter = filter::routes().route_layer(from_fn_with_state(Arc::clone(&service), authenticate::filter));
    Router::new()
        .merge(admin)
        .merge(filter)
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(openapi))
        .route("/docs", get(|| async { Html(include_str!("http/docs.html")) }))
        .fallback(|| async { Refused::new(Code::NotFound, "there is nothing at this path") })
        .method_not_allowed_fallback(|| async {
            Refused::new(Code::MethodNotAllowed, "this path does not know that method; see the Allow header")
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn(observe::deadline))
        .layer(from_fn_with_state(Arc::clone(&service), observe::request))
        .with_state(service)
}

async fn alive() -> &'static str {
    "alive\n"
}

/// Ready means that the database answers. A policy is loaded in any case: without one the service does not start.
async fn ready(State(service): State<Arc<Service>>) -> Result<&'static str, Refused> {
    service.store.ping().await?;
    Ok("ready\n")
}

async fn openapi(State(service): State<Arc<Service>>) -> Response {
    let document = document::with_tiers(service.document.clone(), &service.policy().tiers());
    ([(header::CONTENT_TYPE, "application/json")], document.to_string()).into_response()
}

async fn metrics(State(service): State<Arc<Service>>) -> Response {
    // If the database does not answer, this figure keeps its last value. The other figures matter most at such a time.
    if let Ok(totals) = service.store.open_lease_totals().await {
        service.metrics.set_open_leases(totals);
    }
    match service.metrics.text(service.store.queue_depth()) {
        Ok(text) => ([(header::CONTENT_TYPE, Metrics::MEDIA_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
