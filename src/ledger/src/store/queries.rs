//! The reads of the API.

use super::sql::{Connection, Param, Result, Row, ToParam, params};
use super::{read, save};
use crate::book::lease::Lease;
use crate::book::{Accounts, Reservation};
use crate::budgets::SpendingKey;
use crate::chain::{Checkpoint, CheckpointHead};
use crate::credentials::ServiceCredential;
use crate::issued::{Life, Parent};
use crate::keys::{Found, Listed};
use crate::latency::{BUCKETS_MAX, Histogram};
use crate::store::rows::{Rows, credits, outcome};
use crate::store::{
    AgentFilter, AuditFilter, CHECKPOINTS_MAX, ChangesKept, CheckpointFilter, CredentialFilter, Group,
    HOUR_MILLIS, KeyFilter, LeaseFilter, ReservationFilter, SHADOW_TEXTS, USAGE_TEXTS, UsageQuery,
};
use crate::tenants::Tenant;
use protocol::admin::{
    Agent, AuditKey, AuditRow, AuditStatus, LeaseState, ReservationState, ShadowRow, UsageRow, UsageTokenSums,
};
use protocol::api_key::KeyHash;
use protocol::key::KeyState;
use protocol::session::SessionSecret;
use protocol::{
    AdminKeyId, AgentId, Credits, KeyId, LeaseId, PolicyVersion, ReservationId, TenantId, Timestamp,
};
use serde_json::value::RawValue;

const TENANT_SUSPENDED: &str = "tenants.suspended_at IS NOT NULL";

pub(super) fn service_credential(
    connection: &Connection,
    hash: &KeyHash,
) -> Result<Option<ServiceCredential>> {
    let select = format!("SELECT {} FROM service_credentials WHERE hash = ?", read::SERVICE_CREDENTIAL);
    let found = connection.first(&select, &params![hash.as_bytes()], read::service_credential)?;
    Ok(found.map(|(_, credential)| credential))
}

pub(super) fn service_credentials(
    connection: &Connection,
    filter: &CredentialFilter,
) -> Result<Vec<ServiceCredential>> {
    let tenant = if filter.tenant_id.is_some() { " AND tenant_id = ?" } else { "" };
    let after = filter.after.as_ref().map_or("", AdminKeyId::as_str);
    let mut params = vec![Param::Text(filter.door.as_str()), Param::Text(after)];
    params.extend(filter.tenant_id.as_ref().map(|id| Param::Text(id.as_str())));
    params.push(filter.limit.to_param());
    // One of them has all its secrets in rows of their own, the newest without an end.
    let select = format!(
        "SELECT {} FROM service_credentials WHERE door = ? AND id > ?{tenant} AND secret_expires_at IS NULL \
         ORDER BY id LIMIT ?",
        read::SERVICE_CREDENTIAL
    );
    let found = connection.all(&select, &params, read::service_credential)?;
    Ok(found.into_iter().map(|(_, credential)| credential).collect())
}

pub(super) fn agents(connection: &Connection, filter: &AgentFilter) -> Result<Vec<Agent>> {
    let mut condition = "id > ?".to_owned();
    let mut params = vec![Param::Text(filter.after.as_ref().map_or("", AgentId::as_str))];
    let texts = [
        (" AND tenant_id = ?", filter.tenant_id.as_ref().map(TenantId::as_str)),
        (" AND id = ?", filter.id.as_ref().map(AgentId::as_str)),
    ];
    for (more, value) in texts {
        if let Some(value) = value {
            condition.push_str(more);
            params.push(Param::Text(value));
        }
    }
    params.push(filter.limit.to_param());
    let select =
        format!("SELECT id, tenant_id, name, created_at FROM agents WHERE {condition} ORDER BY id LIMIT ?");
    connection.all(&select, &params, read::agent)
}

