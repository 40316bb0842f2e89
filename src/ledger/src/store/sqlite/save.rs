//! Writes the rows that a transaction's operations changed.

use crate::book::{Late, Reservation, State};
use crate::keys::Key;
use crate::store::Rows;
use crate::store::table::Mark;
use protocol::{KeyId, TenantId};
use rusqlite::{Connection, Error, Result, params};
use serde::Serialize;

/// How many changes the feed keeps. A filter that was away for more starts over.
const CHANGES_KEPT: u64 = 10_000;

/// Writes them, and returns the newest position of the change feed if it moved.
pub fn save(connection: &Connection, rows: &Rows) -> Result<Option<u64>> {
    tenants(connection, rows)?;
    keys(connection, rows)?;
    reservations(connection, rows)?;
    journal(connection, rows)?;
    events(connection, rows)?;
    usage(connection, rows)?;
    replays(connection, rows)?;
    for (hash, credential, created_at) in &rows.service_credentials {
        connection.execute(
            "INSERT INTO service_credentials (hash, id, door, created_at) VALUES (?1, ?2, ?3, ?4)",
            params![hash.as_bytes(), credential.id, credential.door.as_str(), created_at.as_millis()],
        )?;
    }
    if let Some((version, Some((document, in_force_at)))) = &rows.policy {
        connection.execute(
            "INSERT INTO policies (version, in_force_at, document) VALUES (?1, ?2, ?3)",
            params![version.as_str(), in_force_at.as_millis(), document],
        )?;
    }
    changes(connection, rows)
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::ToSqlConversionFailure(Box::new(error)))
}

fn json_or_null<T: Serialize>(value: &Option<T>) -> Result<Option<String>> {
    value.as_ref().map(json).transpose()
}

fn tenants(connection: &Connection, rows: &Rows) -> Result<()> {
    let mut put = connection.prepare_cached(
        "INSERT INTO tenants (id, name, tier, created_at, suspended_at) VALUES (?1, ?2, ?3, ?4, ?5) \
         ON CONFLICT (id) DO UPDATE SET name = ?2, tier = ?3, suspended_at = ?5",
    )?;
    for (id, tenant, _) in rows.tenants.dirty() {
        put.execute(params![
            id.as_str(),
            tenant.name,
            tenant.tier,
            tenant.created_at.as_millis(),
            tenant.suspended_at.map(|moment| moment.as_millis()),
        ])?;
    }
    let mut put = connection.prepare_cached(
        "INSERT INTO accounts (tenant_id, granted, available, pending, posted) VALUES (?1, ?2, ?3, ?4, ?5) \
         ON CONFLICT (tenant_id) DO UPDATE SET granted = ?2, available = ?3, pending = ?4, posted = ?5",
    )?;
    for (id, accounts, _) in rows.accounts.dirty() {
        let balance = accounts.balance();
        put.execute(params![
            id.as_str(),
            balance.granted.get(),
            balance.available.get(),
            balance.pending.get(),
            balance.posted.get(),
        ])?;
    }
    Ok(())
}

fn keys(connection: &Connection, rows: &Rows) -> Result<()> {
    for (id, key, mark) in rows.keys.dirty() {
        if mark == Mark::New {
            insert_key(connection, id, key)?;
        } else {
            connection
                .prepare_cached("UPDATE keys SET revoked_at = ?2, last_used_at = ?3 WHERE id = ?1")?
                .execute(params![
                    id.as_str(),
                    key.revoked_at.map(|moment| moment.as_millis()),
                    key.last_used_at.map(|moment| moment.as_millis()),
                ])?;
        }
    }
    for (hash, secret, _) in rows.secrets.dirty() {
        connection
            .prepare_cached(
                "INSERT INTO key_secrets (hash, key_id, created_at, expires_at) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (hash) DO UPDATE SET expires_at = ?4",
            )?
            .execute(params![
                hash.as_bytes(),
                secret.key_id.as_str(),
                secret.created_at.as_millis(),
                secret.expires_at.map(|moment| moment.as_millis()),
            ])?;
    }
    Ok(())
}

fn insert_key(connection: &Connection, id: &KeyId, key: &Key) -> Result<()> {
    connection.execute(
        "INSERT INTO keys (id, tenant_id, name, scopes, services, tools, resources, limits, expires_at, \
         agent_id, source, created_at, revoked_at, last_used_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        params![
            id.as_str(),
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
        ],
    )?;
    Ok(())
}

