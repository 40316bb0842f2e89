//! The audit trail: lists, keys, status, and exports.

use super::{limit, ordered, page};
use crate::audit::chain::BATCH_ROWS_MAX;
use crate::audit::export::Exporter;
use crate::http::Service;
use crate::http::api::Endpoint;
use crate::http::caller::Caller;
use crate::http::extract::Params;
use crate::http::problem::Refused;
use crate::http::stream::{Closed, Lines};
use crate::model::event::{Kind, SealedRow};
use crate::moment;
use crate::store::{AuditFilter, CheckpointFilter};
use crate::transaction::Unavailable;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use protocol::admin::{AuditKeys, AuditRow, AuditStatus, Page};
use protocol::audit::Outcome;
use protocol::{EventId, KeyId, TenantId, Timestamp};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::sync::Arc;
use tracing::warn;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/v1/audit", list)
            .summary("List the audit trail, newest first")
            .query::<ListParams>()
            .answers::<Page<AuditRow<Value>>>(200),
        Endpoint::get("/v1/audit/key", keys)
            .summary("Show the public keys that sign the audit trail")
            .answers::<AuditKeys>(200),
        Endpoint::get("/v1/audit/status", status)
            .summary("Show how far the audit trail is sealed, and what was lost or removed")
            .for_all_tenants()
            .answers::<AuditStatus>(200),
        Endpoint::get("/v1/audit/export", export)
            .summary("Export the audit trail as lines of JSON, to be verified anywhere")
            .for_all_tenants()
            .query::<ExportParams>()
            .media_type("application/jsonl")
            .answers::<String>(200),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    /// Only this tenant's
    tenant_id: Option<TenantId>,
    /// Only decisions with this outcome
    outcome: Option<Outcome>,
    /// Only facts of this kind, such as `key_created`
    #[schemars(schema_with = "kinds")]
    kind: Option<String>,
    /// Only what this one did: the id of a key or of an admin key, `ledger`, or `anonymous`
    actor: Option<String>,
    /// Only what is about this request
    request_id: Option<EventId>,
    /// Only what this key did, and what was done to it
    key_id: Option<KeyId>,
    /// Only what is about this service
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[^\x00]*$"))]
    service: Option<String>,
    /// Only what is about this tool, by the policy's name
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[^\x00]*$"))]
    tool: Option<String>,
    /// Not before this time
    from: Option<Timestamp>,
    /// Before this time
    to: Option<Timestamp>,
    /// The `next_cursor` of the page before
    cursor: Option<u64>,
    /// Items on the page
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<u32>,
}

fn kinds(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": Kind::ALL.map(Kind::as_str)})
}

/// Newest first.
pub(super) async fn list(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Params(params): Params<ListParams>,
) -> Result<Json<Page<AuditRow<Box<RawValue>>>>, Refused> {
    if params.kind.as_ref().is_some_and(|asked| Kind::ALL.iter().all(|kind| kind.as_str() != asked)) {
        let known = Kind::ALL.map(Kind::as_str).join(", ");
        return Err(Refused::invalid(format!("kind: one of {known}")));
    }
    for (field, name) in [("service", &params.service), ("tool", &params.tool)] {
        let is_name = |name: &String| (1..=256).contains(&name.chars().count()) && !name.contains('\0');
        if name.as_ref().is_some_and(|name| !is_name(name)) {
            return Err(Refused::invalid(format!("{field}: must be 1 to 256 characters, without NUL")));
        }
    }
    let limit = limit(params.limit)?;
    ordered(params.from, params.to)?;
    let filter = AuditFilter {
        tenant_id: caller.narrow(params.tenant_id)?,
        outcome: params.outcome,
        kind: params.kind,
        actor: params.actor,
        request_id: params.request_id,
        key_id: params.key_id,
        service: params.service,
        tool: params.tool,
        from: params.from,
        to: params.to,
        before: params.cursor,
        limit: limit.saturating_add(1),
    };
    let found = service.store.audit(filter).await?;
    Ok(Json(page(found.into_iter().map(shown).collect(), limit, |row| row.sequence.to_string())))
}

pub(super) async fn keys(State(service): State<Arc<Service>>) -> Result<Json<AuditKeys>, Refused> {
    Ok(Json(AuditKeys {
        algorithm: "Ed25519".to_owned(),
        public_key: service.signer.public_key().to_owned(),
        known: service.store.audit_keys().await?,
    }))
}