pub(super) fn leases(connection: &Connection, filter: &LeaseFilter) -> Result<Vec<Lease>> {
    let mut condition = "id > ?".to_owned();
    let mut params = vec![Param::Text(filter.after.as_ref().map_or("", LeaseId::as_str))];
    let texts = [
        (" AND tenant_id = ?", filter.tenant_id.as_ref().map(TenantId::as_str)),
        (" AND state = ?", filter.state.map(LeaseState::as_str)),
    ];
    for (more, value) in texts {
        if let Some(value) = value {
            condition.push_str(more);
            params.push(Param::Text(value));
        }
    }
    params.push(filter.limit.to_param());
    let select = format!("SELECT {} FROM leases WHERE {condition} ORDER BY id LIMIT ?", read::LEASE);
    connection.all(&select, &params, read::lease)
}

/// Those whose time is over without an account of them, on which there is an index of their own.
pub(super) fn reservations(connection: &Connection, filter: &ReservationFilter) -> Result<Vec<Reservation>> {
    let mut condition = "state = 'expired' AND id > ?".to_owned();
    let mut params = vec![Param::Text(filter.after.as_ref().map_or("", ReservationId::as_str))];
    if let Some(tenant_id) = &filter.tenant_id {
        condition.push_str(" AND tenant_id = ?");
        params.push(Param::Text(tenant_id.as_str()));
    }
    // As `Reservation::shown` says.
    condition.push_str(match filter.state {
        None => "",
        Some(ReservationState::Unaccounted) => " AND asked IS NULL AND charged > 0",
        Some(ReservationState::Corrected) => " AND (asked IS NOT NULL OR charged = 0)",
        Some(ReservationState::Returned) => " AND asked IS NULL AND charged IS NULL",
    });
    params.push(filter.limit.to_param());
    let select =
        format!("SELECT {} FROM reservations WHERE {condition} ORDER BY id LIMIT ?", read::RESERVATION);
    connection.all(&select, &params, read::reservation)
}

pub(super) fn lent(connection: &Connection) -> Result<(u64, u64)> {
    let select = "SELECT count(*), CAST(coalesce(sum(granted - spent), 0) AS BIGINT) FROM leases \
                  WHERE state = 'open'";
    Ok(connection.first(select, &[], |row| Ok((row.get(0)?, row.get(1)?)))?.unwrap_or_default())
}

pub(super) fn spent(connection: &Connection, at: &SpendingKey) -> Result<Credits> {
    let select = "SELECT credits FROM spending WHERE tenant_id = ? AND key_id = ? AND month = ?";
    let key_id = at.key_id.as_ref().map_or("", KeyId::as_str);
    let month = Param::Integer(at.month.number().into());
    let at = [Param::Text(at.tenant_id.as_str()), Param::Text(key_id), month];
    Ok(connection.first(select, &at, |row| read::credits(row, 0))?.unwrap_or_default())
}

