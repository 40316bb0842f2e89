//! Keys. A secret is in the answer that made it and nowhere else.

use super::agents::of_own_tenant;
use super::{limit, page};
use crate::http::Service;
use crate::http::api::Endpoint;
use crate::http::caller::Caller;
use crate::http::check;
use crate::http::extract::{Body, Id, Params, Submitted, Tagged, if_match};
use crate::http::problem::{Code, Refused};
use crate::identity::keys;
use crate::model::key::{self, Listed};
use crate::model::spending::SpendingKey;
use crate::moment;
use crate::policies::unknown::{Used, unknown};
use crate::store::KeyFilter;
use crate::transaction::idempotency::Once;
use crate::transaction::{Error, Refusal};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use protocol::admin::{Budget, CreateKey, Key, KeyWithSecret, Page, Reason, RotateKey, UpdateKey};
use protocol::api_key::{KeyHash, Kind};
use protocol::key::{KeySource, KeyState, Limit};
use protocol::{AgentId, KeyId, TenantId};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/v1/keys/{id}/budget", budget)
            .summary("Show what a key may spend and has spent this month")
            .answers::<Budget>(200),
        Endpoint::post("/v1/keys", create)
            .summary("Create a key; its secret is in this answer and nowhere else")
            .query::<NamesParams>()
            .body::<CreateKey>()
            .answers::<KeyWithSecret>(201),
        Endpoint::get("/v1/keys", list).summary("List keys").query::<ListParams>().answers::<Page<Key>>(200),
        Endpoint::get("/v1/keys/{id}", show).summary("Show a key").with_etag().answers::<Key>(200),
        Endpoint::patch("/v1/keys/{id}", update)
            .summary("Change what a key may do")
            .with_etag()
            .query::<NamesParams>()
            .body::<UpdateKey>()
            .answers::<Key>(200),
        Endpoint::post("/v1/keys/{id}/rotate", rotate)
            .summary("Give a key a new secret; the old one works until the grace is over")
            .body::<RotateKey>()
            .answers::<KeyWithSecret>(200),
        Endpoint::post("/v1/keys/{id}/expire", expire)
            .summary("Expire a key now")
            .body::<Reason>()
            .answers::<Key>(200),
        Endpoint::post("/v1/keys/{id}/revoke", revoke)
            .summary("Revoke a key for good")
            .body::<Reason>()
            .answers::<Key>(200),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NamesParams {
    /// Take names of scopes, services and tools that the policy in force lacks: for a policy to come
    #[serde(default)]
    allow_unknown: bool,
}

impl NamesParams {
    /// Refuses names that the policy lacks and the key did not have before.
    async fn check(&self, service: &Service, used: Used<'_>, before: Used<'_>) -> Result<(), Refused> {
        if self.allow_unknown {
            return Ok(());
        }
        let unknown = unknown(&*service.newest_policy().await, used, before);
        if unknown.is_empty() {
            return Ok(());
        }
        Err(Refused::invalid(format!(
            "{}\n(for names of a policy to come: ?allow_unknown=true, on the command line --allow-unknown)",
            unknown.join("\n")
        )))
    }
}

pub(super) async fn create(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Params(names): Params<NamesParams>,
    Submitted { body: create, idempotency }: Submitted<CreateKey>,
) -> Result<(StatusCode, Json<KeyWithSecret>), Refused> {
    let now = moment::now();
    check::key(&create, now)?;
    of_own_tenant(&caller, &create.tenant_id)?;
    let used =
        Used { scopes: &create.scopes, services: create.services.as_deref(), tools: create.tools.as_deref() };
    names.check(&service, used, Used::default()).await?;
    let secret = moment::new_secret(Kind::Agent)?;
    let key = key::Key {
        id: moment::new_id("key_", KeyId::parse)?,
        tenant_id: create.tenant_id,
        name: create.name,
        scopes: create.scopes,
        services: create.services,
        tools: create.tools,
        resources: create.resources,
        limits: create.limits.unwrap_or_default(),
        concurrency: create.concurrency,
        expires_at: create.expires_at,
        agent_id: create.agent_id,
        budget: create.budget,
        version: 1,
        source: KeySource::Admin,
        created_at: now,
        revoked_at: None,
        last_used_at: None,
        parent: None,
    };
    let hash = KeyHash::of(secret.as_bytes());
    let listed = service.store.run(keys::Create { key, hash, actor: caller.id(), idempotency }).await;
    let listed = listed.map_err(|error| match error {
        Error::Refused(Refusal::TenantUnknown) => Refused::invalid("tenant_id: no tenant has this id"),
        other => Refused::from(other),
    })?;
    let key = with_warnings(&service, listed.shown(now)).await?;
    Ok((StatusCode::CREATED, Json(KeyWithSecret { key, secret })))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    /// Only this tenant's
    tenant_id: Option<TenantId>,
    /// Only this agent's
    agent_id: Option<AgentId>,
    /// Only those that came to be this way
    source: Option<KeySource>,
    /// Only those in this state
    state: Option<KeyState>,
    /// The `next_cursor` of the page before
    cursor: Option<KeyId>,
    /// Items on the page
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<u32>,
}

pub(super) async fn list(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Params(params): Params<ListParams>,
) -> Result<Json<Page<Key>>, Refused> {
    let limit = limit(params.limit)?;
    let now = moment::now();
    let filter = KeyFilter {
        tenant_id: caller.narrow(params.tenant_id)?,
        agent_id: params.agent_id,
        source: params.source,
        state: params.state,
        now,
        after: params.cursor,
        limit: limit.saturating_add(1),
    };
    let shown = service.store.keys(filter).await?.into_iter().map(|listed| listed.shown(now)).collect();
    Ok(Json(page(shown, limit, |key: &Key| key.id.to_string())))
}

