//! The audit trail: its rows, its checkpoints, who signed them, and what was removed.

use super::handle::Store;
use super::row::{Conditions, Cursor, Table, columns};
use super::sql::{Connection, Param, Result, Row, params};
use crate::model::checkpoint::{Checkpoint, CheckpointHead};
use crate::model::event::{Event, SealedRow};
use crate::model::retention::RetentionState;
use crate::transaction::{Needs, Rows, Unavailable};
use protocol::admin::{AuditKey, AuditStatus};
use protocol::audit::Outcome;
use protocol::{EventId, KeyId, TenantId, Timestamp};
use serde::Deserialize;

/// Most checkpoints in one answer.
pub const CHECKPOINTS_MAX: u32 = 16;

const NEWEST: &str = "SELECT number, last, hash FROM audit_batches ORDER BY number DESC LIMIT 1";

columns!(Checkpoint {
    fixed: number, first, last, sealed_at, previous, root, hash, public_key, signature, leaves;
    changing: ;
});
columns!(AuditKey { fixed: public_key, created_at; changing: ; });
columns!(Fact {
    fixed: sequence, recorded_at, kind, actor, tenant_id, outcome, event_id, detail;
    changing: ;
    nested: about;
});
columns!(About { fixed: key_id, service, tool, request_id; changing: ; });

const CHECKPOINTS: Table<Checkpoint> = Table::new("audit_batches", &[]);
const KEYS: Table<AuditKey> = Table::new("audit_keys", &[]);
const FACTS: Table<Fact> = Table::new("audit", &[]);

/// An event as stored.
struct Fact {
    sequence: u64,
    recorded_at: Timestamp,
    kind: String,
    actor: String,
    tenant_id: Option<TenantId>,
    outcome: Option<Outcome>,
    event_id: Option<EventId>,
    detail: String,
    about: About,
}

/// What a row is searched by.
struct About {
    key_id: Option<String>,
    service: Option<String>,
    tool: Option<String>,
    request_id: Option<String>,
}

/// What a detail says of it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Told {
    key_id: Option<String>,
    service: Option<String>,
    tool: Option<String>,
    reservation_id: Option<String>,
    request_id: Option<String>,
}

impl About {
    fn of(event: &Event) -> About {
        let told: Told = serde_json::from_str(&event.detail).unwrap_or_default();
        let actor = Some(&event.actor).filter(|actor| actor.starts_with("key_"));
        // A decision's own id is its request's.
        let request_id = told.reservation_id.or(told.request_id).filter(|_| event.event_id.is_none());
        About {
            key_id: told.key_id.or_else(|| actor.cloned()),
            service: told.service,
            tool: told.tool,
            request_id,
        }
    }
}

/// Which checkpoints to list.
#[derive(Debug, Clone, Copy, Default)]
pub struct CheckpointFilter {
    /// Only those sealed at this time or later.
    pub from: Option<Timestamp>,
    /// Only those sealed before this time.
    pub to: Option<Timestamp>,
    /// Only those with a number greater than this.
    pub after: u64,
    /// Only those whose rows were not removed.
    pub kept_only: bool,
}

/// Which audit rows to list.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Only this tenant's.
    pub tenant_id: Option<TenantId>,
    /// Only decisions with this outcome.
    pub outcome: Option<Outcome>,
    /// Only events of this kind.
    pub kind: Option<String>,
    /// Only events of this actor.
    pub actor: Option<String>,
    /// Only what is about this request.
    pub request_id: Option<EventId>,
    /// Only what this key did, and what was done to it.
    pub key_id: Option<KeyId>,
    /// Only what is about this service.
    pub service: Option<String>,
    /// Only what is about this tool.
    pub tool: Option<String>,
    /// Only rows written at this time or later.
    pub from: Option<Timestamp>,
    /// Only rows written before this time.
    pub to: Option<Timestamp>,
    /// Only rows before this sequence number.
    pub before: Option<u64>,
    pub limit: u32,
}

