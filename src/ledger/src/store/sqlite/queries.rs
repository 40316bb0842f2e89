//! The reads of the API.

use super::{read, save};
use crate::book::Accounts;
use crate::credentials::{Door, ServiceCredential};
use crate::keys::{Found, Listed};
use crate::store::rows::{Rows, credits, outcome};
use crate::store::{AuditFilter, ChangesKept, KeyFilter, UsageQuery};
use crate::tenants::Tenant;
use protocol::admin::{AuditRow, UsageRow};
use protocol::api_key::KeyHash;
use protocol::key::KeyState;
use protocol::{KeyId, TenantId};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Result, Row, params, params_from_iter};
use serde_json::value::RawValue;

const TENANT_SUSPENDED: &str = "tenants.suspended_at IS NOT NULL";

pub(super) fn service_credential(
    connection: &Connection,
    hash: &KeyHash,
) -> Result<Option<ServiceCredential>> {
    connection
        .prepare_cached("SELECT id, door FROM service_credentials WHERE hash = ?1")?
        .query_row([hash.as_bytes()], |row| {
            let door: String = row.get(1)?;
            let door = if door == Door::Admin.as_str() { Door::Admin } else { Door::Filter };
            Ok(ServiceCredential { id: row.get(0)?, door })
        })
        .optional()
}

pub(super) fn key_by_hash(connection: &Connection, hash: &KeyHash) -> Result<Option<Found>> {
    let (secret_ends, tier) = (read::KEY_COLUMNS, read::KEY_COLUMNS.saturating_add(1));
    let suspended = tier.saturating_add(1);
    connection
        .prepare_cached(&format!(
            "SELECT {}, key_secrets.expires_at, tenants.tier, {TENANT_SUSPENDED} FROM key_secrets \
             JOIN keys ON keys.id = key_secrets.key_id JOIN tenants ON tenants.id = keys.tenant_id \
             WHERE key_secrets.hash = ?1",
            read::KEY
        ))?
        .query_row([hash.as_bytes()], |row| {
            Ok(Found {
                key: read::key(row)?,
                secret_expires_at: read::moment_or_null(row, secret_ends)?,
                tier: row.get(tier)?,
                tenant_suspended: row.get(suspended)?,
            })
        })
        .optional()
}

fn listed(row: &Row<'_>) -> Result<Listed> {
    Ok(Listed { key: read::key(row)?, tenant_suspended: row.get(read::KEY_COLUMNS)? })
}

fn select_keys(condition: &str) -> String {
    format!(
        "SELECT {}, {TENANT_SUSPENDED} FROM keys JOIN tenants ON tenants.id = keys.tenant_id WHERE {condition}",
        read::KEY
    )
}

pub(super) fn key(connection: &Connection, id: &KeyId) -> Result<Option<Listed>> {
    connection.prepare_cached(&select_keys("keys.id = ?1"))?.query_row([id.as_str()], listed).optional()
}

pub(super) fn keys(connection: &Connection, filter: &KeyFilter) -> Result<Vec<Listed>> {
    // The same order of questions as `keys::Key::state`.
    let now = filter.now.as_millis();
    let state = match filter.state {
        None => String::new(),
        Some(KeyState::Revoked) => " AND keys.revoked_at IS NOT NULL".to_owned(),
        Some(KeyState::Expired) => format!(" AND keys.revoked_at IS NULL AND keys.expires_at <= {now}"),
        Some(state @ (KeyState::Suspended | KeyState::Active)) => {
            let not = if state == KeyState::Active { "NOT " } else { "" };
            format!(
                " AND keys.revoked_at IS NULL AND coalesce(keys.expires_at > {now}, TRUE) \
                 AND {not}({TENANT_SUSPENDED})"
            )
        }
    };
    let tenant = if filter.tenant_id.is_some() { " AND keys.tenant_id = ?1" } else { "" };
    let condition = format!("keys.id > ?2{tenant}{state} ORDER BY keys.id LIMIT ?3");
    let tenant_id = filter.tenant_id.as_ref().map(TenantId::as_str);
    let after = filter.after.as_ref().map_or("", KeyId::as_str);
    connection
        .prepare(&select_keys(&condition))?
        .query_map(params![tenant_id, after, filter.limit], listed)?
        .collect()
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
    connection
        .prepare_cached(&select_tenants("tenants.id = ?1"))?
        .query_row([id.as_str()], tenant_with_accounts)
        .optional()
}