async fn found(service: &Service, caller: &Caller, id: KeyId) -> Result<Listed, Refused> {
    let found = service.store.key(id).await?;
    let listed = found.ok_or_else(|| Refused::new(Code::NotFound, "no key has this id"))?;
    caller.own(&listed.key.tenant_id, "key")?;
    Ok(listed)
}

async fn tagged(service: &Service, listed: Listed) -> Result<Tagged<Key>, Refused> {
    let version = listed.key.version.to_string();
    Ok(Tagged(version, with_warnings(service, listed.shown(moment::now())).await?))
}

/// The key with what of it has no effect. A limit of the tenant's tier counts the key's requests too, so one of the key that is
/// never reached before it refuses nothing, until the tenant has another tier.
async fn with_warnings(service: &Service, key: Key) -> Result<Key, Refused> {
    if key.limits.is_empty() {
        return Ok(key);
    }
    let tenant = service.store.tenant(key.tenant_id.clone()).await?;
    let policy = service.newest_policy().await;
    let tier = tenant.and_then(|(tenant, _)| policy.policy.tier(&tenant.tier));
    let hidden = |limit: &Limit| {
        let tier = tier?;
        let own = tier.limits.iter().find(|own| own.hides(*limit))?.limit;
        Some(format!(
            "the limit of {} in {} s is never reached: tier {} has {} in {} s, which counts too",
            limit.permits, limit.window_seconds, tier.name, own.permits, own.window_seconds
        ))
    };
    let warnings = key.limits.iter().filter_map(hidden).collect();
    Ok(Key { warnings, ..key })
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<KeyId>,
) -> Result<Tagged<Key>, Refused> {
    let listed = found(&service, &caller, id).await?;
    tagged(&service, listed).await
}

pub(super) async fn budget(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<KeyId>,
) -> Result<Json<Budget>, Refused> {
    let key = found(&service, &caller, id).await?.key;
    let month = moment::now().month();
    let at = SpendingKey { tenant_id: key.tenant_id, key_id: Some(key.id), month };
    let spent = service.store.spent(at).await?;
    Ok(Json(Budget { month: month.to_string(), budget: key.budget, spent }))
}

pub(super) async fn update(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<KeyId>,
    Params(names): Params<NamesParams>,
    headers: HeaderMap,
    Body(update): Body<UpdateKey>,
) -> Result<Tagged<Key>, Refused> {
    let now = moment::now();
    check::update(&update, now)?;
    let key = found(&service, &caller, id).await?.key;
    let used = Used {
        scopes: update.scopes.as_deref().unwrap_or_default(),
        services: update.services.set().map(Vec::as_slice),
        tools: update.tools.set().map(Vec::as_slice),
    };
    let before = Used { scopes: &key.scopes, services: key.services.as_deref(), tools: key.tools.as_deref() };
    names.check(&service, used, before).await?;
    let key::Key { id: key_id, version, .. } = key;
    let if_version = if_match(&headers, &version.to_string())?.then_some(version);
    let operation = keys::Update { key_id, update, if_version, actor: caller.id(), now };
    let listed = service.store.run(operation).await.map_err(administered)?;
    tagged(&service, listed).await
}

/// 403 would mean that the caller's credential is inactive. Here the administered key is, so the answer is 409.
fn administered(error: Error) -> Refused {
    match error {
        Error::Refused(Refusal::KeyInactive(KeyState::Revoked)) => {
            Refused::new(Code::Conflict, "the key is revoked, for good; create a new one")
        }
        Error::Refused(Refusal::KeyInactive(_)) => {
            Refused::new(Code::Conflict, "the key has expired; give it another end, or create a new one")
        }
        other => Refused::from(other),
    }
}

pub(super) async fn rotate(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<KeyId>,
    Submitted { body: rotate, idempotency }: Submitted<RotateKey>,
) -> Result<Json<KeyWithSecret>, Refused> {
    check::grace(rotate.grace_seconds)?;
    rotate.reason.as_deref().map_or(Ok(()), check::reason)?;
    let key_id = found(&service, &caller, id).await?.key.id;
    let secret = moment::new_secret(Kind::Agent)?;
    let now = moment::now();
    let operation = keys::Rotate {
        key_id,
        hash: KeyHash::of(secret.as_bytes()),
        grace_seconds: rotate.grace_seconds,
        reason: rotate.reason,
        idempotency,
        actor: caller.id(),
        now,
    };
    let listed = service.store.run(operation).await.map_err(administered)?;
    Ok(Json(KeyWithSecret { key: listed.shown(now), secret }))
}

pub(super) async fn expire(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<KeyId>,
    Submitted { body: reason, idempotency }: Submitted<Reason>,
) -> Result<Json<Key>, Refused> {
    check::reason(&reason.reason)?;
    let key_id = found(&service, &caller, id).await?.key.id;
    let now = moment::now();
    let operation = keys::Expire { key_id, reason: reason.reason, actor: caller.id(), now };
    let once = Once { operation, idempotency, shown: Listed::shown, now };
    service.store.run(once).await.map(Json).map_err(administered)
}

pub(super) async fn revoke(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<KeyId>,
    Submitted { body: reason, idempotency }: Submitted<Reason>,
) -> Result<Json<Key>, Refused> {
    check::reason(&reason.reason)?;
    let key_id = found(&service, &caller, id).await?.key.id;
    let now = moment::now();
    let operation = keys::Revoke { key_id, reason: reason.reason, actor: caller.id(), now };
    let once = Once { operation, idempotency, shown: Listed::shown, now };
    Ok(Json(service.store.run(once).await?))
}
