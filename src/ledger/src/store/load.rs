//! Loads the rows that a transaction's operations need.

use super::read;
use super::sql::{Connection, Result, Row, params};
use crate::idempotency::Replay;
use crate::store::{Needs, Rows};
use protocol::api_key::KeyHash;
use protocol::{EventId, KeyId, ReservationId, TenantId};
use std::collections::BTreeSet;

/// Loads them, each table's in the keys' order.
pub fn load(connection: &Connection, needs: &Needs) -> Result<Rows> {
    let mut rows = Rows::default();
    let mut tenants: BTreeSet<TenantId> = needs.tenants.clone();
    reservations(connection, needs, &mut rows, &mut tenants)?;
    let select = format!("SELECT {} FROM keys WHERE id", read::KEY);
    let ids = needs.keys.union(&needs.secrets_of).map(KeyId::as_str);
    for key in connection.each(&select, ids, read::key)? {
        tenants.insert(key.tenant_id.clone());
        rows.keys.load(key.id.clone(), key);
    }
    secrets(connection, needs, &mut rows)?;
    load_tenants(connection, &tenants, &mut rows)?;
    replays(connection, needs, &mut rows)?;
    let known = "SELECT event_id FROM audit WHERE event_id";
    let ids = needs.events.iter().map(EventId::as_str);
    rows.known_events.extend(connection.each(known, ids, |row| read::text(row, 0))?);
    if needs.policy {
        let newest = "SELECT version FROM policies ORDER BY sequence DESC LIMIT 1";
        let version = connection.first(newest, &[], |row| read::text(row, 0))?;
        rows.policy = version.map(|version| (version, None));
    }
    if needs.service_credentials {
        let any = connection.first("SELECT id FROM service_credentials LIMIT 1", &[], |_| Ok(()))?;
        rows.has_service_credentials = any.is_some();
    }
    Ok(rows)
}

fn reservations(
    connection: &Connection,
    needs: &Needs,
    rows: &mut Rows,
    tenants: &mut BTreeSet<TenantId>,
) -> Result<()> {
    let select = format!("SELECT {} FROM reservations WHERE id", read::RESERVATION);
    let ids = needs.reservations.iter().map(ReservationId::as_str);
    let mut found = connection.each(&select, ids, read::reservation)?;
    if let Some((now, limit)) = needs.due {
        let select = format!(
            "SELECT {} FROM reservations WHERE state = 'pending' AND expires_at <= ? ORDER BY expires_at LIMIT ?",
            read::RESERVATION
        );
        let due = connection.all(&select, &params![now.as_millis(), limit], read::reservation)?;
        rows.due.extend(due.iter().map(|reservation| reservation.request.id.clone()));
        found.extend(due);
    }
    for reservation in found {
        tenants.insert(reservation.request.tenant_id.clone());
        rows.reservations.load(reservation.request.id.clone(), reservation);
    }
    Ok(())
}

fn secrets(connection: &Connection, needs: &Needs, rows: &mut Rows) -> Result<()> {
    let select = "SELECT hash, key_id, created_at, expires_at FROM key_secrets WHERE key_id";
    let ids = needs.secrets_of.iter().map(KeyId::as_str);
    for (hash, secret) in connection.each(select, ids, |row| Ok((row.get(0)?, read::secret(row, 1)?)))? {
        rows.secrets.load(KeyHash::from_bytes(hash), secret);
    }
    Ok(())
}

fn load_tenants(connection: &Connection, ids: &BTreeSet<TenantId>, rows: &mut Rows) -> Result<()> {
    let select = format!(
        "SELECT {}, {} FROM tenants JOIN accounts ON accounts.tenant_id = tenants.id WHERE tenants.id",
        read::TENANT,
        read::ACCOUNTS
    );
    let read = |row: &Row<'_>| Ok((read::tenant(row, 0)?, read::accounts(row, read::TENANT_COLUMNS)?));
    for (tenant, accounts) in connection.each(&select, ids.iter().map(TenantId::as_str), read)? {
        rows.accounts.load(tenant.id.clone(), accounts);
        rows.tenants.load(tenant.id.clone(), tenant);
    }
    Ok(())
}

fn replays(connection: &Connection, needs: &Needs, rows: &mut Rows) -> Result<()> {
    let select = "SELECT body, answer, created_at FROM replays WHERE actor = ? AND route = ? AND key = ?";
    for at in &needs.replays {
        let found = connection.first(select, &params![at.actor, at.route, at.key], |row| {
            Ok(Replay { body: row.get(0)?, answer: row.get(1)?, created_at: read::moment(row, 2)? })
        })?;
        if let Some(replay) = found {
            rows.replays.load(at.clone(), replay);
        }
    }
    Ok(())
}
