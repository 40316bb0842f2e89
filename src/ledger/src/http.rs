//! HTTP: routes, credentials, bounds, and the form of every answer. Decides nothing about keys or money.

mod admin;
mod authenticate;
mod extract;
mod filter;
mod observe;
mod problem;
#[cfg(test)]
mod tests;

use crate::metrics::Metrics;
use crate::policy_file::InForce;
use crate::store::Store;
use authenticate::Doorkeeper;
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use problem::{Code, Refused};
use std::sync::Arc;
use tokio::sync::watch;

/// Largest request body, except for [`REPORT_BYTES_MAX`].
const BODY_BYTES_MAX: usize = 256 * 1024;
/// Largest batch of a filter.
const REPORT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What the handlers share.
pub(crate) struct Service {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) policy: watch::Receiver<Arc<InForce>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stopping: watch::Receiver<bool>,
    doorkeeper: Doorkeeper,
}

impl Service {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        policy: watch::Receiver<Arc<InForce>>,
        metrics: Arc<Metrics>,
        stopping: watch::Receiver<bool>,
    ) -> Service {
        Service { store, policy, metrics, stopping, doorkeeper: Doorkeeper::default() }
    }

    fn policy(&self) -> Arc<InForce> {
        Arc::clone(&self.policy.borrow())
    }
}

/// The whole API.
pub(crate) fn router(service: Arc<Service>) -> Router {
    let admin = admin::routes().route_layer(from_fn_with_state(Arc::clone(&service), authenticate::admin));
    let filter = filter::routes().route_layer(from_fn_with_state(Arc::clone(&service), authenticate::filter));
    Router::new()
        .merge(admin)
        .merge(filter)
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
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

/// Ready means: the database answers, and a policy is loaded (without one the service does not start).
async fn ready(State(service): State<Arc<Service>>) -> Result<&'static str, Refused> {
    service.store.ping().await?;
    Ok("ready\n")
}

async fn metrics(State(service): State<Arc<Service>>) -> Response {
    match service.metrics.text(service.store.queue_depth()) {
        Ok(text) => ([(header::CONTENT_TYPE, Metrics::MEDIA_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