pub(super) fn audit_status(connection: &Connection) -> Result<AuditStatus> {
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

pub(super) fn checkpoint_head(connection: &Connection) -> Result<CheckpointHead> {
    let newest = "SELECT number, last, hash FROM audit_batches ORDER BY number DESC LIMIT 1";
    Ok(connection.first(newest, &[], read::checkpoint_head)?.unwrap_or(CheckpointHead::NONE))
}

pub(super) fn checkpoints(connection: &Connection, filter: &CheckpointFilter) -> Result<Vec<Checkpoint>> {
    let kept = if filter.kept_only { " AND leaves IS NOT NULL" } else { "" };
    let select = format!(
        "SELECT {} FROM audit_batches WHERE number > ? AND sealed_at >= ? AND sealed_at < ?{kept} \
         ORDER BY number LIMIT ?",
        read::CHECKPOINT
    );
    let from = filter.from.map_or(0, |moment| moment.as_millis());
    let to = filter.to.map_or(u64::MAX, |moment| moment.as_millis());
    connection.all(&select, &params![filter.after, from, to, CHECKPOINTS_MAX], read::checkpoint)
}

pub(super) fn audit_rows(
    connection: &Connection,
    after: u64,
    limit: u32,
) -> Result<Vec<AuditRow<Box<RawValue>>>> {
    let select = format!("SELECT {} FROM audit WHERE sequence > ? ORDER BY sequence LIMIT ?", read::AUDIT);
    connection.all(&select, &params![after, limit], read::audit)
}

pub(super) fn audit_keys(connection: &Connection) -> Result<Vec<AuditKey>> {
    let select = "SELECT public_key, created_at FROM audit_keys ORDER BY created_at, public_key";
    connection
        .all(select, &[], |row| Ok(AuditKey { public_key: row.get(0)?, created_at: read::moment(row, 1)? }))
}

pub(super) fn session_secrets(connection: &Connection) -> Result<Vec<SessionSecret>> {
    connection.all(read::SESSION_SECRETS, &[], |row| Ok(read::session_secret(row)?.1))
}

pub(super) fn key_by_hash(connection: &Connection, hash: &KeyHash) -> Result<Option<Found>> {
    let (secret_ends, tier) = (read::KEY_COLUMNS, read::KEY_COLUMNS.saturating_add(1));
    let suspended = tier.saturating_add(1);
    let select = format!(
        "SELECT {}, key_secrets.expires_at, tenants.tier, {TENANT_SUSPENDED} FROM key_secrets \
         JOIN keys ON keys.id = key_secrets.key_id JOIN tenants ON tenants.id = keys.tenant_id \
         WHERE key_secrets.hash = ?",
        read::KEY
    );
    let found = connection.first(&select, &params![hash.as_bytes()], |row| {
        Ok(Found {
            key: read::key(row)?,
            secret_expires_at: read::moment_or_null(row, secret_ends)?,
            tier: row.get(tier)?,
            tenant_suspended: row.get(suspended)?,
            parent: None,
        })
    })?;
    let Some(mut found) = found else { return Ok(None) };
    if let Some(link) = &found.key.parent {
        // Read after its child: whatever happened to it in between is seen.
        let select = format!(
            "SELECT {}, key_secrets.expires_at FROM key_secrets JOIN keys ON keys.id = key_secrets.key_id \
             WHERE key_secrets.hash = ?",
            read::KEY
        );
        found.parent = connection.first(&select, &params![link.secret.as_bytes()], |row| {
            Ok(Parent {
                key: read::key(row)?,
                secret_expires_at: read::moment_or_null(row, read::KEY_COLUMNS)?,
            })
        })?;
    }
    Ok(Some(found))
}

/// Columns of a key's parent, from the first behind those of [`read::KEY`] and the tenant's suspension.
const PARENT: &str = "keys.parent_id IS NOT NULL, parent.id IS NULL OR through.hash IS NULL \
     OR parent.revoked_at IS NOT NULL, parent.expires_at, through.expires_at";
const PARENT_JOINED: &str = "LEFT JOIN keys AS parent ON parent.id = keys.parent_id \
     LEFT JOIN key_secrets AS through ON through.hash = keys.parent_hash";

fn listed(row: &Row<'_>) -> Result<Listed> {
    let at = |offset: usize| read::KEY_COLUMNS.saturating_add(offset);
    let life = Life {
        is_revoked: row.get(at(2))?,
        ends_at: [read::moment_or_null(row, at(3))?, read::moment_or_null(row, at(4))?]
            .into_iter()
            .flatten()
            .min(),
    };
    let is_issued: bool = row.get(at(1))?;
    Ok(Listed {
        key: read::key(row)?,
        tenant_suspended: row.get(at(0))?,
        parent: Some(life).filter(|_| is_issued),
    })
}

fn select_keys(condition: &str) -> String {
    format!(
        "SELECT {}, {TENANT_SUSPENDED}, {PARENT} FROM keys JOIN tenants ON tenants.id = keys.tenant_id \
         {PARENT_JOINED} WHERE {condition}",
        read::KEY
    )
}

pub(super) fn key(connection: &Connection, id: &KeyId) -> Result<Option<Listed>> {
    connection.first(&select_keys("keys.id = ?"), &params![id.as_str()], listed)
}

pub(super) fn keys(connection: &Connection, filter: &KeyFilter) -> Result<Vec<Listed>> {
    let now = filter.now.as_millis();
    let mut condition = "keys.id > ?".to_owned();
    let mut params: Vec<Param<'_>> = vec![Param::Text(filter.after.as_ref().map_or("", KeyId::as_str))];
    if let Some(tenant_id) = &filter.tenant_id {
        condition.push_str(" AND keys.tenant_id = ?");
        params.push(Param::Text(tenant_id.as_str()));
    }
    if let Some(agent_id) = &filter.agent_id {
        condition.push_str(" AND keys.agent_id = ?");
        params.push(Param::Text(agent_id.as_str()));
    }
    let source = filter.source.as_ref().map(serde_json::to_string).transpose()?;
    if let Some(source) = &source {
        condition.push_str(" AND keys.source = ?");
        params.push(Param::Text(source));
    }
    // The same order of questions as `keys::Key::state` and `issued::Life::bounds`.
    let revoked = "(keys.revoked_at IS NOT NULL OR keys.parent_id IS NOT NULL \
                   AND (parent.id IS NULL OR through.hash IS NULL OR parent.revoked_at IS NOT NULL))";
    let lives = "coalesce(keys.expires_at > ?, TRUE) AND coalesce(parent.expires_at > ?, TRUE) \
                 AND coalesce(through.expires_at > ?, TRUE)";
    condition.push_str(&match filter.state {
        None => String::new(),
        Some(KeyState::Revoked) => format!(" AND {revoked}"),
        Some(KeyState::Expired) => format!(" AND NOT {revoked} AND NOT ({lives})"),
        Some(KeyState::Suspended) => {
            format!(" AND NOT {revoked} AND {lives} AND tenants.suspended_at IS NOT NULL")
        }
        Some(KeyState::Active) => {
            format!(" AND NOT {revoked} AND {lives} AND tenants.suspended_at IS NULL")
        }
    });
    if !matches!(filter.state, None | Some(KeyState::Revoked)) {
        params.extend([now.to_param(), now.to_param(), now.to_param()]);
    }
    condition.push_str(" ORDER BY keys.id LIMIT ?");
    params.push(filter.limit.to_param());
    connection.all(&select_keys(&condition), &params, listed)
}

fn tenant_with_accounts(row: &Row<'_>) -> Result<(Tenant, Accounts)> {
    Ok((read::tenant(row, 0)?, read::accounts(row, read::TENANT_COLUMNS)?))
}

fn select_tenants(condition: &str) -> String {
    format!(
        "SELECT {}, {} FROM tenants JOIN accounts ON accounts.tenant_id = tenants.id WHERE {condition}",
        read::TENANT,
        read::ACCOUNTS
    )
}

pub(super) fn tenant(connection: &Connection, id: &TenantId) -> Result<Option<(Tenant, Accounts)>> {
    connection.first(&select_tenants("tenants.id = ?"), &params![id.as_str()], tenant_with_accounts)
}

pub(super) fn tenants(
    connection: &Connection,
    after: Option<&TenantId>,
    limit: u32,
) -> Result<Vec<(Tenant, Accounts)>> {
    let select = select_tenants("tenants.id > ? ORDER BY tenants.id LIMIT ?");
    connection.all(&select, &params![after.map_or("", TenantId::as_str), limit], tenant_with_accounts)
}

pub(super) fn audit(connection: &Connection, filter: &AuditFilter) -> Result<Vec<AuditRow<Box<RawValue>>>> {
    let mut conditions = vec!["TRUE"];
    let mut params: Vec<Param<'_>> = Vec::new();
    let texts = [
        ("tenant_id = ?", filter.tenant_id.as_ref().map(TenantId::as_str)),
        ("outcome = ?", filter.outcome.map(|outcome| outcome.as_str())),
        ("kind = ?", filter.kind.as_deref()),
        ("actor = ?", filter.actor.as_deref()),
    ];
    for (condition, value) in texts {
        if let Some(value) = value {
            conditions.push(condition);
            params.push(Param::Text(value));
        }
    }
    let (from, to) =
        (filter.from.map(|moment| moment.as_millis()), filter.to.map(|moment| moment.as_millis()));
    let numbers = [("sequence < ?", &filter.before), ("recorded_at >= ?", &from), ("recorded_at < ?", &to)];
    for (condition, value) in numbers {
        if let Some(value) = value {
            conditions.push(condition);
            params.push(value.to_param());
        }
    }
    params.push(filter.limit.to_param());
    let select = format!(
        "SELECT {} FROM audit WHERE {} ORDER BY sequence DESC LIMIT ?",
        read::AUDIT,
        conditions.join(" AND ")
    );
    connection.all(&select, &params, read::audit)
}

pub(super) fn policy_other_than(
    connection: &Connection,
    known: &PolicyVersion,
) -> Result<Option<(PolicyVersion, String)>> {
    let select = "SELECT version, document FROM policies \
                  WHERE sequence = (SELECT max(sequence) FROM policies) AND version <> ?";
    connection.first(select, &params![known.as_str()], |row| Ok((read::text(row, 0)?, row.get(1)?)))
}

pub(super) fn knows_policy(connection: &Connection, version: &PolicyVersion) -> Result<bool> {
    let select = "SELECT sequence FROM policies WHERE version = ? LIMIT 1";
    Ok(connection.first(select, &params![version.as_str()], |_| Ok(()))?.is_some())
}

/// The condition for the sums in question, with its parameters.
fn usage_condition(query: &UsageQuery) -> (String, Vec<Param<'_>>) {
    // An hour counts where it begins, so that no call is in two periods that touch.
    let hour = |moment: Timestamp| Rows::usage_hour(moment.plus_millis(HOUR_MILLIS.saturating_sub(1)));
    let first = query.from.map_or(0, hour);
    let end = query.to.map_or(i64::MAX, |to| i64::try_from(hour(to)).unwrap_or(i64::MAX));
    let mut condition = "hour >= ? AND hour < ?".to_owned();
    let mut params = vec![Param::Integer(i64::try_from(first).unwrap_or(i64::MAX)), Param::Integer(end)];
    let texts = [
        (" AND tenant_id = ?", query.tenant_id.as_ref().map(TenantId::as_str)),
        (" AND key_id = ?", query.key_id.as_ref().map(KeyId::as_str)),
        (" AND agent_id = ?", query.agent_id.as_ref().map(AgentId::as_str)),
        (" AND tool = ?", query.tool.as_deref()),
        (" AND outcome = ?", query.outcome.map(|outcome| outcome.as_str())),
    ];
    for (more, value) in texts {
        if let Some(value) = value {
            condition.push_str(more);
            params.push(Param::Text(value));
        }
    }
    (condition, params)
}

/// A sum that fails in neither database, however large: exact up to what credits can hold, and no more than that. The
/// numbers of up to 53 bits are whole ones also among those with a fraction.
fn sum(of: &str) -> String {
    let (sum, most) = (format!("sum(CAST({of} AS DOUBLE PRECISION))"), Credits::MAX);
    format!("CAST(CASE WHEN {sum} < {most} THEN {sum} ELSE {most} END AS BIGINT)")
}

/// The condition for the groups that are on the page in question, with its parameters.
fn page_condition<'q>(columns: &str, query: &'q UsageQuery) -> (String, Vec<Param<'q>>) {
    let (mut condition, mut params) = usage_condition(query);
    if let Some(after) = &query.after {
        condition.push_str(&format!(" AND ({columns}) > ({})", vec!["?"; after.len()].join(", ")));
        params.extend(after.iter().map(|text| Param::Text(text)));
    }
    (condition, params)
}

