//! Leases.

use super::{limit, page};
use crate::book::lease;
use crate::http::Service;
use crate::http::api::Endpoint;
use crate::http::caller::Caller;
use crate::http::extract::Params;
use crate::http::problem::Refused;
use crate::store::LeaseFilter;
use axum::extract::State;
use axum::{Extension, Json};
use protocol::admin::{Lease, LeaseState, Page};
use protocol::{LeaseId, TenantId};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/v1/leases", list)
            .summary("List credits that Envoys hold or held")
            .query::<ListParams>()
            .answers::<Page<Lease>>(200),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    /// Only this tenant's
    tenant_id: Option<TenantId>,
    /// Only those in this state
    state: Option<LeaseState>,
    /// The `next_cursor` of the page before
    cursor: Option<LeaseId>,
    /// Items on the page
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<u32>,
}

pub(super) async fn list(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Params(params): Params<ListParams>,
) -> Result<Json<Page<Lease>>, Refused> {
    let limit = limit(params.limit)?;
    let filter = LeaseFilter {
        tenant_id: caller.narrow(params.tenant_id)?,
        state: params.state,
        after: params.cursor,
        limit: limit.saturating_add(1),
    };
    let found = service.store.leases(filter).await?;
    let shown = found.into_iter().map(lease::Lease::shown).collect();
    Ok(Json(page(shown, limit, |lease| lease.id.to_string())))
}
