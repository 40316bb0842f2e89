//! Filters' credentials. They serve every tenant, so only owners of all tenants can create and revoke them.

use super::{limit, page};
use crate::http::Service;
use crate::http::api::Endpoint;
use crate::http::caller::Caller;
use crate::http::check;
use crate::http::extract::{Id, Params, Submitted};
use crate::http::problem::{Code, Refused};
use crate::identity::credentials;
use crate::model::credential::{CredentialKind, ServiceCredential};
use crate::moment;
use crate::store::CredentialFilter;
use crate::transaction::idempotency::Once;
use crate::transaction::{Error, Refusal};
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use protocol::CredentialId;
use protocol::admin::{CreateFilterKey, FilterKey, FilterKeyWithSecret, Page, Reason, Role, RotateKey};
use protocol::api_key::{KeyHash, Kind};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/v1/filter-keys", create)
            .summary("Create a filter's key; its secret is in this answer and nowhere else")
            .needs(Role::Owner)
            .for_all_tenants()
            .body::<CreateFilterKey>()
            .answers::<FilterKeyWithSecret>(201),
        Endpoint::get("/v1/filter-keys", list)
            .summary("List filters' keys")
            .needs(Role::Owner)
            .for_all_tenants()
            .query::<ListParams>()
            .answers::<Page<FilterKey>>(200),
        Endpoint::post("/v1/filter-keys/{id}/rotate", rotate)
            .summary("Give a filter's key a new secret; the old one works until the grace is over")
            .needs(Role::Owner)
            .for_all_tenants()
            .body::<RotateKey>()
            .answers::<FilterKeyWithSecret>(200),
        Endpoint::post("/v1/filter-keys/{id}/revoke", revoke)
            .summary("Revoke a filter's key for good; Envoys that use it can no longer reach the ledger")
            .needs(Role::Owner)
            .for_all_tenants()
            .body::<Reason>()
            .answers::<FilterKey>(200),
    ]
}

pub(super) async fn create(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Submitted { body: create, idempotency }: Submitted<CreateFilterKey>,
) -> Result<(StatusCode, Json<FilterKeyWithSecret>), Refused> {
    check::name(&create.name)?;
    let secret = moment::new_secret(Kind::Filter)?;
    let id = moment::new_id("flt_", CredentialId::parse)?;
    let hash = KeyHash::of(secret.as_bytes());
    let credential = ServiceCredential::new(
        hash,
        id,
        CredentialKind::Filter,
        create.name,
        Role::Owner,
        None,
        moment::now(),
    );
    let operation = credentials::Create { credential, actor: caller.id(), idempotency };
    let key = service.store.run(operation).await?.shown_of_filter();
    Ok((StatusCode::CREATED, Json(FilterKeyWithSecret { key, secret })))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    /// The `next_cursor` of the page before
    cursor: Option<CredentialId>,
    /// Items on the page
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<u32>,
}

pub(super) async fn list(
    State(service): State<Arc<Service>>,
    Params(params): Params<ListParams>,
) -> Result<Json<Page<FilterKey>>, Refused> {
    let limit = limit(params.limit)?;
    let filter = CredentialFilter {
        kind: CredentialKind::Filter,
        tenant_id: None,
        after: params.cursor,
        limit: limit.saturating_add(1),
    };
    let found = service.store.service_credentials(filter).await?;
    let shown = found.into_iter().map(ServiceCredential::shown_of_filter).collect();
    Ok(Json(page(shown, limit, |key: &FilterKey| key.id.to_string())))
}

pub(super) async fn rotate(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<CredentialId>,
    Submitted { body: rotate, idempotency }: Submitted<RotateKey>,
) -> Result<Json<FilterKeyWithSecret>, Refused> {
    check::grace(rotate.grace_seconds)?;
    rotate.reason.as_deref().map_or(Ok(()), check::reason)?;
    let secret = moment::new_secret(Kind::Filter)?;
    let operation = credentials::Rotate {
        id,
        hash: KeyHash::of(secret.as_bytes()),
        grace_seconds: rotate.grace_seconds,
        reason: rotate.reason,
        idempotency,
        actor: caller.id(),
        now: moment::now(),
    };
    let rotated = service.store.run(operation).await.map_err(|error| match error {
        Error::Refused(Refusal::KeyInactive(_)) => {
            Refused::new(Code::Conflict, "the filter key is revoked, for good; create a new one")
        }
        other => Refused::from(other),
    })?;
    service.credential_cache.forget();
    Ok(Json(FilterKeyWithSecret { key: rotated.shown_of_filter(), secret }))
}

pub(super) async fn revoke(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<CredentialId>,
    Submitted { body: reason, idempotency }: Submitted<Reason>,
) -> Result<Json<FilterKey>, Refused> {
    check::reason(&reason.reason)?;
    let now = moment::now();
    let (reason, actor) = (reason.reason, caller.id());
    let operation =
        credentials::Revoke { id, kind: CredentialKind::Filter, within: None, reason, actor, now };
    let shown = |revoked: ServiceCredential, _| revoked.shown_of_filter();
    let revoked = service.store.run(Once { operation, idempotency, shown, now }).await?;
    service.credential_cache.forget();
    Ok(Json(revoked))
}