/// The first texts of a row.
fn group(row: &Row<'_>, texts: usize) -> Result<Group> {
    (0..texts).map(|column| row.get(column)).collect()
}

pub(super) fn usage(connection: &Connection, query: &UsageQuery) -> Result<Vec<(Group, UsageRow)>> {
    let columns: [(bool, &str); USAGE_TEXTS] = [
        (query.by_tenant, "tenant_id"),
        (query.by_key, "key_id"),
        (query.by_agent, "agent_id"),
        (query.by_tool, "tool"),
        (query.by_outcome, "outcome"),
    ];
    let names: String =
        columns.iter().filter(|(grouped, _)| *grouped).map(|(_, name)| format!("{name}, ")).collect();
    let columns = columns.map(|(grouped, name)| if grouped { name } else { "''" }).join(", ");
    let (on_page, mut params) = page_condition(&columns, query);
    let rows_max = u64::from(query.limit).saturating_mul(BUCKETS_MAX);
    params.push(rows_max.to_param());
    let allowed = "CASE outcome WHEN 'allowed' THEN calls ELSE 0 END";
    let sums = ["calls", allowed, "credits", "input_usage_tokens", "output_usage_tokens"].map(sum).join(", ");
    let select = format!(
        "SELECT {columns}, bucket, {sums} FROM usage WHERE {on_page} GROUP BY {names}bucket \
         ORDER BY {names}bucket LIMIT ?"
    );
    // One row for each group and bucket, a group's rows one after the other: one pass over the table. The groups of the page
    // are whole; what follows them is left out.
    let mut sums: Vec<(Group, UsageRow, Histogram)> = Vec::new();
    connection.for_each(&select, &params, |row| {
        let group = group(row, USAGE_TEXTS)?;
        if sums.last().is_none_or(|(last, ..)| *last != group) {
            sums.push((group, usage_of_group(row)?, Histogram::default()));
        }
        if let Some((_, sum, histogram)) = sums.last_mut() {
            let (bucket, calls): (u32, u64) = (row.get(5)?, row.get(6)?);
            sum.calls = sum.calls.saturating_add(calls);
            sum.allowed = sum.allowed.saturating_add(row.get(7)?);
            sum.credits = credits(sum.credits.get().saturating_add(row.get(8)?));
            sum.usage_tokens.input = sum.usage_tokens.input.saturating_add(row.get(9)?);
            sum.usage_tokens.output = sum.usage_tokens.output.saturating_add(row.get(10)?);
            histogram.add(bucket, calls);
        }
        Ok(())
    })?;
    let finished = |(group, row, histogram): (Group, UsageRow, Histogram)| {
        (group, UsageRow { latency_ms: histogram.percentiles(), ..row })
    };
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
    Ok(sums.into_iter().take(limit).map(finished).collect())
}

