//! `/v1`: what administrators ask. Bodies and answers are `protocol::admin`'s.

mod check;
mod keys;
mod reports;
mod tenants;

use super::Service;
use super::problem::Refused;
use axum::Router;
use axum::routing::{get, post};
use protocol::admin::Page;
use std::sync::Arc;

pub(super) fn routes() -> Router<Arc<Service>> {
    Router::new()
        .route("/v1/tenants", post(tenants::create).get(tenants::list))
        .route("/v1/tenants/{id}", get(tenants::show))
        .route("/v1/tenants/{id}/credits", post(tenants::grant))
        .route("/v1/tenants/{id}/balance", get(tenants::balance))
        .route("/v1/keys", post(keys::create).get(keys::list))
        .route("/v1/keys/{id}", get(keys::show))
        .route("/v1/keys/{id}/rotate", post(keys::rotate))
        .route("/v1/keys/{id}/revoke", post(keys::revoke))
        .route("/v1/usage", get(reports::usage))
        .route("/v1/audit", get(reports::audit))
        .route("/v1/policy", get(reports::policy))
        .route("/v1/tiers", get(reports::tiers))
        .route("/v1/tools", get(reports::tools))
}

/// Items on a page unless asked otherwise, and at most.
const LIMIT: u32 = 100;
const LIMIT_MAX: u32 = 1000;

fn limit(asked: Option<u32>) -> Result<u32, Refused> {
    match asked.unwrap_or(LIMIT) {
        limit @ 1..=LIMIT_MAX => Ok(limit),
        _ => Err(Refused::invalid(format!("limit: must be 1 to {LIMIT_MAX}"))),
    }
}

/// A page of at most `limit` items out of what was found, which is one more where there is another page.
fn page<T>(mut items: Vec<T>, limit: u32, cursor: impl Fn(&T) -> String) -> Page<T> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = items.len() > limit;
    items.truncate(limit);
    let next_cursor = items.last().filter(|_| more).map(cursor);
    Page { items, next_cursor }
}