pub(super) async fn status(State(service): State<Arc<Service>>) -> Result<Json<AuditStatus>, Refused> {
    let retention_days = service.audit_retention_days;
    Ok(Json(AuditStatus { retention_days, ..service.store.audit_status().await? }))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ExportParams {
    /// Only rows that were sealed on this day in UTC, such as 2026-11-22
    #[schemars(regex(pattern = "^(19[7-9][0-9]|[2-9][0-9]{3})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$"))]
    day: Option<String>,
}

const DAY_MILLIS: u64 = 86_400_000;

/// A whole trail, or a day of it. Rows that are not sealed yet belong to today.
pub(super) async fn export(
    State(service): State<Arc<Service>>,
    Params(params): Params<ExportParams>,
) -> Result<Response, Refused> {
    let day = params.day.as_deref().map(Timestamp::of_day).transpose();
    let day = day.map_err(|_| Refused::invalid("day: a day is written as in 2026-11-22"))?;
    let filter = CheckpointFilter {
        from: day,
        to: day.map(|day| day.plus_millis(DAY_MILLIS)),
        after: 0,
        kept_only: false,
    };
    // Once the answer has begun, a failure can only abort it. So a database that is away is found out before.
    service.store.ping().await?;
    let (lines, body) = Lines::channel();
    tokio::spawn(async move {
        match write(&service, filter, lines).await {
            Err(Stopped::Unavailable(cause)) => warn!(%cause, "an export of the audit trail broke off"),
            Err(Stopped::Removed) => {
                warn!("an export of the audit trail broke off: rows of it were removed by age meanwhile");
            }
            Err(Stopped::Closed) | Ok(()) => {}
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], body).into_response())
}

enum Stopped {
    Unavailable(Unavailable),
    Closed,
    Removed,
}

impl From<Unavailable> for Stopped {
    fn from(unavailable: Unavailable) -> Stopped {
        Stopped::Unavailable(unavailable)
    }
}

impl From<Closed> for Stopped {
    fn from(_: Closed) -> Stopped {
        Stopped::Closed
    }
}

async fn write(service: &Service, mut filter: CheckpointFilter, lines: Lines) -> Result<(), Stopped> {
    let store = &service.store;
    let now = moment::now();
    let removed = store.audit_status().await?.removed;
    let mut exporter = Exporter::new(filter.from);
    loop {
        let found = store.checkpoints(filter).await?;
        let Some(last) = found.last() else { break };
        filter.after = last.number;
        for checkpoint in &found {
            let rows = if checkpoint.leaves.is_some() {
                let count = checkpoint.last.saturating_sub(checkpoint.first).saturating_add(1);
                let count = u32::try_from(count).unwrap_or(BATCH_ROWS_MAX);
                store.audit_rows(checkpoint.first.saturating_sub(1), count).await?
            } else {
                Vec::new()
            };
            let until = rows.iter().take_while(|row| row.sequence <= checkpoint.last).count();
            let is_whole =
                rows.get(until.saturating_sub(1)).is_some_and(|row| row.sequence == checkpoint.last);
            // Rows that retention removed during the export must not look like rows that somebody deleted.
            if !is_whole && checkpoint.last > removed && store.audit_status().await?.removed != removed {
                return Err(Stopped::Removed);
            }
            lines.send(exporter.batch(checkpoint, rows.get(..until).unwrap_or_default())).await?;
        }
    }
    let is_of_today = filter.to.is_none_or(|end| now < end) && filter.from.is_none_or(|begin| begin <= now);
    if is_of_today {
        let mut after = exporter.last_row(store.checkpoint_head().await?);
        loop {
            let rows = store.audit_rows(after, BATCH_ROWS_MAX).await?;
            let Some(last) = rows.last() else { break };
            after = last.sequence;
            lines.send(exporter.unsealed(&rows)).await?;
        }
    }
    let status = store.audit_status().await?;
    if status.removed != removed {
        return Err(Stopped::Removed);
    }
    lines.send(exporter.end(&service.signer, status.removed, status.decisions_dropped, now)).await?;
    Ok(lines.end().await?)
}

/// The row in the API's form. That form may change; the sealed form may not.
fn shown(row: SealedRow) -> AuditRow<Box<RawValue>> {
    let SealedRow { sequence, recorded_at, kind, actor, tenant_id, outcome, detail } = row;
    AuditRow { sequence, recorded_at, kind, actor, tenant_id, outcome, detail }
}
