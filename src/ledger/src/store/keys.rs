//! Api keys and their secrets.

use super::handle::Store;
use super::row::{Column, Columns, Conditions, Cursor, Table, columns};
use super::sql::{Connection, Kind, Param, Result, Row, ToParam, params};
use crate::model::key::{Found, Key, Life, Listed, Parent, ParentLink, Secret};
use crate::transaction::{Needs, Rows, Unavailable};
use protocol::api_key::KeyHash;
use protocol::key::{KeySource, KeyState};
use protocol::{AgentId, KeyId, TenantId, Timestamp};
use std::collections::BTreeSet;

columns!(Key {
    fixed: id, tenant_id, source, created_at;
    changing: name, scopes, services, tools, resources, limits, concurrency, expires_at, agent_id, budget, version,
        revoked_at, last_used_at;
    nested: parent;
});
columns!(Secret { fixed: hash, key_id, created_at; changing: expires_at; });

/// Either both columns are set or neither.
impl Columns for Option<ParentLink> {
    fn columns() -> Vec<Column> {
        let column = |name, kind| Column { name, kind, changes: false };
        vec![column("parent_id", Kind::Text), column("parent_hash", Kind::Bytes)]
    }

    fn read(cursor: &mut Cursor<'_, '_>) -> Result<Self> {
        let (key_id, secret): (Option<KeyId>, Option<KeyHash>) = (cursor.value()?, cursor.value()?);
        Ok(key_id.zip(secret).map(|(key_id, secret)| ParentLink { key_id, secret }))
    }

    fn write<'v>(&'v self, values: &mut Vec<Param<'v>>) {
        let link = self.as_ref();
        values.push(link.map_or(Param::Null, |link| link.key_id.to_param()));
        values.push(link.map_or(Param::Null, |link| link.secret.to_param()));
    }
}

const KEYS: Table<Key> = Table::new("keys", &["id"]);
const SECRETS: Table<Secret> = Table::new("key_secrets", &["hash"]);

/// Which keys to list.
#[derive(Debug, Clone)]
pub struct KeyFilter {
    /// Only this tenant's.
    pub tenant_id: Option<TenantId>,
    /// Only this agent's.
    pub agent_id: Option<AgentId>,
    /// Only keys that were created this way.
    pub source: Option<KeySource>,
    /// Only those in this state at `now`.
    pub state: Option<KeyState>,
    /// The time that states are computed for.
    pub now: Timestamp,
    /// Only keys after this one.
    pub after: Option<KeyId>,
    pub limit: u32,
}

/// Loads keys, and collects their tenants.
pub(super) fn load(
    connection: &Connection,
    needs: &Needs,
    rows: &mut Rows,
    tenants: &mut BTreeSet<TenantId>,
) -> Result<()> {
    for key in KEYS.each(connection, "id", needs.keys.union(&needs.secrets_of).map(KeyId::as_str))? {
        tenants.insert(key.tenant_id.clone());
        rows.keys.load(key.id.clone(), key);
    }
    for secret in SECRETS.each(connection, "key_id", needs.secrets_of.iter().map(KeyId::as_str))? {
        rows.secrets.load(secret.hash, secret);
    }
    Ok(())
}

