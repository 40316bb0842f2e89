//! Loads the rows that a transaction's operations need.

use super::read;
use super::sql::{Connection, Param, Result, Row, params};
use crate::book::lease::Lease;
use crate::budgets::SpendingKey;
use crate::idempotency::Replay;
use crate::retention::Remembered;
use crate::store::{Needs, Rows};
use protocol::api_key::KeyHash;
use protocol::{AgentId, EventId, KeyId, LeaseId, Month, ReservationId, TenantId};
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
    family(connection, needs, &mut rows)?;
    leases(connection, needs, &mut rows, &mut tenants)?;
    shares(connection, needs, &mut rows)?;
    secrets(connection, needs, &mut rows)?;
    load_tenants(connection, &tenants, &mut rows)?;
    replays(connection, needs, &mut rows)?;
    let known = "SELECT event_id FROM audit WHERE event_id";
    let ids = needs.events.iter().map(EventId::as_str);
    rows.known_events.extend(connection.each(known, ids, |row| read::text(row, 0))?);
    if needs.policy {
        let newest = "SELECT version FROM policies ORDER BY sequence DESC LIMIT 1";
        rows.policy = connection.first(newest, &[], |row| read::text(row, 0))?;
    }
    if needs.service_credentials {
        let select = format!("SELECT {} FROM service_credentials", read::SERVICE_CREDENTIAL);
        for (hash, credential) in connection.all(&select, &[], read::service_credential)? {
            rows.service_credentials.load(hash, credential);
        }
    }
    let select = "SELECT id, tenant_id, name, created_at FROM agents WHERE id";
    for agent in connection.each(select, needs.agents.iter().map(AgentId::as_str), read::agent)? {
        rows.agents.load(agent.id.clone(), agent);
    }
    spending(connection, needs, &mut rows)?;
    if needs.checkpoint {
        let newest = "SELECT number, last, hash FROM audit_batches ORDER BY number DESC LIMIT 1";
        rows.newest_checkpoint = connection.first(newest, &[], read::checkpoint_head)?;
    }
    if needs.audit_keys {
        let known = connection.all("SELECT public_key FROM audit_keys", &[], |row| row.get(0))?;
        rows.audit_keys.extend(known);
    }
    if needs.retention {
        let select = "SELECT clock, removed_before, \
                      (SELECT recorded_at FROM audit ORDER BY sequence DESC LIMIT 1) FROM audit_state";
        let found = connection.first(select, &[], |row| {
            Ok(Remembered {
                clock: read::moment_or_null(row, 0)?,
                removed_before: read::moment_or_null(row, 1)?,
                newest_row: read::moment_or_null(row, 2)?,
            })
        })?;
        rows.retention = found.unwrap_or_default();
    }
    if needs.session_secrets {
        rows.session_secrets.extend(connection.all(read::SESSION_SECRETS, &[], read::session_secret)?);
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
    let select = "SELECT id, at FROM reservations_given_up WHERE id";
    let missing: BTreeSet<&str> = needs
        .reservations
        .iter()
        .filter(|id| rows.reservations.get(id).is_none())
        .map(ReservationId::as_str)
        .collect();
    let read = |row: &Row<'_>| Ok((read::text(row, 0)?, read::moment(row, 1)?));
    for (id, at) in connection.each(select, missing.into_iter(), read)? {
        rows.reservations_given_up.load(id, at);
    }
    Ok(())
}

/// The parents of keys and of the keys that reserved, and how many children live.
fn family(connection: &Connection, needs: &Needs, rows: &mut Rows) -> Result<()> {
    let links = rows.keys.rows().filter_map(|(id, key)| Some((id.clone(), key.parent.clone()?.key_id)));
    rows.parents = links.collect();
    let select = "SELECT id, parent_id FROM keys WHERE parent_id IS NOT NULL AND id";
    let payers: BTreeSet<&str> =
        rows.reservations.rows().map(|(_, reservation)| reservation.request.key_id.as_str()).collect();
    let links =
        connection.each(select, payers.into_iter(), |row| Ok((read::text(row, 0)?, read::text(row, 1)?)))?;
    rows.parents.extend(links);
    let missing: BTreeSet<KeyId> =
        rows.parents.values().filter(|id| rows.keys.get(id).is_none()).cloned().collect();
    let select = format!("SELECT {} FROM keys WHERE id", read::KEY);
    for key in connection.each(&select, missing.iter().map(KeyId::as_str), read::key)? {
        rows.keys.load(key.id.clone(), key);
    }
    let select = "SELECT count(*) FROM keys WHERE parent_id = ? AND expires_at > ? AND revoked_at IS NULL";
    for (key_id, now) in &needs.children_of {
        let living =
            connection.first(select, &params![key_id.as_str(), now.as_millis()], |row| row.get(0))?;
        rows.children.insert(key_id.clone(), living.unwrap_or_default());
    }
    Ok(())
}

