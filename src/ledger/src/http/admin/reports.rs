//! What is only read: usage, the audit trail, and the policy's own tables.

use super::{limit, page};
use crate::audit::Kind;
use crate::http::Service;
use crate::http::extract::Params;
use crate::http::problem::{Code, Refused};
use crate::policy_file::InForce;
use crate::store::{AuditFilter, UsageQuery};
use axum::Json;
use axum::extract::State;
use protocol::admin::{AuditRow, Page, PolicyInForce, UsageRow};
use protocol::audit::Outcome;
use protocol::{TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UsageParams {
    #[serde(default)]
    group_by: String,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
}

/// Usage is summed by the hour: an hour counts if any part of it lies between `from` and `to`.
pub(super) async fn usage(
    State(service): State<Arc<Service>>,
    Params(params): Params<UsageParams>,
) -> Result<Json<Page<UsageRow>>, Refused> {
    let mut query = UsageQuery { from: params.from, to: params.to, ..UsageQuery::default() };
    for group in params.group_by.split(',').map(str::trim).filter(|group| !group.is_empty()) {
        match group {
            "tenant" => query.by_tenant = true,
            "key" => query.by_key = true,
            "tool" => query.by_tool = true,
            _ => {
                return Err(Refused::invalid(
                    "group_by: a list of tool, key and tenant, with commas between",
                ));
            }
        }
    }
    Ok(Json(Page { items: service.store.usage(query).await?, next_cursor: None }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditParams {
    tenant_id: Option<TenantId>,
    outcome: Option<Outcome>,
    kind: Option<String>,
    cursor: Option<u64>,
    limit: Option<u32>,
}

/// Newest first.
pub(super) async fn audit(
    State(service): State<Arc<Service>>,
    Params(params): Params<AuditParams>,
) -> Result<Json<Page<AuditRow<Box<RawValue>>>>, Refused> {
    if params.kind.as_ref().is_some_and(|asked| Kind::ALL.iter().all(|kind| kind.as_str() != asked)) {
        let known = Kind::ALL.map(Kind::as_str).join(", ");
        return Err(Refused::invalid(format!("kind: one of {known}")));
    }
    let limit = limit(params.limit)?;
    let filter = AuditFilter {
        tenant_id: params.tenant_id,
        outcome: params.outcome,
        kind: params.kind,
        before: params.cursor,
        limit: limit.saturating_add(1),
    };
    let found = service.store.audit(filter).await?;
    Ok(Json(page(found, limit, |row| row.sequence.to_string())))
}

fn table(policy: &InForce, name: &str) -> Result<Box<RawValue>, Refused> {
    let table = policy.tables.get(name).cloned();
    table.ok_or_else(|| Refused::new(Code::NotFound, format!("the policy in force has no table `{name}`")))
}

pub(super) async fn tiers(State(service): State<Arc<Service>>) -> Result<Json<Box<RawValue>>, Refused> {
    table(&service.policy(), "tiers").map(Json)
}

#[derive(Serialize)]
pub(super) struct Tools {
    services: Box<RawValue>,
}

pub(super) async fn tools(State(service): State<Arc<Service>>) -> Result<Json<Tools>, Refused> {
    Ok(Json(Tools { services: table(&service.policy(), "services")? }))
}

pub(super) async fn policy(
    State(service): State<Arc<Service>>,
) -> Result<Json<PolicyInForce<Box<RawValue>>>, Refused> {
    let policy = service.policy();
    let document = RawValue::from_string(policy.document.clone())
        .map_err(|_| Refused::new(Code::Internal, "the policy in force is no JSON"))?;
    Ok(Json(PolicyInForce { version: policy.version().clone(), document }))
}
