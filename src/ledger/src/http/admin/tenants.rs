//! Tenants and their credits.

use super::{limit, page};
use crate::book::Accounts;
use crate::http::Service;
use crate::http::api::Endpoint;
use crate::http::caller::Caller;
use crate::http::check;
use crate::http::extract::{Body, Id, Params, Submitted, Tagged, if_match};
use crate::http::problem::{Code, Refused};
use crate::model::replay::Idempotency;
use crate::model::spending::SpendingKey;
use crate::model::tenant;
use crate::moment;
use crate::money::tenants::{self, Alter, Change, Refunded};
use crate::policies::unknown;
use crate::transaction::idempotency::Once;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use protocol::admin::{
    Balance, Budget, CorrectCredits, CreateTenant, CreditsGranted, Direction, GrantCredits, Page, Reason,
    Tenant, UpdateTenant,
};
use protocol::{TenantId, TransferId};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/v1/tenants", create)
            .summary("Create a tenant")
            .for_all_tenants()
            .body::<CreateTenant>()
            .answers::<Tenant>(201),
        Endpoint::get("/v1/tenants", list)
            .summary("List tenants")
            .query::<ListParams>()
            .answers::<Page<Tenant>>(200),
        Endpoint::get("/v1/tenants/{id}", show).summary("Show a tenant").with_etag().answers::<Tenant>(200),
        Endpoint::patch("/v1/tenants/{id}", update)
            .summary("Change a tenant's name, tier or budget")
            .for_all_tenants()
            .with_etag()
            .body::<UpdateTenant>()
            .answers::<Tenant>(200),
        Endpoint::post("/v1/tenants/{id}/suspend", suspend)
            .summary("Refuse a tenant's keys")
            .for_all_tenants()
            .with_etag()
            .body::<Reason>()
            .answers::<Tenant>(200),
        Endpoint::post("/v1/tenants/{id}/resume", resume)
            .summary("Accept a tenant's keys again")
            .for_all_tenants()
            .with_etag()
            .body::<Reason>()
            .answers::<Tenant>(200),
        Endpoint::post("/v1/tenants/{id}/credits", grant)
            .summary("Grant a tenant credits")
            .for_all_tenants()
            .body::<GrantCredits>()
            .answers::<CreditsGranted>(201),
        Endpoint::post("/v1/tenants/{id}/corrections", correct)
            .summary("Undo what was charged or granted")
            .for_all_tenants()
            .body::<CorrectCredits>()
            .answers::<CreditsGranted>(201),
        Endpoint::get("/v1/tenants/{id}/balance", balance)
            .summary("Show a tenant's balance")
            .answers::<Balance>(200),
        Endpoint::get("/v1/tenants/{id}/budget", budget)
            .summary("Show what a tenant may spend and has spent this month")
            .answers::<Budget>(200),
    ]
}

async fn check_tier(service: &Service, tier: &str) -> Result<(), Refused> {
    unknown::tier(&*service.newest_policy().await, tier).map_or(Ok(()), |fault| Err(Refused::invalid(fault)))
}

pub(super) async fn create(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Submitted { body: create, idempotency }: Submitted<CreateTenant>,
) -> Result<(StatusCode, Json<Tenant>), Refused> {
    check::name(&create.name)?;
    check_tier(&service, &create.tier).await?;
    let now = moment::now();
    let credits = match create.credits {
        Some(credits) => Some((credits, moment::new_id("trf_", TransferId::parse)?)),
        None => None,
    };
    let tenant = tenant::Tenant {
        id: moment::new_id("ten_", TenantId::parse)?,
        name: create.name,
        tier: create.tier,
        created_at: now,
        suspended_at: None,
        budget: create.budget,
        version: 1,
    };
    let operation = tenants::Create { tenant, credits, actor: caller.id(), idempotency, now };
    Ok((StatusCode::CREATED, Json(service.store.run(operation).await?)))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    /// The `next_cursor` of the page before
    cursor: Option<TenantId>,
    /// Items on the page
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<u32>,
}

/// A credential held to one tenant gets a list of that tenant alone.
pub(super) async fn list(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Params(params): Params<ListParams>,
) -> Result<Json<Page<Tenant>>, Refused> {
    let limit = limit(params.limit)?;
    let found = match caller.tenant() {
        Some(own) => service.store.tenant(own.clone()).await?.into_iter().collect(),
        None => service.store.tenants(params.cursor, limit.saturating_add(1)).await?,
    };
    let shown = found.into_iter().map(|(tenant, accounts)| tenant.shown(&accounts)).collect();
    Ok(Json(page(shown, limit, |tenant| tenant.id.to_string())))
}

async fn found(
    service: &Service,
    caller: &Caller,
    id: TenantId,
) -> Result<(tenant::Tenant, Accounts), Refused> {
    caller.own(&id, "tenant")?;
    let found = service.store.tenant(id).await?;
    found.ok_or_else(|| Refused::new(Code::NotFound, "no tenant has this id"))
}

