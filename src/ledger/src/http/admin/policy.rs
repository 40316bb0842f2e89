//! The policy: its document, its tables verbatim, and its replacement.

use crate::http::Service;
use crate::http::api::Endpoint;
use crate::http::caller::Caller;
use crate::http::extract::{Params, Tagged, if_match};
use crate::http::problem::{Code, Refused};
use crate::moment;
use crate::policies::document::{self, FILE_BYTES_MAX, Fault, InForce};
use crate::policies::in_force::{self, ReplaceError};
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::HeaderMap;
use axum::{Extension, Json};
use protocol::admin::{PolicyChecked, PolicyInForce, Role};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::sync::Arc;

/// How the OpenAPI document describes a policy and its tables. Crate `policy` owns what may be in them.
type Object = Map<String, Value>;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/v1/policy", show)
            .summary("Show the policy in force")
            .with_etag()
            .answers::<PolicyInForce<Object>>(200),
        Endpoint::put("/v1/policy", replace)
            .summary("Replace the policy in force")
            .needs(Role::Owner)
            .for_all_tenants()
            .with_etag()
            .query::<ReplaceParams>()
            .body::<Value>()
            .or_yaml()
            .body_bytes_max(FILE_BYTES_MAX)
            .answers::<PolicyInForce<Object>>(200),
        Endpoint::post("/v1/policy/check", check)
            .summary("Check which names that tenants and keys use a policy lacks; changes nothing")
            .needs(Role::Auditor)
            .for_all_tenants()
            .body::<Value>()
            .or_yaml()
            .body_bytes_max(FILE_BYTES_MAX)
            .answers::<PolicyChecked>(200),
        Endpoint::get("/v1/tiers", tiers).summary("Show the policy's tiers, verbatim").answers::<Object>(200),
        Endpoint::get("/v1/tools", tools)
            .summary("Show the policy's services and tools, verbatim")
            .answers::<Object>(200),
    ]
}

fn table(policy: &InForce, name: &str) -> Result<Box<RawValue>, Refused> {
    let table = policy.tables.get(name).cloned();
    table.ok_or_else(|| Refused::new(Code::NotFound, format!("the policy in force has no table `{name}`")))
}

pub(super) async fn tiers(State(service): State<Arc<Service>>) -> Result<Json<Box<RawValue>>, Refused> {
    let policy = service.newest_policy().await;
    table(&policy, "tiers").map(Json)
}

#[derive(Serialize)]
pub(super) struct Tools {
    services: Box<RawValue>,
}

pub(super) async fn tools(State(service): State<Arc<Service>>) -> Result<Json<Tools>, Refused> {
    let policy = service.newest_policy().await;
    Ok(Json(Tools { services: table(&policy, "services")? }))
}

type Shown = Tagged<PolicyInForce<Box<RawValue>>>;

fn shown(policy: &InForce) -> Result<Shown, Refused> {
    let document = RawValue::from_string(policy.document.clone())
        .map_err(|_| Refused::new(Code::Internal, "the policy in force is no JSON"))?;
    let version = policy.version().clone();
    Ok(Tagged(version.to_string(), PolicyInForce { version, document }))
}

pub(super) async fn show(State(service): State<Arc<Service>>) -> Result<Shown, Refused> {
    let policy = service.newest_policy().await;
    shown(&policy)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplaceParams {
    /// Even if tenants or keys use names that it no longer has
    #[serde(default)]
    force: bool,
}

fn sent(body: &Result<Bytes, BytesRejection>) -> Result<&str, Refused> {
    let body =
        body.as_ref().map_err(|_| Refused::new(Code::BodyTooLarge, "the body is larger than any policy"))?;
    std::str::from_utf8(body).map_err(|_| Refused::invalid("the body is not UTF-8"))
}

/// Which names that tenants and keys use the document in the body lacks.
pub(super) async fn check(
    State(service): State<Arc<Service>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<PolicyChecked>, Refused> {
    let policy = document::parse(sent(&body)?).map_err(|fault| Refused::invalid(fault.to_string()))?;
    let over = service.newest_policy().await.version().clone();
    let leaving = service.policies.leaving(&policy, moment::now()).await?;
    let tools_leaving = service.policies.tools_leaving(&policy).await?;
    Ok(Json(PolicyChecked { version: policy.version().clone(), over, leaving, tools_leaving }))
}

/// The body is the document itself, YAML or JSON. With SQLite it is written to the policy file unchanged. With PostgreSQL
/// it is stored for every ledger, and their policy files stay unchanged.
pub(super) async fn replace(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Params(params): Params<ReplaceParams>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Shown, Refused> {
    let text = sent(&body)?;
    let over = service.newest_policy().await.version().to_string();
    let only_over = if_match(&headers, &over)?.then_some(over);
    match service.policies.replace(text.to_owned(), only_over, params.force, caller.id(), moment::now()).await
    {
        Ok(policy) => shown(&policy),
        Err(ReplaceError::Faulty(Fault::Unreadable(_))) => Err(Refused::new(
            Code::Conflict,
            "the policy file can't be written by the ledger; change it where it comes from",
        )),
        Err(ReplaceError::InUse(leaving)) => Err(Refused::new(
            Code::PolicyInUse,
            format!("change who uses it, or say force:\n{}", in_force::listed(&leaving)),
        )),
        Err(ReplaceError::Faulty(fault)) => Err(Refused::invalid(fault.to_string())),
        Err(ReplaceError::Unrecorded(error)) => Err(error.into()),
    }
}
