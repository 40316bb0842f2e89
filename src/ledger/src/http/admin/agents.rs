//! Agents.

use super::{limit, page};
use crate::http::Service;
use crate::http::api::Endpoint;
use crate::http::caller::Caller;
use crate::http::check;
use crate::http::extract::{Id, Params, Submitted};
use crate::http::problem::{Code, Refused};
use crate::identity::agents;
use crate::moment;
use crate::store::AgentFilter;
use crate::transaction::{Error, Refusal};
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use protocol::admin::{Agent, CreateAgent, Page};
use protocol::{AgentId, TenantId};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/v1/agents", create)
            .summary("Register an agent")
            .body::<CreateAgent>()
            .answers::<Agent>(201),
        Endpoint::get("/v1/agents", list)
            .summary("List agents")
            .query::<ListParams>()
            .answers::<Page<Agent>>(200),
        Endpoint::get("/v1/agents/{id}", show).summary("Show an agent").answers::<Agent>(200),
    ]
}

/// Refuses another tenant than the caller's own, in the same words as a tenant that does not exist.
pub(super) fn of_own_tenant(caller: &Caller, tenant_id: &TenantId) -> Result<(), Refused> {
    caller.own(tenant_id, "tenant").map_err(|_| Refused::invalid("tenant_id: no tenant has this id"))
}

pub(super) async fn create(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Submitted { body: create, idempotency }: Submitted<CreateAgent>,
) -> Result<(StatusCode, Json<Agent>), Refused> {
    check::name(&create.name)?;
    of_own_tenant(&caller, &create.tenant_id)?;
    let agent = Agent {
        id: moment::fresh_id("agt_", AgentId::parse)?,
        tenant_id: create.tenant_id,
        name: create.name,
        created_at: moment::now(),
    };
    let operation = agents::Create { agent, actor: caller.id(), idempotency };
    let agent = service.store.run(operation).await.map_err(|error| match error {
        Error::Refused(Refusal::TenantUnknown) => Refused::invalid("tenant_id: no tenant has this id"),
        other => Refused::from(other),
    })?;
    Ok((StatusCode::CREATED, Json(agent)))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    /// Only this tenant's
    tenant_id: Option<TenantId>,
    /// The `next_cursor` of the page before
    cursor: Option<AgentId>,
    /// Items on the page
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<u32>,
}

pub(super) async fn list(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Params(params): Params<ListParams>,
) -> Result<Json<Page<Agent>>, Refused> {
    let limit = limit(params.limit)?;
    let filter = AgentFilter {
        tenant_id: caller.narrow(params.tenant_id)?,
        id: None,
        after: params.cursor,
        limit: limit.saturating_add(1),
    };
    Ok(Json(page(service.store.agents(filter).await?, limit, |agent| agent.id.to_string())))
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<AgentId>,
) -> Result<Json<Agent>, Refused> {
    let filter = AgentFilter { id: Some(id), limit: 1, ..AgentFilter::default() };
    let found = service.store.agents(filter).await?.into_iter().next();
    let agent = found.ok_or_else(|| Refused::new(Code::NotFound, "no agent has this id"))?;
    caller.own(&agent.tenant_id, "agent")?;
    Ok(Json(agent))
}