fn tagged((tenant, accounts): (tenant::Tenant, Accounts)) -> Tagged<Tenant> {
    Tagged(tenant.version.to_string(), tenant.shown(&accounts))
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<TenantId>,
) -> Result<Tagged<Tenant>, Refused> {
    found(&service, &caller, id).await.map(tagged)
}

pub(super) async fn balance(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<TenantId>,
) -> Result<Json<Balance>, Refused> {
    found(&service, &caller, id).await.map(|(_, accounts)| Json(accounts.balance()))
}

pub(super) async fn budget(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<TenantId>,
) -> Result<Json<Budget>, Refused> {
    let (tenant, _) = found(&service, &caller, id).await?;
    let month = moment::now().month();
    let spent = service.store.spent(SpendingKey { tenant_id: tenant.id, key_id: None, month }).await?;
    Ok(Json(Budget { month: month.to_string(), budget: tenant.budget, spent }))
}

pub(super) async fn update(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Id(tenant_id): Id<TenantId>,
    headers: HeaderMap,
    Body(update): Body<UpdateTenant>,
) -> Result<Tagged<Tenant>, Refused> {
    let UpdateTenant { name, tier, budget, reason } = update;
    name.as_deref().map_or(Ok(()), check::name)?;
    if let Some(tier) = &tier {
        check_tier(&service, tier).await?;
    }
    check::reason(&reason)?;
    let (tenant::Tenant { id: tenant_id, version, .. }, _) = found(&service, &caller, tenant_id).await?;
    let if_version = if_match(&headers, &version.to_string())?.then_some(version);
    let (change, now) = (Change::Update { name, tier, budget }, moment::now());
    let operation = Alter { tenant_id, change, if_version, reason, actor: caller.id(), now };
    Ok(tagged(service.store.run(operation).await?))
}

pub(super) async fn suspend(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<TenantId>,
    Submitted { body: reason, idempotency }: Submitted<Reason>,
) -> Result<Tagged<Tenant>, Refused> {
    once(&service, &caller, id, Change::Suspend, reason, idempotency).await
}

pub(super) async fn resume(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<TenantId>,
    Submitted { body: reason, idempotency }: Submitted<Reason>,
) -> Result<Tagged<Tenant>, Refused> {
    once(&service, &caller, id, Change::Resume, reason, idempotency).await
}

async fn once(
    service: &Service,
    caller: &Caller,
    tenant_id: TenantId,
    change: Change,
    reason: Reason,
    idempotency: Option<Idempotency>,
) -> Result<Tagged<Tenant>, Refused> {
    let reason = reason.reason;
    check::reason(&reason)?;
    let now = moment::now();
    let operation = Alter { tenant_id, change, if_version: None, reason, actor: caller.id(), now };
    let shown = |(tenant, accounts): (tenant::Tenant, Accounts), _| (tenant.version, tenant.shown(&accounts));
    let (version, tenant) = service.store.run(Once { operation, idempotency, shown, now }).await?;
    Ok(Tagged(version.to_string(), tenant))
}

pub(super) async fn grant(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Id(tenant_id): Id<TenantId>,
    Submitted { body: grant, idempotency }: Submitted<GrantCredits>,
) -> Result<(StatusCode, Json<CreditsGranted>), Refused> {
    check::reason(&grant.reason)?;
    let operation = tenants::Grant {
        tenant_id,
        amount: grant.amount,
        reason: grant.reason,
        id: moment::new_id("trf_", TransferId::parse)?,
        actor: caller.id(),
        idempotency,
        now: moment::now(),
    };
    Ok((StatusCode::CREATED, Json(service.store.run(operation).await?)))
}

pub(super) async fn correct(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Id(tenant_id): Id<TenantId>,
    Submitted { body: correct, idempotency }: Submitted<CorrectCredits>,
) -> Result<(StatusCode, Json<CreditsGranted>), Refused> {
    check::reason(&correct.reason)?;
    let of = match (correct.reservation_id, correct.key_id) {
        (Some(id), None) => Refunded::Reservation(id),
        (None, Some(id)) => Refunded::Key(id),
        (None, None) => Refunded::Anything,
        (Some(_), Some(_)) => {
            return Err(Refused::invalid("reservation_id, key_id: give one; a reservation has its key"));
        }
    };
    if correct.direction == Direction::Withdraw && of != Refunded::Anything {
        let why = "reservation_id, key_id: say what a refund is for; a withdrawal is of what is available";
        return Err(Refused::invalid(why));
    }
    let operation = tenants::Correct {
        of,
        tenant_id,
        direction: correct.direction,
        amount: correct.amount,
        reason: correct.reason,
        id: moment::new_id("trf_", TransferId::parse)?,
        actor: caller.id(),
        idempotency,
        now: moment::now(),
    };
    Ok((StatusCode::CREATED, Json(service.store.run(operation).await?)))
}
