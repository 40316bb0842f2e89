//! The reads of the API.

use super::sql::{Connection, Param, Result, Row, ToParam, params};
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
use serde_json::value::RawValue;

const TENANT_SUSPENDED: &str = "tenants.suspended_at IS NOT NULL";

pub(super) fn service_credential(
    connection: &Connection,
    hash: &KeyHash,
) -> Result<Option<ServiceCredential>> {
    let select = "SELECT id, door FROM service_credentials WHERE hash = ?";
    connection.first(select, &params![hash.as_bytes()], |row| {
        let door: String = row.get(1)?;
        let door = if door == Door::Admin.as_str() { Door::Admin } else { Door::Filter };
        Ok(ServiceCredential { id: row.get(0)?, door })
    })
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
    connection.first(&select, &params![hash.as_bytes()], |row| {
        Ok(Found {
            key: read::key(row)?,
            secret_expires_at: read::moment_or_null(row, secret_ends)?,
            tier: row.get(tier)?,
            tenant_suspended: row.get(suspended)?,
        })
    })
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
    // The same order of questions as `keys::Key::state`.
    condition.push_str(match filter.state {
        None => "",
        Some(KeyState::Revoked) => " AND keys.revoked_at IS NOT NULL",
        Some(KeyState::Expired) => " AND keys.revoked_at IS NULL AND keys.expires_at <= ?",
        Some(KeyState::Suspended) => {
            " AND keys.revoked_at IS NULL AND coalesce(keys.expires_at > ?, TRUE) \
             AND tenants.suspended_at IS NOT NULL"
        }
        Some(KeyState::Active) => {
            " AND keys.revoked_at IS NULL AND coalesce(keys.expires_at > ?, TRUE) \
             AND tenants.suspended_at IS NULL"
        }
    });
    if !matches!(filter.state, None | Some(KeyState::Revoked)) {
        params.push(now.to_param());
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
    ];
    for (condition, value) in texts {
        if let Some(value) = value {
            conditions.push(condition);
            params.push(Param::Text(value));
        }
    }
    if let Some(before) = &filter.before {
        conditions.push("sequence < ?");
        params.push(before.to_param());
    }
    params.push(filter.limit.to_param());
    let select = format!(
        "SELECT sequence, recorded_at, kind, actor, tenant_id, outcome, detail FROM audit \
         WHERE {} ORDER BY sequence DESC LIMIT ?",
        conditions.join(" AND ")
    );
    connection.all(&select, &params, |row| {
        Ok(AuditRow {
            sequence: row.get(0)?,
            recorded_at: read::moment(row, 1)?,
            kind: row.get(2)?,
            actor: row.get(3)?,
            tenant_id: read::text_or_null(row, 4)?,
            outcome: row.get::<Option<String>>(5)?.as_deref().and_then(outcome),
            detail: read::json(row, 6)?,
        })
    })
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
    let end = query.to.map_or(u64::MAX, |to| Rows::usage_hour(to.plus_millis(3_599_999)));
    // PostgreSQL's sum of whole numbers is none of its whole numbers.
    let select = format!(
        "SELECT {columns}, CAST(sum(calls) AS BIGINT), \
         CAST(sum(CASE outcome WHEN 'allowed' THEN calls ELSE 0 END) AS BIGINT), \
         CAST(sum(credits) AS BIGINT) FROM usage WHERE hour >= ? AND hour < ? {grouping} {order}"
    );
    connection.all(&select, &params![first, end], |row| {
        let named = |column: usize| -> Result<Option<String>> {
            Ok(Some(row.get::<String>(column)?).filter(|text| !text.is_empty()))
        };
        Ok(UsageRow {
            tenant_id: named(0)?.and_then(|id| TenantId::parse(&id).ok()),
            key_id: named(1)?.and_then(|id| KeyId::parse(&id).ok()),
            tool: named(2)?,
            calls: row.get(3)?,
            allowed: row.get(4)?,
            credits: credits(row.get(5)?),
        })
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
