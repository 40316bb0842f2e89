//! Tenants and their credits.

use super::{check, limit, page};
use crate::http::Service;
use crate::http::authenticate::Actor;
use crate::http::extract::{Body, Id, Params, idempotency};
use crate::http::problem::{Code, Refused};
use crate::{moment, tenants};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use protocol::admin::{Balance, CreateTenant, CreditsGranted, GrantCredits, Page, Tenant};
use protocol::{TenantId, TransferId};
use serde::Deserialize;
use std::sync::Arc;

pub(super) async fn create(
    State(service): State<Arc<Service>>,
    Extension(Actor(actor)): Extension<Actor>,
    headers: HeaderMap,
    Body(create): Body<CreateTenant>,
) -> Result<(StatusCode, Json<Tenant>), Refused> {
    let idempotency = idempotency(&headers, &actor, "POST /v1/tenants".to_owned(), &create)?;
    check::name(&create.name)?;
    if service.policy().policy.tier(&create.tier).is_none() {
        return Err(Refused::invalid("tier: the policy has no tier of this name; see GET /v1/tiers"));
    }
    let now = moment::now();
    let credits = match create.credits {
        Some(credits) => Some((credits, moment::fresh_id("trf_", TransferId::parse)?)),
        None => None,
    };
    let tenant = tenants::Tenant {
        id: moment::fresh_id("ten_", TenantId::parse)?,
        name: create.name,
        tier: create.tier,
        created_at: now,
        suspended_at: None,
    };
    let actor = actor.as_ref().to_owned();
    let tenant = service.store.run(tenants::Create { tenant, credits, actor, idempotency, now }).await?;
    Ok((StatusCode::CREATED, Json(tenant)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    cursor: Option<TenantId>,
    limit: Option<u32>,
}

pub(super) async fn list(
    State(service): State<Arc<Service>>,
    Params(params): Params<ListParams>,
) -> Result<Json<Page<Tenant>>, Refused> {
    let limit = limit(params.limit)?;
    let found = service.store.tenants(params.cursor, limit.saturating_add(1)).await?;
    let shown = found.into_iter().map(|(tenant, accounts)| tenant.shown(&accounts)).collect();
    Ok(Json(page(shown, limit, |tenant| tenant.id.to_string())))
}

async fn found(service: &Service, id: TenantId) -> Result<Tenant, Refused> {
    let found = service.store.tenant(id).await?;
    let (tenant, accounts) = found.ok_or_else(|| Refused::new(Code::NotFound, "no tenant has this id"))?;
    Ok(tenant.shown(&accounts))
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Id(id): Id<TenantId>,
) -> Result<Json<Tenant>, Refused> {
    found(&service, id).await.map(Json)
}

pub(super) async fn balance(
    State(service): State<Arc<Service>>,
    Id(id): Id<TenantId>,
) -> Result<Json<Balance>, Refused> {
    found(&service, id).await.map(|tenant| Json(tenant.balance))
}

pub(super) async fn grant(
    State(service): State<Arc<Service>>,
    Extension(Actor(actor)): Extension<Actor>,
    Id(tenant_id): Id<TenantId>,
    headers: HeaderMap,
    Body(grant): Body<GrantCredits>,
) -> Result<(StatusCode, Json<CreditsGranted>), Refused> {
    let route = format!("POST /v1/tenants/{tenant_id}/credits");
    let idempotency = idempotency(&headers, &actor, route, &grant)?;
    check::reason(&grant.reason)?;
    let operation = tenants::Grant {
        tenant_id,
        amount: grant.amount,
        reason: grant.reason,
        id: moment::fresh_id("trf_", TransferId::parse)?,
        actor: actor.as_ref().to_owned(),
        idempotency,
        now: moment::now(),
    };
    Ok((StatusCode::CREATED, Json(service.store.run(operation).await?)))
}