pub(super) fn tenants(
    connection: &Connection,
    after: Option<&TenantId>,
    limit: u32,
) -> Result<Vec<(Tenant, Accounts)>> {
    connection
        .prepare_cached(&select_tenants("tenants.id > ?1 ORDER BY tenants.id LIMIT ?2"))?
        .query_map(params![after.map_or("", TenantId::as_str), limit], tenant_with_accounts)?
        .collect()
}

pub(super) fn audit(connection: &Connection, filter: &AuditFilter) -> Result<Vec<AuditRow<Box<RawValue>>>> {
    let mut conditions = vec!["TRUE"];
    let mut values: Vec<Value> = Vec::new();
    let texts = [
        ("tenant_id = ?", filter.tenant_id.as_ref().map(TenantId::as_str)),
        ("outcome = ?", filter.outcome.map(|outcome| outcome.as_str())),
        ("kind = ?", filter.kind.as_deref()),
    ];
    for (condition, value) in texts {
        if let Some(value) = value {
            conditions.push(condition);
            values.push(Value::from(value.to_owned()));
        }
    }
    if let Some(before) = filter.before {
        conditions.push("sequence < ?");
        values.push(Value::from(i64::try_from(before).unwrap_or(i64::MAX)));
    }
    values.push(Value::from(filter.limit));
    connection
        .prepare_cached(&format!(
            "SELECT sequence, recorded_at, kind, actor, tenant_id, outcome, detail FROM audit \
             WHERE {} ORDER BY sequence DESC LIMIT ?",
            conditions.join(" AND ")
        ))?
        .query_map(params_from_iter(values), |row| {
            Ok(AuditRow {
                sequence: row.get(0)?,
                recorded_at: read::moment(row, 1)?,
                kind: row.get(2)?,
                actor: row.get(3)?,
                tenant_id: read::text_or_null(row, 4)?,
                outcome: row.get::<_, Option<String>>(5)?.as_deref().and_then(outcome),
                detail: read::json(row, 6)?,
            })
        })?
        .collect()
}

pub(super) fn usage(connection: &Connection, query: &UsageQuery) -> Result<Vec<UsageRow>> {
    let groups = [(query.by_tenant, "tenant_id"), (query.by_key, "key_id"), (query.by_tool, "tool")];
    let names: Vec<&str> = groups.iter().filter(|(grouped, _)| *grouped).map(|(_, name)| *name).collect();
    let columns = groups.map(|(grouped, name)| if grouped { name } else { "''" }).join(", ");
    let (grouping, order) = match names.join(", ") {
        // Without a group there is one row of sums, and none if nothing happened.
        names if names.is_empty() => ("HAVING count(*) > 0".to_owned(), String::new()),
        names => (format!("GROUP BY {names}"), format!("ORDER BY {names}")),
    };
    let first = query.from.map_or(0, Rows::usage_hour);
    // An hour counts if it begins before the end of the time asked for.
    let end = query.to.map_or(i64::MAX, |to| {
        i64::try_from(Rows::usage_hour(to.plus_millis(3_599_999))).unwrap_or(i64::MAX)
    });
    connection
        .prepare_cached(&format!(
            "SELECT {columns}, sum(calls), sum(CASE outcome WHEN 'allowed' THEN calls ELSE 0 END), sum(credits) \
             FROM usage WHERE hour >= ?1 AND hour < ?2 {grouping} {order}"
        ))?
        .query_map(params![first, end], |row| {
            let named = |column: usize| -> Result<Option<String>> {
                Ok(Some(row.get::<_, String>(column)?).filter(|text| !text.is_empty()))
            };
            Ok(UsageRow {
                tenant_id: named(0)?.and_then(|id| TenantId::parse(&id).ok()),
                key_id: named(1)?.and_then(|id| KeyId::parse(&id).ok()),
                tool: named(2)?,
                calls: row.get(3)?,
                allowed: row.get(4)?,
                credits: credits(row.get(5)?),
            })
        })?
        .collect()
}

pub(super) fn changes(connection: &Connection, after: u64, limit: u32) -> Result<ChangesKept> {
    // One transaction, so that bounds and rows are of one moment.
    let snapshot = connection.unchecked_transaction()?;
    let (floor, newest) = save::feed_bounds(&snapshot)?;
    let changes = snapshot
        .prepare_cached(
            "SELECT position, change FROM changes WHERE position > ?1 ORDER BY position LIMIT ?2",
        )?
        .query_map(params![i64::try_from(after).unwrap_or(i64::MAX), limit], |row| {
            Ok((row.get(0)?, read::json(row, 1)?))
        })?
        .collect::<Result<_>>()?;
    Ok(ChangesKept { floor, newest, changes })
}