pub(super) fn load(connection: &Connection, needs: &Needs, rows: &mut Rows) -> Result<()> {
    let known = "SELECT event_id FROM audit WHERE event_id";
    let ids = needs.events.iter().map(EventId::to_string);
    rows.known_events.extend(connection.each(known, ids, |row| row.get::<EventId>(0))?);
    if needs.checkpoint {
        rows.newest_checkpoint = connection.first(NEWEST, &[], head)?;
    }
    if needs.audit_keys {
        rows.audit_keys.extend(KEYS.all(connection, "", &[])?.into_iter().map(|key| key.public_key));
    }
    if needs.retention {
        let select = "SELECT clock, removed_before, \
                      (SELECT recorded_at FROM audit ORDER BY sequence DESC LIMIT 1) FROM audit_state";
        let found = connection.first(select, &[], |row| {
            Ok(RetentionState { clock: row.get(0)?, removed_before: row.get(1)?, newest_row: row.get(2)? })
        })?;
        rows.retention = found.unwrap_or_default();
    }
    Ok(())
}

fn head(row: &Row<'_>) -> Result<CheckpointHead> {
    Ok(CheckpointHead { number: row.get(0)?, last: row.get(1)?, hash: row.get(2)? })
}

/// Writes events.
pub(super) fn save(connection: &Connection, rows: &Rows) -> Result<()> {
    if rows.events.is_empty() {
        return Ok(());
    }
    // Only one writer writes at a time, and the newest row is never deleted, so the numbers have no gaps.
    let newest = "SELECT coalesce(max(sequence), 0) FROM audit";
    let newest: u64 = connection.first(newest, &[], |row| row.get(0))?.unwrap_or_default();
    let fact = |(sequence, event): (u64, &Event)| Fact {
        sequence,
        recorded_at: event.at,
        kind: event.kind.as_str().to_owned(),
        actor: event.actor.clone(),
        tenant_id: event.tenant_id.clone(),
        outcome: event.outcome,
        event_id: event.event_id,
        detail: event.detail.clone(),
        about: About::of(event),
    };
    let facts: Vec<Fact> = (newest.saturating_add(1)..).zip(&rows.events).map(fact).collect();
    FACTS.put(connection, facts.iter())
}

/// Writes checkpoints and their signing keys, and removes rows that are no longer retained.
pub(super) fn save_chain(connection: &Connection, rows: &Rows) -> Result<()> {
    CHECKPOINTS.put(connection, rows.checkpoints.iter())?;
    KEYS.put(connection, rows.audit_key.iter())?;
    if rows.decisions_dropped > 0 {
        let update = "UPDATE audit_state SET decisions_dropped = CASE \
                      WHEN decisions_dropped > 9223372036854775807 - ?1 THEN 9223372036854775807 \
                      ELSE decisions_dropped + ?1 END";
        connection.execute(update, &params![rows.decisions_dropped])?;
    }
    if rows.retention_changed {
        let RetentionState { clock, removed_before, .. } = &rows.retention;
        let update = "UPDATE audit_state SET clock = ?, removed_before = ?";
        connection.execute(update, &params![clock, removed_before])?;
    }
    if let Some(old) = rows.forget_audit {
        connection.execute("DELETE FROM audit WHERE sequence <= ?", &params![old.last_row])?;
        let forget = "UPDATE audit_batches SET leaves = NULL WHERE number >= ? AND number <= ?";
        connection.execute(forget, &params![old.first, old.last])?;
        let update = "UPDATE audit_state SET removed = ?1 WHERE removed < ?1";
        connection.execute(update, &params![old.last_row])?;
    }
    Ok(())
}

fn select(more: &str) -> String {
    format!("SELECT sequence, recorded_at, kind, actor, tenant_id, outcome, detail FROM audit {more}")
}

fn sealed(row: &Row<'_>) -> Result<SealedRow> {
    let mut cursor = Cursor::new(row);
    Ok(SealedRow {
        sequence: cursor.value()?,
        recorded_at: cursor.value()?,
        kind: cursor.value()?,
        actor: cursor.value()?,
        tenant_id: cursor.value()?,
        // An outcome of another release may be unknown here; the row is listed without it.
        outcome: cursor.value::<Option<String>>()?.and_then(|name| named(&name)),
        detail: cursor.value()?,
    })
}

fn named(outcome: &str) -> Option<Outcome> {
    Outcome::ALL.into_iter().find(|known| known.as_str() == outcome)
}

