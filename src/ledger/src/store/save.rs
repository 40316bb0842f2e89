//! Writes the rows that a transaction's operations changed.

mod lent;

use super::sql::{Connection, Insert, Kind, Param, Result, ToParam, params};
use crate::book::{Reservation, State};
use crate::keys::Key;
use crate::store::Rows;
use protocol::{Credits, TenantId, Timestamp};
use serde::Serialize;

/// How many changes the feed keeps. A filter that was away for more starts over.
const CHANGES_KEPT: u64 = 10_000;

/// Writes them, and returns the newest position of the change feed if it moved.
pub fn save(connection: &Connection, rows: &Rows) -> Result<Option<u64>> {
    tenants(connection, rows)?;
    keys(connection, rows)?;
    reservations(connection, rows)?;
    lent::save(connection, rows)?;
    journal(connection, rows)?;
    events(connection, rows)?;
    usage(connection, rows)?;
    replays(connection, rows)?;
    service_credentials(connection, rows)?;
    agents(connection, rows)?;
    spending(connection, rows)?;
    chain(connection, rows)?;
    for (number, secret) in &rows.new_session_secrets {
        let insert = "INSERT INTO session_secrets (number, secret, signs_from) VALUES (?, ?, ?)";
        connection.execute(insert, &params![*number, secret.bytes(), secret.signs_from.as_millis()])?;
    }
    for number in &rows.forget_session_secrets {
        connection.execute("DELETE FROM session_secrets WHERE number = ?", &params![*number])?;
    }
    for (version, document, in_force_at) in &rows.policies {
        connection.execute(
            "INSERT INTO policies (version, in_force_at, document) VALUES (?, ?, ?)",
            &params![version.as_str(), in_force_at.as_millis(), document],
        )?;
    }
    changes(connection, rows)
}

fn json(value: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string(value)?)
}

fn json_or_null<T: Serialize>(value: &Option<T>) -> Result<Option<String>> {
    value.as_ref().map(json).transpose()
}

const TENANTS: Insert<'_> = Insert {
    table: "tenants",
    columns: &[
        ("id", Kind::Text),
        ("name", Kind::Text),
        ("tier", Kind::Text),
        ("created_at", Kind::Integer),
        ("suspended_at", Kind::Integer),
        ("budget", Kind::Integer),
        ("version", Kind::Integer),
    ],
    conflict: "ON CONFLICT (id) DO UPDATE SET name = excluded.name, tier = excluded.tier, \
               suspended_at = excluded.suspended_at, budget = excluded.budget, version = excluded.version",
};

pub(crate) const ACCOUNTS: Insert<'_> = Insert {
    table: "accounts",
    columns: &[
        ("tenant_id", Kind::Text),
        ("granted", Kind::Integer),
        ("available", Kind::Integer),
        ("pending", Kind::Integer),
        ("posted", Kind::Integer),
    ],
    conflict: "ON CONFLICT (tenant_id) DO UPDATE SET granted = excluded.granted, \
               available = excluded.available, pending = excluded.pending, posted = excluded.posted",
};

fn tenants(connection: &Connection, rows: &Rows) -> Result<()> {
    let tenants = rows.tenants.dirty();
    connection.insert(
        &TENANTS,
        tenants.iter().map(|(id, tenant, _)| {
            [
                Param::Text(id.as_str()),
                tenant.name.to_param(),
                tenant.tier.to_param(),
                integer(tenant.created_at.as_millis()),
                integer_or_null(tenant.suspended_at.map(|moment| moment.as_millis())),
                integer_or_null(tenant.budget.map(Credits::get)),
                integer(tenant.version),
            ]
        }),
    )?;
    let accounts = rows.accounts.dirty();
    connection.insert(
        &ACCOUNTS,
        accounts.iter().map(|(id, accounts, _)| {
            let balance = accounts.balance();
            [
                Param::Text(id.as_str()),
                integer(balance.granted.get()),
                integer(balance.available.get()),
                integer(balance.pending.get()),
                integer(balance.posted.get()),
            ]
        }),
    )
}

