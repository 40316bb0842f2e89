//! Reservations that expired before any Envoy accounted for them.

use super::{limit, page};
use crate::book;
use crate::http::Service;
use crate::http::api::Endpoint;
use crate::http::caller::Caller;
use crate::http::extract::Params;
use crate::http::problem::Refused;
use crate::store::ReservationFilter;
use axum::extract::State;
use axum::{Extension, Json};
use protocol::admin::{Page, Reservation, ReservationState};
use protocol::{ReservationId, TenantId};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/v1/reservations", list)
            .summary("List calls whose reservation ended without an account of them")
            .query::<ListParams>()
            .answers::<Page<Reservation>>(200),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    /// Only this tenant's
    tenant_id: Option<TenantId>,
    /// Only those in this state
    state: Option<ReservationState>,
    /// The `next_cursor` of the page before
    cursor: Option<ReservationId>,
    /// Items on the page
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<u32>,
}

pub(super) async fn list(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Params(params): Params<ListParams>,
) -> Result<Json<Page<Reservation>>, Refused> {
    let limit = limit(params.limit)?;
    let filter = ReservationFilter {
        tenant_id: caller.narrow(params.tenant_id)?,
        state: params.state,
        after: params.cursor,
        limit: limit.saturating_add(1),
    };
    let found = service.store.reservations(filter).await?;
    let shown = found.into_iter().filter_map(book::Reservation::shown).collect();
    Ok(Json(page(shown, limit, |reservation| reservation.id.to_string())))
}