fn reservations(connection: &Connection, rows: &Rows) -> Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO reservations (id, tenant_id, key_id, service, tool, credits, ttl_seconds, policy_version, \
         reserved_at, expires_at, available_after, state, asked, charged) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
    )?;
    let mut update = connection.prepare_cached(
        "UPDATE reservations SET expires_at = ?2, state = ?3, asked = ?4, charged = ?5 WHERE id = ?1",
    )?;
    for (id, reservation, mark) in rows.reservations.dirty() {
        let (asked, charged) = charge(reservation);
        let state = reservation.state.name();
        let expires_at = reservation.expires_at.as_millis();
        if mark == Mark::Changed {
            update.execute(params![id.as_str(), expires_at, state, asked, charged])?;
            continue;
        }
        let request = &reservation.request;
        insert.execute(params![
            id.as_str(),
            request.tenant_id.as_str(),
            request.key_id.as_str(),
            request.service,
            request.tool,
            request.credits.get(),
            request.ttl_seconds,
            request.policy_version.as_str(),
            reservation.reserved_at.as_millis(),
            expires_at,
            reservation.available_after.get(),
            state,
            asked,
            charged,
        ])?;
    }
    Ok(())
}

/// What was asked and what was charged, as columns.
fn charge(reservation: &Reservation) -> (Option<u64>, Option<u64>) {
    match reservation.state {
        State::Posted { credits } => (Some(credits.get()), Some(credits.get())),
        State::Expired { late: Some(Late { asked, charged }) } => (Some(asked.get()), Some(charged.get())),
        State::Pending | State::Voided | State::Expired { late: None } => (None, None),
    }
}

fn journal(connection: &Connection, rows: &Rows) -> Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO transfers (id, tenant_id, reservation_id, kind, from_account, to_account, credits, at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    for line in &rows.journal {
        let (from, to) = line.transfer.kind.route();
        insert.execute(params![
            line.id.as_ref().map(|id| id.as_str()),
            line.tenant_id.as_str(),
            line.reservation_id.as_ref().map(|id| id.as_str()),
            line.transfer.kind.as_str(),
            from.as_str(),
            to.as_str(),
            line.transfer.credits.get(),
            line.transfer.at.as_millis(),
        ])?;
    }
    Ok(())
}

fn events(connection: &Connection, rows: &Rows) -> Result<()> {
    if rows.events.is_empty() {
        return Ok(());
    }
    // One writer and no deletion make the next number one more than the largest, so there are no gaps.
    let newest: u64 = connection
        .prepare_cached("SELECT coalesce(max(sequence), 0) FROM audit")?
        .query_row([], |row| row.get(0))?;
    let mut insert = connection.prepare_cached(
        "INSERT INTO audit (sequence, recorded_at, kind, actor, tenant_id, outcome, event_id, detail) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    for (sequence, event) in (newest.saturating_add(1)..).zip(&rows.events) {
        insert.execute(params![
            sequence,
            event.at.as_millis(),
            event.kind.as_str(),
            event.actor,
            event.tenant_id.as_ref().map(TenantId::as_str),
            event.outcome.map(|outcome| outcome.as_str()),
            event.event_id.as_ref().map(|id| id.as_str()),
            event.detail,
        ])?;
    }
    Ok(())
}

fn usage(connection: &Connection, rows: &Rows) -> Result<()> {
    let mut add = connection.prepare_cached(
        "INSERT INTO usage (hour, tenant_id, key_id, tool, outcome, calls, credits) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (hour, tenant_id, key_id, tool, outcome) \
         DO UPDATE SET calls = calls + excluded.calls, credits = credits + excluded.credits",
    )?;
    for (key, sum) in &rows.usage {
        add.execute(params![
            key.hour,
            key.tenant_id,
            key.key_id,
            key.tool,
            key.outcome,
            sum.calls,
            sum.credits
        ])?;
    }
    Ok(())
}

fn replays(connection: &Connection, rows: &Rows) -> Result<()> {
    for (at, replay, _) in rows.replays.dirty() {
        connection.execute(
            "INSERT INTO replays (actor, route, key, body, answer, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![at.actor, at.route, at.key, replay.body, replay.answer, replay.created_at.as_millis()],
        )?;
    }
    if let Some(moment) = rows.forget_replays_before {
        connection.execute("DELETE FROM replays WHERE created_at < ?1", [moment.as_millis()])?;
    }
    Ok(())
}

fn changes(connection: &Connection, rows: &Rows) -> Result<Option<u64>> {
    if rows.changes.is_empty() {
        return Ok(None);
    }
    let (_, mut newest) = feed_bounds(connection)?;
    let mut insert =
        connection.prepare_cached("INSERT INTO changes (position, at, change) VALUES (?1, ?2, ?3)")?;
    for (change, at) in &rows.changes {
        newest = newest.saturating_add(1);
        insert.execute(params![newest, at.as_millis(), json(change)?])?;
    }
    connection
        .prepare_cached("DELETE FROM changes WHERE position <= ?1")?
        .execute([newest.saturating_sub(CHANGES_KEPT)])?;
    Ok(Some(newest))
}

/// The position up to which changes are no longer kept, and the newest.
pub fn feed_bounds(connection: &Connection) -> Result<(u64, u64)> {
    connection
        .prepare_cached(
            "SELECT coalesce(min(position) - 1, (SELECT base FROM feed)), \
             coalesce(max(position), (SELECT base FROM feed)) FROM changes",
        )?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
}