/// Of numbers that are no fields, so that nothing is borrowed.
fn integer(number: u64) -> Param<'static> {
    Param::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

fn integer_or_null(number: Option<u64>) -> Param<'static> {
    number.map_or(Param::Null, integer)
}

const KEY_SECRETS: Insert<'_> = Insert {
    table: "key_secrets",
    columns: &[
        ("hash", Kind::Bytes),
        ("key_id", Kind::Text),
        ("created_at", Kind::Integer),
        ("expires_at", Kind::Integer),
    ],
    conflict: "ON CONFLICT (hash) DO UPDATE SET expires_at = excluded.expires_at",
};

fn keys(connection: &Connection, rows: &Rows) -> Result<()> {
    for (_, key, _) in rows.keys.dirty() {
        put_key(connection, key)?;
    }
    let secrets = rows.secrets.dirty();
    connection.insert(
        &KEY_SECRETS,
        secrets.iter().map(|(hash, secret, _)| {
            [
                Param::Bytes(hash.as_bytes()),
                Param::Text(secret.key_id.as_str()),
                integer(secret.created_at.as_millis()),
                integer_or_null(secret.expires_at.map(|moment| moment.as_millis())),
            ]
        }),
    )
}

fn put_key(connection: &Connection, key: &Key) -> Result<()> {
    connection.execute(
        "INSERT INTO keys (id, tenant_id, name, scopes, services, tools, resources, limits, expires_at, \
         agent_id, source, created_at, revoked_at, last_used_at, budget, version, parent_id, parent_hash, \
         concurrency) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET \
         name = excluded.name, scopes = excluded.scopes, services = excluded.services, \
         tools = excluded.tools, resources = excluded.resources, limits = excluded.limits, \
         expires_at = excluded.expires_at, agent_id = excluded.agent_id, \
         revoked_at = excluded.revoked_at, last_used_at = excluded.last_used_at, \
         budget = excluded.budget, version = excluded.version, concurrency = excluded.concurrency",
        &params![
            key.id.as_str(),
            key.tenant_id.as_str(),
            key.name,
            json(&key.scopes)?,
            json_or_null(&key.services)?,
            json_or_null(&key.tools)?,
            json_or_null(&key.resources)?,
            json(&key.limits)?,
            key.expires_at.map(|moment| moment.as_millis()),
            key.agent_id.as_ref().map(|id| id.as_str()),
            json(&key.source)?,
            key.created_at.as_millis(),
            key.revoked_at.map(|moment| moment.as_millis()),
            key.last_used_at.map(|moment| moment.as_millis()),
            key.budget.map(Credits::get),
            key.version,
            key.parent.as_ref().map(|parent| parent.key_id.as_str()),
            key.parent.as_ref().map(|parent| parent.secret.as_bytes()),
            json_or_null(&key.concurrency)?,
        ],
    )?;
    Ok(())
}

pub(crate) const RESERVATIONS: Insert<'_> = Insert {
    table: "reservations",
    columns: &[
        ("id", Kind::Text),
        ("tenant_id", Kind::Text),
        ("key_id", Kind::Text),
        ("service", Kind::Text),
        ("tool", Kind::Text),
        ("credits", Kind::Integer),
        ("overrun", Kind::Integer),
        ("ttl_seconds", Kind::Integer),
        ("policy_version", Kind::Text),
        ("reserved_at", Kind::Integer),
        ("expires_at", Kind::Integer),
        ("available_after", Kind::Integer),
        ("state", Kind::Text),
        ("asked", Kind::Integer),
        ("charged", Kind::Integer),
    ],
    conflict: "ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at, state = excluded.state, \
               asked = excluded.asked, charged = excluded.charged",
};

const RESERVATIONS_GIVEN_UP: Insert<'_> = Insert {
    table: "reservations_given_up",
    columns: &[("id", Kind::Text), ("at", Kind::Integer)],
    conflict: "ON CONFLICT (id) DO NOTHING",
};

