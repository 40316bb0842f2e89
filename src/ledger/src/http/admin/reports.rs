//! Sums: usage, and what shadow rules would have refused.

use super::{limit, ordered, page};
use crate::http::Service;
use crate::http::api::Endpoint;
use crate::http::caller::Caller;
use crate::http::extract::Params;
use crate::http::problem::Refused;
use crate::store::{Group, SHADOW_TEXTS, USAGE_TEXTS, UsageQuery};
use crate::transaction::{HOUR_MILLIS, Rows};
use axum::extract::State;
use axum::{Extension, Json};
use protocol::admin::{Page, ShadowRow, UsageRow};
use protocol::audit::Outcome;
use protocol::{AgentId, KeyId, TenantId, Timestamp};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/v1/usage", usage)
            .summary("Sum what was called and charged, by the hour")
            .query::<UsageParams>()
            .answers::<Page<UsageRow>>(200),
        Endpoint::get("/v1/policy/shadow-report", shadow)
            .summary("Sum what shadow rules would have refused")
            .query::<ShadowParams>()
            .answers::<Page<ShadowRow>>(200),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UsageParams {
    /// A list of tool, key, tenant, agent and outcome, with commas between
    #[serde(default)]
    #[schemars(regex(pattern = "^((tool|key|tenant|agent|outcome)(,(tool|key|tenant|agent|outcome))*)?$"))]
    group_by: String,
    /// Not before this time, which begins an hour in UTC
    from: Option<Timestamp>,
    /// Before this time, which begins an hour in UTC
    to: Option<Timestamp>,
    /// Only this tenant's
    tenant_id: Option<TenantId>,
    /// Only this key's
    key_id: Option<KeyId>,
    /// Only this agent's
    agent_id: Option<AgentId>,
    /// Only of this tool
    tool: Option<String>,
    /// Only with this outcome
    outcome: Option<Outcome>,
    /// The `next_cursor` of the page before
    cursor: Option<String>,
    /// Items on the page
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<u32>,
}

/// Usage is summed by the hour, so a period that begins or ends within an hour is refused.
pub(super) async fn usage(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Params(params): Params<UsageParams>,
) -> Result<Json<Page<UsageRow>>, Refused> {
    let limit = limit(params.limit)?;
    whole_hours(params.from, params.to)?;
    let mut query = UsageQuery {
        after: params.cursor.map(|cursor| group(&cursor, USAGE_TEXTS)).transpose()?,
        limit: limit.saturating_add(1),
        from: params.from,
        to: params.to,
        tenant_id: caller.narrow(params.tenant_id)?,
        key_id: params.key_id,
        agent_id: params.agent_id,
        tool: params.tool,
        outcome: params.outcome,
        ..UsageQuery::default()
    };
    for group in params.group_by.split(',').map(str::trim).filter(|group| !group.is_empty()) {
        match group {
            "tenant" => query.by_tenant = true,
            "key" => query.by_key = true,
            "tool" => query.by_tool = true,
            "agent" => query.by_agent = true,
            "outcome" => query.by_outcome = true,
            _ => {
                return Err(Refused::invalid(
                    "group_by: a list of tool, key, tenant, agent and outcome, with commas between",
                ));
            }
        }
    }
    Ok(Json(groups(service.store.usage(query).await?, limit)))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ShadowParams {
    /// Not before this time, which begins an hour in UTC
    from: Option<Timestamp>,
    /// Before this time, which begins an hour in UTC
    to: Option<Timestamp>,
    /// Only this tenant's
    tenant_id: Option<TenantId>,
    /// Only of this tool
    tool: Option<String>,
    /// The `next_cursor` of the page before
    cursor: Option<String>,
    /// Items on the page
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<u32>,
}

pub(super) async fn shadow(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Params(params): Params<ShadowParams>,
) -> Result<Json<Page<ShadowRow>>, Refused> {
    let limit = limit(params.limit)?;
    whole_hours(params.from, params.to)?;
    let query = UsageQuery {
        after: params.cursor.map(|cursor| group(&cursor, SHADOW_TEXTS)).transpose()?,
        limit: limit.saturating_add(1),
        from: params.from,
        to: params.to,
        tenant_id: caller.narrow(params.tenant_id)?,
        tool: params.tool,
        ..UsageQuery::default()
    };
    Ok(Json(groups(service.store.shadow(query).await?, limit)))
}

/// Each period is made of whole hours, so sums of periods that follow each other add up.
fn whole_hours(from: Option<Timestamp>, to: Option<Timestamp>) -> Result<(), Refused> {
    ordered(from, to)?;
    for (name, moment) in [("from", from), ("to", to)] {
        let Some(moment) = moment else { continue };
        let begin = Timestamp::from_millis(Rows::usage_hour(moment).saturating_mul(HOUR_MILLIS));
        if begin != moment {
            let next = begin.plus_millis(HOUR_MILLIS);
            return Err(Refused::invalid(format!(
                "{name}: usage is summed by the hour in UTC, and {moment} lies within one; say {begin} or {next}"
            )));
        }
    }
    Ok(())
}

/// A cursor is the last group of the page before.
fn group(cursor: &str, texts: usize) -> Result<Group, Refused> {
    let group: Option<Group> = serde_json::from_str(cursor).ok();
    group
        .filter(|group| group.len() == texts)
        .ok_or_else(|| Refused::invalid("cursor: send the `next_cursor` of the page before"))
}

fn groups<T>(found: Vec<(Group, T)>, limit: u32) -> Page<T> {
    let Page { items, next_cursor } = page(found, limit, |(group, _)| json!(group).to_string());
    Page { items: items.into_iter().map(|(_, row)| row).collect(), next_cursor }
}
