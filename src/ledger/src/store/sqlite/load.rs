//! Loads the rows that a transaction's operations need.

use super::read;
use crate::book::Reservation;
use crate::idempotency::Replay;
use crate::keys::Key;
use crate::store::{Needs, Rows};
use protocol::api_key::KeyHash;
use protocol::{KeyId, ReservationId, TenantId};
use rusqlite::{Connection, OptionalExtension, Result, params};
use std::collections::BTreeSet;

/// Loads them. Each table's rows are asked for one by one, by prepared statements and in the keys' order: in an
/// embedded database that is no slower than one statement for all.
pub fn load(connection: &Connection, needs: &Needs) -> Result<Rows> {
    let mut rows = Rows::default();
    let mut tenants: BTreeSet<TenantId> = needs.tenants.clone();
    for reservation in reservations(connection, &needs.reservations)? {
        tenants.insert(reservation.request.tenant_id.clone());
        rows.reservations.load(reservation.request.id.clone(), reservation);
    }
    for reservation in due(connection, needs)? {
        tenants.insert(reservation.request.tenant_id.clone());
        rows.due.push(reservation.request.id.clone());
        rows.reservations.load(reservation.request.id.clone(), reservation);
    }
    for key in keys(connection, needs.keys.union(&needs.secrets_of))? {
        tenants.insert(key.tenant_id.clone());
        rows.keys.load(key.id.clone(), key);
    }
    secrets(connection, needs, &mut rows)?;
    load_tenants(connection, &tenants, &mut rows)?;
    replays(connection, needs, &mut rows)?;
    let mut known = connection.prepare_cached("SELECT 1 FROM audit WHERE event_id = ?1")?;
    for id in &needs.events {
        if known.exists([id.as_str()])? {
            rows.known_events.insert(id.clone());
        }
    }
    if needs.policy {
        let newest = "SELECT version FROM policies ORDER BY sequence DESC LIMIT 1";
        rows.policy = connection
            .query_row(newest, [], |row| read::text(row, 0))
            .optional()?
            .map(|version| (version, None));
    }
    if needs.service_credentials {
        let any = "SELECT EXISTS (SELECT 1 FROM service_credentials)";
        rows.has_service_credentials = connection.query_row(any, [], |row| row.get(0))?;
    }
    Ok(rows)
}

fn reservations(connection: &Connection, ids: &BTreeSet<ReservationId>) -> Result<Vec<Reservation>> {
    let mut statement = connection
        .prepare_cached(&format!("SELECT {} FROM reservations WHERE id = ?1", read::RESERVATION))?;
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        found.extend(statement.query_row([id.as_str()], read::reservation).optional()?);
    }
    Ok(found)
}

fn due(connection: &Connection, needs: &Needs) -> Result<Vec<Reservation>> {
    let Some((now, limit)) = needs.due else { return Ok(Vec::new()) };
    connection
        .prepare_cached(&format!(
            "SELECT {} FROM reservations WHERE state = 'pending' AND expires_at <= ?1 \
             ORDER BY expires_at LIMIT ?2",
            read::RESERVATION
        ))?
        .query_map(params![now.as_millis(), limit], read::reservation)?
        .collect()
}

fn keys<'a>(connection: &Connection, ids: impl Iterator<Item = &'a KeyId>) -> Result<Vec<Key>> {
    let mut statement =
        connection.prepare_cached(&format!("SELECT {} FROM keys WHERE id = ?1", read::KEY))?;
    let mut found = Vec::new();
    for id in ids {
        found.extend(statement.query_row([id.as_str()], read::key).optional()?);
    }
    Ok(found)
}

fn secrets(connection: &Connection, needs: &Needs, rows: &mut Rows) -> Result<()> {
    let mut statement = connection
        .prepare_cached("SELECT hash, key_id, created_at, expires_at FROM key_secrets WHERE key_id = ?1")?;
    for id in &needs.secrets_of {
        for secret in statement.query_map([id.as_str()], |row| Ok((row.get(0)?, read::secret(row, 1)?)))? {
            let (hash, secret) = secret?;
            rows.secrets.load(KeyHash::from_bytes(hash), secret);
        }
    }
    Ok(())
}

fn load_tenants(connection: &Connection, ids: &BTreeSet<TenantId>, rows: &mut Rows) -> Result<()> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {}, {} FROM tenants JOIN accounts ON accounts.tenant_id = tenants.id WHERE tenants.id = ?1",
        read::TENANT,
        read::ACCOUNTS
    ))?;
    for id in ids {
        let found = statement
            .query_row([id.as_str()], |row| {
                Ok((read::tenant(row, 0)?, read::accounts(row, read::TENANT_COLUMNS)?))
            })
            .optional()?;
        if let Some((tenant, accounts)) = found {
            rows.tenants.load(id.clone(), tenant);
            rows.accounts.load(id.clone(), accounts);
        }
    }
    Ok(())
}

fn replays(connection: &Connection, needs: &Needs, rows: &mut Rows) -> Result<()> {
    let mut statement = connection.prepare_cached(
        "SELECT body, answer, created_at FROM replays WHERE actor = ?1 AND route = ?2 AND key = ?3",
    )?;
    for at in &needs.replays {
        let found = statement
            .query_row([&at.actor, &at.route, &at.key], |row| {
                Ok(Replay { body: row.get(0)?, answer: row.get(1)?, created_at: read::moment(row, 2)? })
            })
            .optional()?;
        if let Some(replay) = found {
            rows.replays.load(at.clone(), replay);
        }
    }
    Ok(())
}
