//! Gives every request an id, a deadline, a log line and a count, and completes problems with the id.

use super::Service;
use super::problem::{Code, Refused};
use crate::metrics::RequestLabels;
use crate::moment;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use protocol::is_plain_id;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tracing::{debug, info};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Tells a ledger from a gate or another server.
const LEDGER: HeaderName = HeaderName::from_static("x-agentrelay-ledger");
/// Longer than the longest poll of the change feed.
const DEADLINE: Duration = Duration::from_secs(35);

/// Keeps the request's own `X-Request-Id` if it is well-formed, logs and counts the request, and renders problems.
pub(super) async fn request(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = known_method(request.method());
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unmatched".to_owned(), |path| path.as_str().to_owned());
    let sent_id = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let id = match sent_id.filter(|id| is_plain_id(id)) {
        Some(id) => id.to_owned(),
        None => moment::new_name("req_"),
    };
    let mut response = next.run(request).await;
    if let Some(refused) = response.extensions_mut().remove::<Refused>() {
        let code = refused.code;
        let mut answer = refused.answer(&id);
        // What axum knows of the route, `Allow` above all, stays.
        for (name, value) in response.headers() {
            if !answer.headers().contains_key(name) && name != axum::http::header::CONTENT_LENGTH {
                answer.headers_mut().append(name, value.clone());
            }
        }
        info!(request_id = %id, method, route, status = answer.status().as_u16(), ?code, "refused");
        response = answer;
    } else if route.starts_with("/v1/") {
        let ms = began.elapsed().as_millis();
        info!(request_id = %id, method, route, status = response.status().as_u16(), ms, "answered");
    } else {
        let ms = began.elapsed().as_millis();
        debug!(request_id = %id, method, route, status = response.status().as_u16(), ms, "answered");
    }
    response.headers_mut().insert(LEDGER, HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let status = response.status().as_u16();
    service.metrics.requests.get_or_create(&RequestLabels { method, route, status }).inc();
    response
}

/// Ends a request that takes too long, including the time in which its body arrives.
pub(super) async fn deadline(request: Request, next: Next) -> Response {
    match timeout(DEADLINE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            Refused::new(Code::LedgerUnavailable, "the request took too long; try again, with the same ids")
                .into_response()
        }
    }
}

/// Clients can send any method, so all unknown ones share one label of the metric.
fn known_method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}