fn leases(
    connection: &Connection,
    needs: &Needs,
    rows: &mut Rows,
    tenants: &mut BTreeSet<TenantId>,
) -> Result<()> {
    let select = format!("SELECT {} FROM leases WHERE id", read::LEASE);
    let mut found = connection.each(&select, needs.leases.iter().map(LeaseId::as_str), read::lease)?;
    let mut of = needs.leases_of.clone();
    of.extend(needs.leases_of_keys.iter().filter_map(|id| Some(rows.keys.get(id)?.tenant_id.clone())));
    let select = format!("SELECT {} FROM leases WHERE state = 'open' AND tenant_id", read::LEASE);
    found.extend(connection.each(&select, of.iter().map(TenantId::as_str), read::lease)?);
    if let Some((now, limit)) = needs.leases_due {
        let select = format!(
            "SELECT {} FROM leases WHERE state = 'open' AND expires_at <= ? ORDER BY expires_at LIMIT ?",
            read::LEASE
        );
        let due = connection.all(&select, &params![now.as_millis(), limit], read::lease)?;
        rows.leases_due.extend(due.iter().map(|lease| lease.id.clone()));
        found.extend(due);
    }
    for lease in found {
        tenants.insert(lease.tenant_id.clone());
        rows.load_lease(lease);
    }
    let select = "SELECT id, at FROM leases_given_up WHERE id";
    let read = |row: &Row<'_>| Ok((read::text(row, 0)?, read::moment(row, 1)?));
    for (id, at) in connection.each(select, needs.leases.iter().map(LeaseId::as_str), read)? {
        rows.leases_given_up.load(id, at);
    }
    tenants.extend(needs.leases_of.iter().cloned());
    Ok(())
}

fn shares(connection: &Connection, needs: &Needs, rows: &mut Rows) -> Result<()> {
    let select = format!("SELECT {} FROM shares WHERE key_id = ? AND limit_id = ?", read::SHARE);
    for (key_id, limit_id) in &needs.shares {
        for (at, share) in connection.all(&select, &params![key_id.as_str(), *limit_id], read::share)? {
            rows.load_share(at, share);
        }
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

/// What the keys in need, and their tenants, spent in the months in need, and the same for reservations and leases.
fn spending(connection: &Connection, needs: &Needs, rows: &mut Rows) -> Result<()> {
    let mut wanted: BTreeSet<(TenantId, Option<KeyId>, Month)> = BTreeSet::new();
    let mut want = |tenant_id: &TenantId, key_id: &KeyId, month| {
        wanted.insert((tenant_id.clone(), None, month));
        wanted.insert((tenant_id.clone(), Some(key_id.clone()), month));
    };
    let mut want_all = |tenant_id: &TenantId, key_id: &KeyId, month| {
        want(tenant_id, key_id, month);
        if let Some(parent_id) = rows.parents.get(key_id) {
            want(tenant_id, parent_id, month);
        }
    };
    for (key_id, month) in &needs.spending {
        if let Some(key) = rows.keys.get(key_id) {
            want_all(&key.tenant_id, key_id, *month);
        }
    }
    for (_, reservation) in rows.reservations.rows() {
        let request = &reservation.request;
        want_all(&request.tenant_id, &request.key_id, reservation.reserved_at.month());
    }
    wanted.extend(needs.spending_of.iter().map(|(tenant_id, month)| (tenant_id.clone(), None, *month)));
    let keys = "SELECT key_id FROM spending WHERE month = ? AND key_id <> '' AND tenant_id = ?";
    for (tenant_id, month) in &needs.spending_by_key {
        wanted.insert((tenant_id.clone(), None, *month));
        let at = [Param::Integer(month.number().into()), Param::Text(tenant_id.as_str())];
        for key_id in connection.all(keys, &at, |row| read::text(row, 0))? {
            wanted.insert((tenant_id.clone(), Some(key_id), *month));
        }
    }
    let of_lease = |lease: &Lease| (lease.tenant_id.clone(), None, lease.opened_at.month());
    wanted.extend(rows.leases.rows().map(|(_, lease)| of_lease(lease)));
    let select = "SELECT credits FROM spending WHERE tenant_id = ? AND key_id = ? AND month = ?";
    for (tenant_id, key_id, month) in wanted {
        let key = key_id.as_ref().map_or("", KeyId::as_str);
        let number = month.number();
        let at = [Param::Text(tenant_id.as_str()), Param::Text(key), Param::Integer(number.into())];
        if let Some(credits) = connection.first(select, &at, |row| read::credits(row, 0))? {
            rows.spending.load(SpendingKey { tenant_id, key_id, month }, credits);
        }
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
