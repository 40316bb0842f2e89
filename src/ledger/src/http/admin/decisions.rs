//! Why a request ended as it did.

use crate::audit::explain::{Known, explain};
use crate::http::Service;
use crate::http::api::Endpoint;
use crate::http::caller::Caller;
use crate::http::extract::Id;
use crate::http::problem::{Code, Refused};
use crate::model::event::Kind;
use crate::store::AuditFilter;
use axum::extract::State;
use axum::{Extension, Json};
use protocol::EventId;
use protocol::admin::{Explanation, Moment};
use protocol::audit::Decision;
use std::sync::Arc;

/// Most events of one request that are shown.
const EVENTS_MAX: u32 = 100;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/v1/decisions/{id}", show)
            .summary("Explain why a request was allowed or refused, and what would change it")
            .answers::<Explanation>(200),
    ]
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<EventId>,
) -> Result<Json<Explanation>, Refused> {
    let filter = AuditFilter {
        tenant_id: caller.tenant().cloned(),
        request_id: Some(id),
        limit: EVENTS_MAX,
        ..AuditFilter::default()
    };
    let mut rows = service.store.audit(filter).await?;
    rows.reverse();
    let decided = rows.iter().position(|row| row.kind == Kind::Decision.as_str());
    let Some(row) = decided.map(|place| rows.remove(place)) else { return Err(unknown(!rows.is_empty())) };
    let decision: Decision = serde_json::from_str(row.detail.get()).map_err(|_| {
        Refused::new(Code::NotFound, "another release wrote this decision; see GET /v1/audit")
    })?;
    let key = match &decision.key_id {
        Some(id) => service.store.key(id.clone()).await?,
        None => None,
    };
    let tenant = match &decision.tenant_id {
        Some(id) => service.store.tenant(id.clone()).await?,
        None => None,
    };
    let known = Known {
        key_name: key.map(|listed| listed.key.name),
        tenant: tenant.map(|(tenant, _)| tenant),
        policy: Some(service.newest_policy().await.version().clone()),
        events: rows
            .into_iter()
            .map(|row| Moment { sequence: row.sequence, recorded_at: row.recorded_at, kind: row.kind })
            .collect(),
    };
    Ok(Json(explain(decision, known)))
}

fn unknown(is_in_progress: bool) -> Refused {
    let detail = if is_in_progress {
        "this request is not decided yet, or its Envoy ended before it told; GET /v1/audit?request_id= shows what is known"
    } else {
        "no decision has this id: Envoys tell theirs within seconds, requests without a usable key (401) are only counted, \
         and old rows are removed by retention"
    };
    Refused::new(Code::NotFound, detail)
}