/// Nothing yet, of the group that a row is of.
fn usage_of_group(row: &Row<'_>) -> Result<UsageRow> {
    let named = |column: usize| -> Result<Option<String>> {
        Ok(Some(row.get::<String>(column)?).filter(|text| !text.is_empty()))
    };
    Ok(UsageRow {
        tenant_id: named(0)?.and_then(|id| TenantId::parse(&id).ok()),
        key_id: named(1)?.and_then(|id| KeyId::parse(&id).ok()),
        agent_id: named(2)?.and_then(|id| AgentId::parse(&id).ok()),
        tool: named(3)?,
        outcome: named(4)?.as_deref().and_then(outcome),
        calls: 0,
        allowed: 0,
        credits: credits(0),
        usage_tokens: UsageTokenSums::default(),
        latency_ms: None,
    })
}

pub(super) fn shadow(connection: &Connection, query: &UsageQuery) -> Result<Vec<(Group, ShadowRow)>> {
    let columns = "would_deny, tenant_id, tool";
    let (condition, mut params) = page_condition(columns, query);
    params.push(query.limit.to_param());
    let (calls, charged) = (sum("calls"), sum("credits"));
    let select = format!(
        "SELECT {columns}, {calls}, {charged} FROM usage WHERE would_deny <> '' AND {condition} \
         GROUP BY {columns} ORDER BY {columns} LIMIT ?"
    );
    connection.all(&select, &params, |row| {
        let would_deny: String = row.get(0)?;
        let sums = ShadowRow {
            would_deny: outcome(&would_deny)
                .ok_or_else(|| super::sql::Error::broken(0, "an unknown outcome"))?,
            tenant_id: TenantId::parse(&row.get::<String>(1)?).ok(),
            tool: Some(row.get::<String>(2)?).filter(|tool| !tool.is_empty()),
            calls: row.get(3)?,
            credits: credits(row.get(4)?),
        };
        Ok((group(row, SHADOW_TEXTS)?, sums))
    })
}

pub(super) fn changes(connection: &Connection, after: u64, limit: u32) -> Result<ChangesKept> {
    // Bounds and rows must be of one moment.
    connection.snapshot(|snapshot| {
        let (floor, newest) = save::feed_bounds(snapshot)?;
        let select = "SELECT position, change FROM changes WHERE position > ? ORDER BY position LIMIT ?";
        let changes =
            snapshot.all(select, &params![after, limit], |row| Ok((row.get(0)?, read::json(row, 1)?)))?;
        Ok(ChangesKept { floor, newest, changes })
    })
}
