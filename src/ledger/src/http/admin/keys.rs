//! Keys. A secret is in the answer that made it and nowhere else.

use super::{check, limit, page};
use crate::http::Service;
use crate::http::authenticate::Actor;
use crate::http::extract::{Body, Id, Params, idempotency};
use crate::http::problem::{Code, Refused};
use crate::store::{Error, KeyFilter, Refusal};
use crate::{keys, moment};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use protocol::admin::{CreateKey, Key, KeyWithSecret, Page, RevokeKey, RotateKey};
use protocol::api_key::{KeyHash, Kind};
use protocol::key::{KeySource, KeyState};
use protocol::{KeyId, TenantId};
use serde::Deserialize;
use std::sync::Arc;

pub(super) async fn create(
    State(service): State<Arc<Service>>,
    Extension(Actor(actor)): Extension<Actor>,
    headers: HeaderMap,
    Body(create): Body<CreateKey>,
) -> Result<(StatusCode, Json<KeyWithSecret>), Refused> {
    let idempotency = idempotency(&headers, &actor, "POST /v1/keys".to_owned(), &create)?;
    let now = moment::now();
    check::key(&create, now)?;
    let secret = moment::fresh_secret(Kind::Agent)?;
    let key = keys::Key {
        id: moment::fresh_id("key_", KeyId::parse)?,
        tenant_id: create.tenant_id,
        name: create.name,
        scopes: create.scopes,
        services: create.services,
        tools: create.tools,
        resources: create.resources,
        limits: create.limits.unwrap_or_default(),
        expires_at: create.expires_at,
        agent_id: create.agent_id,
        source: KeySource::Admin,
        created_at: now,
        revoked_at: None,
        last_used_at: None,
    };
    let hash = KeyHash::of(secret.as_bytes());
    let actor = actor.as_ref().to_owned();
    let listed = service.store.run(keys::Create { key, hash, actor, idempotency }).await;
    let listed = listed.map_err(|error| match error {
        Error::Refused(Refusal::TenantUnknown) => Refused::invalid("tenant_id: no tenant has this id"),
        other => Refused::from(other),
    })?;
    Ok((StatusCode::CREATED, Json(KeyWithSecret { key: listed.shown(now), secret })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    tenant_id: Option<TenantId>,
    state: Option<KeyState>,
    cursor: Option<KeyId>,
    limit: Option<u32>,
}

pub(super) async fn list(
    State(service): State<Arc<Service>>,
    Params(params): Params<ListParams>,
) -> Result<Json<Page<Key>>, Refused> {
    let limit = limit(params.limit)?;
    let now = moment::now();
    let filter = KeyFilter {
        tenant_id: params.tenant_id,
        state: params.state,
        now,
        after: params.cursor,
        limit: limit.saturating_add(1),
    };
    let shown = service.store.keys(filter).await?.into_iter().map(|listed| listed.shown(now)).collect();
    Ok(Json(page(shown, limit, |key: &Key| key.id.to_string())))
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Id(id): Id<KeyId>,
) -> Result<Json<Key>, Refused> {
    let found = service.store.key(id).await?;
    let listed = found.ok_or_else(|| Refused::new(Code::NotFound, "no key has this id"))?;
    Ok(Json(listed.shown(moment::now())))
}

pub(super) async fn rotate(
    State(service): State<Arc<Service>>,
    Extension(Actor(actor)): Extension<Actor>,
    Id(key_id): Id<KeyId>,
    Body(rotate): Body<RotateKey>,
) -> Result<Json<KeyWithSecret>, Refused> {
    check::grace(rotate.grace_seconds)?;
    let secret = moment::fresh_secret(Kind::Agent)?;
    let now = moment::now();
    let operation = keys::Rotate {
        key_id,
        hash: KeyHash::of(secret.as_bytes()),
        grace_seconds: rotate.grace_seconds,
        actor: actor.as_ref().to_owned(),
        now,
    };
    let listed = service.store.run(operation).await.map_err(|error| match error {
        // On this path the key is what is administered, not what asks, so 403 would name the wrong one.
        Error::Refused(Refusal::KeyInactive(KeyState::Revoked)) => {
            Refused::new(Code::Conflict, "the key is revoked, for good; create a new one")
        }
        Error::Refused(Refusal::KeyInactive(_)) => {
            Refused::new(Code::Conflict, "the key has expired; create a new one")
        }
        other => Refused::from(other),
    })?;
    Ok(Json(KeyWithSecret { key: listed.shown(now), secret }))
}

pub(super) async fn revoke(
    State(service): State<Arc<Service>>,
    Extension(Actor(actor)): Extension<Actor>,
    Id(key_id): Id<KeyId>,
    Body(revoke): Body<RevokeKey>,
) -> Result<Json<Key>, Refused> {
    check::reason(&revoke.reason)?;
    let now = moment::now();
    let actor = actor.as_ref().to_owned();
    let listed = service.store.run(keys::Revoke { key_id, reason: revoke.reason, actor, now }).await?;
    Ok(Json(listed.shown(now)))
}
