//! Administrators' own keys. A credential held to one tenant can create and list only keys held to the same tenant.

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
use protocol::admin::{AdminKey, AdminKeyWithSecret, CreateAdminKey, Page, Reason, Role};
use protocol::api_key::{KeyHash, Kind};
use protocol::{CredentialId, TenantId};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/v1/admin-keys", create)
            .summary("Create an administrator's key; its secret is in this answer and nowhere else")
            .needs(Role::Owner)
            .body::<CreateAdminKey>()
            .answers::<AdminKeyWithSecret>(201),
        Endpoint::get("/v1/admin-keys", list)
            .summary("List administrators' keys")
            .needs(Role::Owner)
            .query::<ListParams>()
            .answers::<Page<AdminKey>>(200),
        Endpoint::post("/v1/admin-keys/{id}/revoke", revoke)
            .summary("Revoke an administrator's key for good")
            .needs(Role::Owner)
            .body::<Reason>()
            .answers::<AdminKey>(200),
    ]
}

pub(super) async fn create(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Submitted { body: create, idempotency }: Submitted<CreateAdminKey>,
) -> Result<(StatusCode, Json<AdminKeyWithSecret>), Refused> {
    check::name(&create.name)?;
    if caller.tenant().is_some() && caller.tenant() != create.tenant_id.as_ref() {
        let detail = "tenant_id: the credential is held to a tenant, and can make only keys held to the same";
        return Err(Refused::new(Code::Forbidden, detail));
    }
    let secret = moment::new_secret(Kind::Admin)?;
    let id = moment::new_id("adm_", CredentialId::parse)?;
    let CreateAdminKey { name, role, tenant_id } = create;
    let hash = KeyHash::of(secret.as_bytes());
    let credential =
        ServiceCredential::new(hash, id, CredentialKind::Admin, name, role, tenant_id, moment::now());
    let operation = credentials::Create { credential, actor: caller.id(), idempotency };
    let made = service.store.run(operation).await.map_err(|error| match error {
        Error::Refused(Refusal::TenantUnknown) => Refused::invalid("tenant_id: no tenant has this id"),
        other => Refused::from(other),
    })?;
    Ok((StatusCode::CREATED, Json(AdminKeyWithSecret { key: made.shown(), secret })))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    /// Only those held to this tenant
    tenant_id: Option<TenantId>,
    /// The `next_cursor` of the page before
    cursor: Option<CredentialId>,
    /// Items on the page
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<u32>,
}

pub(super) async fn list(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Params(params): Params<ListParams>,
) -> Result<Json<Page<AdminKey>>, Refused> {
    let limit = limit(params.limit)?;
    let filter = CredentialFilter {
        kind: CredentialKind::Admin,
        tenant_id: caller.narrow(params.tenant_id)?,
        after: params.cursor,
        limit: limit.saturating_add(1),
    };
    let shown =
        service.store.service_credentials(filter).await?.into_iter().map(ServiceCredential::shown).collect();
    Ok(Json(page(shown, limit, |key: &AdminKey| key.id.to_string())))
}

pub(super) async fn revoke(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<CredentialId>,
    Submitted { body: reason, idempotency }: Submitted<Reason>,
) -> Result<Json<AdminKey>, Refused> {
    check::reason(&reason.reason)?;
    let now = moment::now();
    let operation = credentials::Revoke {
        id,
        kind: CredentialKind::Admin,
        within: caller.tenant().cloned(),
        reason: reason.reason,
        actor: caller.id(),
        now,
    };
    let shown = |revoked: ServiceCredential, _| revoked.shown();
    let revoked = service.store.run(Once { operation, idempotency, shown, now }).await?;
    service.credential_cache.forget();
    Ok(Json(revoked))
}