fn reservations(connection: &Connection, rows: &Rows) -> Result<()> {
    let given_up = rows.reservations_given_up.dirty();
    connection.insert(
        &RESERVATIONS_GIVEN_UP,
        given_up.iter().map(|(id, at, _)| [Param::Text(id.as_str()), integer(at.as_millis())]),
    )?;
    if let Some(moment) = rows.forget_ended_before {
        let forget = "DELETE FROM reservations_given_up WHERE at < ?";
        connection.execute(forget, &params![moment.as_millis()])?;
    }
    let reservations = rows.reservations.dirty();
    connection.insert(
        &RESERVATIONS,
        reservations.iter().map(|(id, reservation, _)| {
            let request = &reservation.request;
            let (asked, charged) = charge(reservation);
            [
                Param::Text(id.as_str()),
                Param::Text(request.tenant_id.as_str()),
                Param::Text(request.key_id.as_str()),
                Param::Text(&request.service),
                Param::Text(&request.tool),
                integer(request.credits.get()),
                integer(request.overrun.get()),
                integer(request.ttl_seconds.into()),
                Param::Text(request.policy_version.as_str()),
                integer(reservation.reserved_at.as_millis()),
                integer(reservation.expires_at.as_millis()),
                integer(reservation.available_after.get()),
                Param::Text(reservation.state.name()),
                integer_or_null(asked),
                integer_or_null(charged),
            ]
        }),
    )
}

/// What was asked and what was charged, as columns.
fn charge(reservation: &Reservation) -> (Option<u64>, Option<u64>) {
    match reservation.state {
        State::Posted { asked, charged } => (Some(asked.get()), Some(charged.get())),
        State::Expired { asked, charged } => (asked.map(Credits::get), Some(charged.get())),
        State::Pending | State::Voided | State::Lapsed => (None, None),
    }
}

pub(crate) const TRANSFERS: Insert<'_> = Insert {
    table: "transfers",
    columns: &[
        ("id", Kind::Text),
        ("tenant_id", Kind::Text),
        ("reservation_id", Kind::Text),
        ("lease_id", Kind::Text),
        ("kind", Kind::Text),
        ("from_account", Kind::Text),
        ("to_account", Kind::Text),
        ("credits", Kind::Integer),
        ("at", Kind::Integer),
    ],
    conflict: "",
};

fn journal(connection: &Connection, rows: &Rows) -> Result<()> {
    connection.insert(
        &TRANSFERS,
        rows.journal.iter().map(|line| {
            let (from, to) = line.transfer.kind.route();
            [
                line.id.as_ref().map_or(Param::Null, |id| Param::Text(id.as_str())),
                Param::Text(line.tenant_id.as_str()),
                line.reservation_id.as_ref().map_or(Param::Null, |id| Param::Text(id.as_str())),
                line.lease_id.as_ref().map_or(Param::Null, |id| Param::Text(id.as_str())),
                Param::Text(line.transfer.kind.as_str()),
                Param::Text(from.as_str()),
                Param::Text(to.as_str()),
                integer(line.transfer.credits.get()),
                integer(line.transfer.at.as_millis()),
            ]
        }),
    )
}

pub(crate) const AUDIT: Insert<'_> = Insert {
    table: "audit",
    columns: &[
        ("sequence", Kind::Integer),
        ("recorded_at", Kind::Integer),
        ("kind", Kind::Text),
        ("actor", Kind::Text),
        ("tenant_id", Kind::Text),
        ("outcome", Kind::Text),
        ("event_id", Kind::Text),
        ("detail", Kind::Text),
    ],
    conflict: "",
};

fn events(connection: &Connection, rows: &Rows) -> Result<()> {
    if rows.events.is_empty() {
        return Ok(());
    }
    // One writer at a time makes the next number one more than the largest, so there are no gaps; the newest row is
    // never deleted.
    let newest = "SELECT coalesce(max(sequence), 0) FROM audit";
    let newest: u64 = connection.first(newest, &[], |row| row.get(0))?.unwrap_or_default();
    connection.insert(
        &AUDIT,
        (newest.saturating_add(1)..).zip(&rows.events).map(|(sequence, event)| {
            [
                integer(sequence),
                integer(event.at.as_millis()),
                Param::Text(event.kind.as_str()),
                Param::Text(&event.actor),
                event.tenant_id.as_ref().map_or(Param::Null, |id| Param::Text(TenantId::as_str(id))),
                event.outcome.map_or(Param::Null, |outcome| Param::Text(outcome.as_str())),
                event.event_id.as_ref().map_or(Param::Null, |id| Param::Text(id.as_str())),
                Param::Text(&event.detail),
            ]
        }),
    )
}