/// Loads parents, and counts live children.
pub(super) fn load_family(connection: &Connection, needs: &Needs, rows: &mut Rows) -> Result<()> {
    let links = rows.keys.rows().filter_map(|(id, key)| Some((id.clone(), key.parent.clone()?.key_id)));
    rows.parents = links.collect();
    let select = "SELECT id, parent_id FROM keys WHERE parent_id IS NOT NULL AND id";
    let payers: BTreeSet<&str> =
        rows.reservations.rows().map(|(_, reservation)| reservation.request.key_id.as_str()).collect();
    let links = connection.each(select, payers.into_iter(), |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.parents.extend(links);
    let missing: BTreeSet<KeyId> =
        rows.parents.values().filter(|id| rows.keys.get(id).is_none()).cloned().collect();
    for key in KEYS.each(connection, "id", missing.iter().map(KeyId::as_str))? {
        rows.keys.load(key.id.clone(), key);
    }
    let select = "SELECT count(*) FROM keys WHERE parent_id = ? AND expires_at > ? AND revoked_at IS NULL";
    for (key_id, now) in &needs.children_of {
        let living = connection.first(select, &params![key_id, now], |row| row.get(0))?;
        rows.children.insert(key_id.clone(), living.unwrap_or_default());
    }
    Ok(())
}

pub(super) fn save(connection: &Connection, rows: &Rows) -> Result<()> {
    KEYS.put(connection, rows.keys.dirty().into_iter().map(|(_, key)| key))?;
    SECRETS.put(connection, rows.secrets.dirty().into_iter().map(|(_, secret)| secret))
}

fn find(connection: &Connection, hash: &KeyHash) -> Result<Option<Found>> {
    let select = format!(
        "SELECT {}, key_secrets.expires_at, tenants.tier, tenants.suspended_at IS NOT NULL FROM key_secrets \
         JOIN keys ON keys.id = key_secrets.key_id JOIN tenants ON tenants.id = keys.tenant_id \
         WHERE key_secrets.hash = ?",
        KEYS.columns()
    );
    let found = connection.first(&select, &params![hash], |row| {
        let mut cursor = Cursor::new(row);
        Ok(Found {
            key: cursor.part()?,
            secret_expires_at: cursor.value()?,
            tier: cursor.value()?,
            tenant_suspended: cursor.value()?,
            parent: None,
        })
    })?;
    let Some(mut found) = found else { return Ok(None) };
    if let Some(link) = &found.key.parent {
        // Read after the child, so that a change of the parent in between is seen.
        let select = format!(
            "SELECT {}, key_secrets.expires_at FROM key_secrets JOIN keys ON keys.id = key_secrets.key_id \
             WHERE key_secrets.hash = ?",
            KEYS.columns()
        );
        found.parent = connection.first(&select, &params![link.secret], |row| {
            let mut cursor = Cursor::new(row);
            Ok(Parent { key: cursor.part()?, secret_expires_at: cursor.value()? })
        })?;
    }
    Ok(Some(found))
}

/// Selects keys with their tenant's suspension and their parent's state.
fn select(more: &str) -> String {
    format!(
        "SELECT {}, tenants.suspended_at IS NOT NULL, keys.parent_id IS NOT NULL, \
         parent.id IS NULL OR through.hash IS NULL OR parent.revoked_at IS NOT NULL, parent.expires_at, \
         through.expires_at FROM keys JOIN tenants ON tenants.id = keys.tenant_id \
         LEFT JOIN keys AS parent ON parent.id = keys.parent_id \
         LEFT JOIN key_secrets AS through ON through.hash = keys.parent_hash {more}",
        KEYS.columns()
    )
}

fn listed(row: &Row<'_>) -> Result<Listed> {
    let mut cursor = Cursor::new(row);
    let (key, tenant_suspended) = (cursor.part()?, cursor.value()?);
    let is_issued: bool = cursor.value()?;
    let parent = Life { is_revoked: cursor.value()?, is_suspended: false, ends_at: cursor.value()? };
    let parent = parent.until(cursor.value()?);
    Ok(Listed { key, tenant_suspended, parent: Some(parent).filter(|_| is_issued) })
}

/// Must use the same order as [`Life::state`].
fn in_state(state: KeyState) -> String {
    let revoked = "(keys.revoked_at IS NOT NULL OR keys.parent_id IS NOT NULL \
                   AND (parent.id IS NULL OR through.hash IS NULL OR parent.revoked_at IS NOT NULL))";
    let lives = "(coalesce(keys.expires_at > ?, TRUE) AND coalesce(parent.expires_at > ?, TRUE) \
                 AND coalesce(through.expires_at > ?, TRUE))";
    match state {
        KeyState::Revoked => revoked.to_owned(),
        KeyState::Expired => format!("NOT {revoked} AND NOT {lives}"),
        KeyState::Suspended => format!("NOT {revoked} AND {lives} AND tenants.suspended_at IS NOT NULL"),
        KeyState::Active => format!("NOT {revoked} AND {lives} AND tenants.suspended_at IS NULL"),
    }
}

fn list(connection: &Connection, filter: &KeyFilter) -> Result<Vec<Listed>> {
    let after = filter.after.as_ref().map_or("", KeyId::as_str);
    let mut conditions = Conditions::new("keys.id > ?", Param::text(after))
        .and_if("keys.tenant_id = ?", &filter.tenant_id)
        .and_if("keys.agent_id = ?", &filter.agent_id)
        .and_if("keys.source = ?", &filter.source);
    if let Some(state) = filter.state {
        let moments = if state == KeyState::Revoked { 0 } else { 3 };
        conditions = conditions.and(&in_state(state), vec![filter.now.to_param(); moments]);
    }
    let (page, params) = conditions.page("ORDER BY keys.id LIMIT ?", filter.limit);
    connection.all(&select(&page), &params, listed)
}

impl Store {
    /// The key that has a secret with this hash.
    pub async fn key_by_hash(&self, hash: KeyHash) -> std::result::Result<Option<Found>, Unavailable> {
        self.filters.read(move |connection| find(connection, &hash)).await
    }

    pub async fn key(&self, id: KeyId) -> std::result::Result<Option<Listed>, Unavailable> {
        let find = move |connection: &Connection| {
            connection.first(&select("WHERE keys.id = ?"), &params![id], listed)
        };
        self.operators.read(find).await
    }

    /// Keys, oldest first.
    pub async fn keys(&self, filter: KeyFilter) -> std::result::Result<Vec<Listed>, Unavailable> {
        self.operators.read(move |connection| list(connection, &filter)).await
    }
}