/// Rows after a sequence number, oldest first.
pub(crate) fn rows_after(connection: &Connection, after: u64, limit: u32) -> Result<Vec<SealedRow>> {
    let page = select("WHERE sequence > ? ORDER BY sequence LIMIT ?");
    connection.all(&page, &params![after, limit], sealed)
}

fn list(connection: &Connection, filter: &AuditFilter) -> Result<Vec<SealedRow>> {
    let (page, params) = Conditions::new("sequence < ?", Param::number(filter.before.unwrap_or(u64::MAX)))
        .and_if("tenant_id = ?", &filter.tenant_id)
        .and_if("outcome = ?", &filter.outcome)
        .and_if("kind = ?", &filter.kind)
        .and_if("actor = ?", &filter.actor)
        .and_if("key_id = ?", &filter.key_id)
        .and_if("service = ?", &filter.service)
        .and_if("tool = ?", &filter.tool)
        .and_if("recorded_at >= ?", &filter.from)
        .and_if("recorded_at < ?", &filter.to)
        .and_each("(event_id = ? OR request_id = ?)", &filter.request_id)
        .page("ORDER BY sequence DESC LIMIT ?", filter.limit);
    connection.all(&select(&page), &params, sealed)
}

/// Checkpoints, oldest first.
pub(crate) fn checkpoints(connection: &Connection, filter: &CheckpointFilter) -> Result<Vec<Checkpoint>> {
    let kept = if filter.kept_only { "AND leaves IS NOT NULL " } else { "" };
    let (page, params) = Conditions::new("number > ?", Param::number(filter.after))
        .and_if("sealed_at >= ?", &filter.from)
        .and_if("sealed_at < ?", &filter.to)
        .page(&format!("{kept}ORDER BY number LIMIT ?"), CHECKPOINTS_MAX);
    CHECKPOINTS.all(connection, &page, &params)
}

/// The newest checkpoint.
pub(crate) fn newest_checkpoint(connection: &Connection) -> Result<CheckpointHead> {
    Ok(connection.first(NEWEST, &[], head)?.unwrap_or(CheckpointHead::NONE))
}

/// The status of the trail.
pub(crate) fn status(connection: &Connection) -> Result<AuditStatus> {
    let select = "SELECT (SELECT coalesce(max(sequence), 0) FROM audit), \
                  (SELECT coalesce(max(last), 0) FROM audit_batches), \
                  (SELECT coalesce(max(number), 0) FROM audit_batches), removed, decisions_dropped \
                  FROM audit_state";
    let status = connection.first(select, &[], |row| {
        Ok(AuditStatus {
            newest: row.get(0)?,
            sealed: row.get(1)?,
            checkpoints: row.get(2)?,
            removed: row.get(3)?,
            decisions_dropped: row.get(4)?,
            retention_days: None,
        })
    })?;
    Ok(status.unwrap_or_default())
}

impl Store {
    /// The status of the audit trail.
    pub async fn audit_status(&self) -> std::result::Result<AuditStatus, Unavailable> {
        self.operators.read(status).await
    }

    /// The newest checkpoint.
    pub async fn checkpoint_head(&self) -> std::result::Result<CheckpointHead, Unavailable> {
        self.operators.read(newest_checkpoint).await
    }

    /// Checkpoints, oldest first.
    pub async fn checkpoints(
        &self,
        filter: CheckpointFilter,
    ) -> std::result::Result<Vec<Checkpoint>, Unavailable> {
        self.operators.read(move |connection| checkpoints(connection, &filter)).await
    }

    /// Rows of the audit trail after a sequence number, oldest first, without gaps.
    pub async fn audit_rows(
        &self,
        after: u64,
        limit: u32,
    ) -> std::result::Result<Vec<SealedRow>, Unavailable> {
        self.reports.read(move |connection| rows_after(connection, after, limit)).await
    }

    /// The audit trail, newest first.
    pub async fn audit(&self, filter: AuditFilter) -> std::result::Result<Vec<SealedRow>, Unavailable> {
        self.reports.read(move |connection| list(connection, &filter)).await
    }

    /// The keys that signed checkpoints, oldest first.
    pub async fn audit_keys(&self) -> std::result::Result<Vec<AuditKey>, Unavailable> {
        let all = |connection: &Connection| {
            KEYS.all(connection, "ORDER BY created_at, public_key", &[] as &[Param<'_>])
        };
        self.operators.read(all).await
    }
}