/// Adds to a column of sums, up to what an integer can hold: a sum that can't be written would take all others of its
/// transaction with it.
macro_rules! added {
    ($column:literal) => {
        concat!(
            $column,
            " = CASE WHEN usage.",
            $column,
            " > 9223372036854775807 - excluded.",
            $column,
            " THEN 9223372036854775807 ELSE usage.",
            $column,
            " + excluded.",
            $column,
            " END"
        )
    };
}

const USAGE: Insert<'_> = Insert {
    table: "usage",
    columns: &[
        ("hour", Kind::Integer),
        ("tenant_id", Kind::Text),
        ("key_id", Kind::Text),
        ("agent_id", Kind::Text),
        ("tool", Kind::Text),
        ("outcome", Kind::Text),
        ("would_deny", Kind::Text),
        ("bucket", Kind::Integer),
        ("calls", Kind::Integer),
        ("credits", Kind::Integer),
        ("input_usage_tokens", Kind::Integer),
        ("output_usage_tokens", Kind::Integer),
    ],
    conflict: concat!(
        "ON CONFLICT (hour, tenant_id, key_id, agent_id, tool, outcome, would_deny, bucket) DO UPDATE SET ",
        added!("calls"),
        ", ",
        added!("credits"),
        ", ",
        added!("input_usage_tokens"),
        ", ",
        added!("output_usage_tokens")
    ),
};

fn usage(connection: &Connection, rows: &Rows) -> Result<()> {
    connection.insert(
        &USAGE,
        rows.usage.iter().map(|(key, sum)| {
            [
                integer(key.hour),
                Param::Text(&key.tenant_id),
                Param::Text(&key.key_id),
                Param::Text(&key.agent_id),
                Param::Text(&key.tool),
                Param::Text(key.outcome),
                Param::Text(key.would_deny),
                integer(key.bucket.into()),
                integer(sum.calls),
                integer(sum.credits),
                integer(sum.input_usage_tokens),
                integer(sum.output_usage_tokens),
            ]
        }),
    )
}

fn service_credentials(connection: &Connection, rows: &Rows) -> Result<()> {
    let mut dirty = rows.service_credentials.dirty();
    // At most one secret of a credential has no end, so the end of the earlier one is written first.
    dirty.sort_by_key(|(_, credential, _)| credential.secret_expires_at.is_none());
    for (hash, credential, _) in dirty {
        connection.execute(
            "INSERT INTO service_credentials (hash, id, door, name, role, tenant_id, created_at, revoked_at, \
             secret_expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (hash) DO UPDATE SET \
             revoked_at = excluded.revoked_at, secret_expires_at = excluded.secret_expires_at",
            &params![
                hash.as_bytes(),
                credential.id.as_str(),
                credential.door.as_str(),
                credential.name,
                credential.role.as_str(),
                credential.tenant_id.as_ref().map(TenantId::as_str),
                credential.created_at.as_millis(),
                credential.revoked_at.map(|moment| moment.as_millis()),
                credential.secret_expires_at.map(|moment| moment.as_millis()),
            ],
        )?;
    }
    Ok(())
}

fn agents(connection: &Connection, rows: &Rows) -> Result<()> {
    for (id, agent, _) in rows.agents.dirty() {
        connection.execute(
            "INSERT INTO agents (id, tenant_id, name, created_at) VALUES (?, ?, ?, ?)",
            &params![id.as_str(), agent.tenant_id.as_str(), agent.name, agent.created_at.as_millis()],
        )?;
    }
    Ok(())
}

const SPENDING: Insert<'_> = Insert {
    table: "spending",
    columns: &[
        ("tenant_id", Kind::Text),
        ("key_id", Kind::Text),
        ("month", Kind::Integer),
        ("credits", Kind::Integer),
    ],
    conflict: "ON CONFLICT (tenant_id, key_id, month) DO UPDATE SET credits = excluded.credits",
};

fn spending(connection: &Connection, rows: &Rows) -> Result<()> {
    let spending = rows.spending.dirty();
    connection.insert(
        &SPENDING,
        spending.iter().map(|(at, credits, _)| {
            [
                Param::Text(at.tenant_id.as_str()),
                Param::Text(at.key_id.as_ref().map_or("", |id| id.as_str())),
                integer(at.month.number().into()),
                integer(credits.get()),
            ]
        }),
    )
}

/// Checkpoints of the audit trail, the keys that sign them, and what is no longer retained.
fn chain(connection: &Connection, rows: &Rows) -> Result<()> {
    for checkpoint in &rows.checkpoints {
        connection.execute(
            "INSERT INTO audit_batches (number, first, last, sealed_at, previous, root, hash, public_key, \
             signature, leaves) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            &params![
                checkpoint.number,
                checkpoint.first,
                checkpoint.last,
                checkpoint.sealed_at.as_millis(),
                checkpoint.previous.as_bytes(),
                checkpoint.root.as_bytes(),
                checkpoint.hash.as_bytes(),
                checkpoint.public_key,
                checkpoint.signature,
                checkpoint.leaves,
            ],
        )?;
    }
    if let Some((public_key, created_at)) = &rows.audit_key {
        let insert = "INSERT INTO audit_keys (public_key, created_at) VALUES (?, ?)";
        connection.execute(insert, &params![public_key, created_at.as_millis()])?;
    }
    if rows.decisions_dropped > 0 {
        let update = "UPDATE audit_state SET decisions_dropped = CASE \
                      WHEN decisions_dropped > 9223372036854775807 - ?1 THEN 9223372036854775807 \
                      ELSE decisions_dropped + ?1 END";
        connection.execute(update, &params![rows.decisions_dropped])?;
    }
    if rows.retention_changed {
        let millis = |moment: Option<Timestamp>| moment.map(Timestamp::as_millis);
        let known = rows.retention;
        let update = "UPDATE audit_state SET clock = ?, removed_before = ?";
        connection.execute(update, &params![millis(known.clock), millis(known.removed_before)])?;
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

fn replays(connection: &Connection, rows: &Rows) -> Result<()> {
    for (at, replay, _) in rows.replays.dirty() {
        connection.execute(
            "INSERT INTO replays (actor, route, key, body, answer, created_at) VALUES (?, ?, ?, ?, ?, ?)",
            &params![at.actor, at.route, at.key, replay.body, replay.answer, replay.created_at.as_millis()],
        )?;
    }
    if let Some(moment) = rows.forget_replays_before {
        connection.execute("DELETE FROM replays WHERE created_at < ?", &params![moment.as_millis()])?;
    }
    Ok(())
}

fn changes(connection: &Connection, rows: &Rows) -> Result<Option<u64>> {
    if rows.changes.is_empty() {
        return Ok(None);
    }
    let (_, mut newest) = feed_bounds(connection)?;
    for (change, at) in &rows.changes {
        newest = newest.saturating_add(1);
        let insert = "INSERT INTO changes (position, at, change) VALUES (?, ?, ?)";
        connection.execute(insert, &params![newest, at.as_millis(), json(change)?])?;
    }
    let forgotten = newest.saturating_sub(CHANGES_KEPT);
    connection.execute("DELETE FROM changes WHERE position <= ?", &params![forgotten])?;
    connection.tell_news()?;
    Ok(Some(newest))
}

/// The position up to which changes are no longer kept, and the newest.
pub fn feed_bounds(connection: &Connection) -> Result<(u64, u64)> {
    let bounds = "SELECT coalesce(min(position) - 1, (SELECT base FROM feed)), \
                  coalesce(max(position), (SELECT base FROM feed)) FROM changes";
    let bounds = connection.first(bounds, &[], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(bounds.unwrap_or_default())
}
