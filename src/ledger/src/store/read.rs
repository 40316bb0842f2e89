//! From columns to the crate's types. A column that holds what this program never wrote is an error, not a default.

use super::sql::{Error, Param, Result, Row};
use crate::book::lease::Lease;
use crate::book::{Accounts, Request, Reservation, State};
use crate::chain::{Checkpoint, CheckpointHead};
use crate::credentials::{Door, ServiceCredential};
use crate::issued::ParentLink;
use crate::keys::{Key, Secret};
use crate::shares::{Share, ShareKey};
use crate::store::rows::outcome;
use crate::tenants::Tenant;
use protocol::admin::{Agent, AuditRow, Balance, LeaseState, Role};
use protocol::api_key::KeyHash;
use protocol::audit::Digest;
use protocol::session::SessionSecret;
use protocol::{Credits, Timestamp};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::fmt::Display;

/// Columns of [`tenant`], in its order.
pub const TENANT: &str = "tenants.id, tenants.name, tenants.tier, tenants.created_at, tenants.suspended_at, \
     tenants.budget, tenants.version";
/// Columns of [`accounts`], in its order.
pub const ACCOUNTS: &str = "accounts.granted, accounts.available, accounts.pending, accounts.posted";
/// Columns of [`key`], in its order.
pub const KEY: &str = "keys.id, keys.tenant_id, keys.name, keys.scopes, keys.services, keys.tools, \
     keys.resources, keys.limits, keys.expires_at, keys.agent_id, keys.source, keys.created_at, \
     keys.revoked_at, keys.last_used_at, keys.budget, keys.version, \
     keys.parent_id, keys.parent_hash, keys.concurrency";
/// Columns of [`service_credential`], in its order.
pub const SERVICE_CREDENTIAL: &str =
    "hash, id, door, name, role, tenant_id, created_at, revoked_at, secret_expires_at";
/// Columns of [`audit`], in its order.
pub const AUDIT: &str = "sequence, recorded_at, kind, actor, tenant_id, outcome, detail";
/// Columns of [`checkpoint`], in its order.
pub const CHECKPOINT: &str =
    "number, first, last, sealed_at, previous, root, hash, public_key, signature, leaves";
/// Columns of [`reservation`], in its order.
pub const RESERVATION: &str = "id, tenant_id, key_id, service, tool, credits, ttl_seconds, policy_version, \
     reserved_at, expires_at, available_after, state, asked, charged, overrun";

/// Columns of [`lease`], in its order.
pub const LEASE: &str = "id, tenant_id, instance, envoy, granted, spent, revision, state, opened_at, renewed_at, \
     expires_at, recalled_at";
/// Columns of [`share`], in its order.
pub const SHARE: &str =
    "key_id, limit_id, instance, permits, revision, window_seconds, renewed_at, expires_at, called_at";

/// The secrets of sessions, oldest first, as [`session_secret`] reads them.
pub const SESSION_SECRETS: &str = "SELECT number, secret, signs_from FROM session_secrets ORDER BY number";

/// How many columns [`KEY`] has.
pub const KEY_COLUMNS: usize = 19;
/// How many columns [`TENANT`] has.
pub const TENANT_COLUMNS: usize = 7;

/// A text that one of the crate's types parses.
pub fn text<T: TryFrom<String, Error: Display>>(row: &Row<'_>, column: usize) -> Result<T> {
    T::try_from(row.get::<String>(column)?).map_err(|why| Error::broken(column, why))
}

/// A text or nothing.
pub fn text_or_null<T: TryFrom<String, Error: Display>>(row: &Row<'_>, column: usize) -> Result<Option<T>> {
    let value: Option<String> = row.get(column)?;
    value.map(T::try_from).transpose().map_err(|why| Error::broken(column, why))
}

/// A moment.
pub fn moment(row: &Row<'_>, column: usize) -> Result<Timestamp> {
    row.get(column).map(Timestamp::from_millis)
}

/// A moment or nothing.
pub fn moment_or_null(row: &Row<'_>, column: usize) -> Result<Option<Timestamp>> {
    Ok(row.get::<Option<u64>>(column)?.map(Timestamp::from_millis))
}

/// A secret of sessions and its number.
pub fn session_secret(row: &Row<'_>) -> Result<(u64, SessionSecret)> {
    Ok((row.get(0)?, SessionSecret::new(row.get(1)?, moment(row, 2)?)))
}

/// An amount.
pub fn credits(row: &Row<'_>, column: usize) -> Result<Credits> {
    Credits::try_from(row.get::<u64>(column)?).map_err(|why| Error::broken(column, why))
}

fn credits_or_null(row: &Row<'_>, column: usize) -> Result<Option<Credits>> {
    let value: Option<u64> = row.get(column)?;
    value.map(Credits::try_from).transpose().map_err(|why| Error::broken(column, why))
}

/// JSON.
pub fn json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> Result<T> {
    json_or_null(row, column)?.ok_or_else(|| Error::broken(column, "it is missing"))
}

fn json_or_null<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> Result<Option<T>> {
    match row.column(column)? {
        Param::Null => Ok(None),
        Param::Text(text) => serde_json::from_str(text).map(Some).map_err(|why| Error::broken(column, why)),
        Param::Integer(_) | Param::Bytes(_) => Err(Error::broken(column, "it is no text")),
    }
}

/// The columns of [`TENANT`] from `first` on.
pub fn tenant(row: &Row<'_>, first: usize) -> Result<Tenant> {
    let at = |offset: usize| first.saturating_add(offset);
    Ok(Tenant {
        id: text(row, at(0))?,
        name: row.get(at(1))?,
        tier: row.get(at(2))?,
        created_at: moment(row, at(3))?,
        suspended_at: moment_or_null(row, at(4))?,
        budget: credits_or_null(row, at(5))?,
        version: row.get(at(6))?,
    })
}

/// The four columns of [`ACCOUNTS`] from `first` on.
pub fn accounts(row: &Row<'_>, first: usize) -> Result<Accounts> {
    let at = |offset: usize| first.saturating_add(offset);
    let balance = Balance {
        granted: credits(row, at(0))?,
        available: credits(row, at(1))?,
        pending: credits(row, at(2))?,
        posted: credits(row, at(3))?,
    };
    Accounts::from_rows(balance).map_err(|why| Error::broken(first, why))
}

/// The columns of [`KEY`] from the first on.
pub fn key(row: &Row<'_>) -> Result<Key> {
    Ok(Key {
        id: text(row, 0)?,
        tenant_id: text(row, 1)?,
        name: row.get(2)?,
        scopes: json(row, 3)?,
        services: json_or_null(row, 4)?,
        tools: json_or_null(row, 5)?,
        resources: json_or_null(row, 6)?,
        limits: json(row, 7)?,
        expires_at: moment_or_null(row, 8)?,
        agent_id: text_or_null(row, 9)?,
        source: json(row, 10)?,
        created_at: moment(row, 11)?,
        revoked_at: moment_or_null(row, 12)?,
        last_used_at: moment_or_null(row, 13)?,
        budget: credits_or_null(row, 14)?,
        version: row.get(15)?,
        parent: match (text_or_null(row, 16)?, row.get::<Option<[u8; 32]>>(17)?) {
            (Some(key_id), Some(hash)) => Some(ParentLink { key_id, secret: KeyHash::from_bytes(hash) }),
            _ => None,
        },
        concurrency: json_or_null(row, 18)?,
    })
}

/// The columns of [`SERVICE_CREDENTIAL`].
pub fn service_credential(row: &Row<'_>) -> Result<(KeyHash, ServiceCredential)> {
    let door: String = row.get(2)?;
    let role: String = row.get(4)?;
    let credential = ServiceCredential {
        id: text(row, 1)?,
        door: if door == Door::Admin.as_str() { Door::Admin } else { Door::Filter },
        name: row.get(3)?,
        role: Role::ALL
            .into_iter()
            .find(|known| known.as_str() == role)
            .ok_or_else(|| Error::broken(4, "an unknown role"))?,
        tenant_id: text_or_null(row, 5)?,
        created_at: moment(row, 6)?,
        revoked_at: moment_or_null(row, 7)?,
        secret_expires_at: moment_or_null(row, 8)?,
    };
    Ok((KeyHash::from_bytes(row.get(0)?), credential))
}

/// `id, tenant_id, name, created_at`.
pub fn agent(row: &Row<'_>) -> Result<Agent> {
    Ok(Agent { id: text(row, 0)?, tenant_id: text(row, 1)?, name: row.get(2)?, created_at: moment(row, 3)? })
}

/// The columns of [`AUDIT`].
pub fn audit(row: &Row<'_>) -> Result<AuditRow<Box<RawValue>>> {
    Ok(AuditRow {
        sequence: row.get(0)?,
        recorded_at: moment(row, 1)?,
        kind: row.get(2)?,
        actor: row.get(3)?,
        tenant_id: text_or_null(row, 4)?,
        outcome: row.get::<Option<String>>(5)?.as_deref().and_then(outcome),
        detail: json(row, 6)?,
    })
}

/// The columns of [`CHECKPOINT`].
pub fn checkpoint(row: &Row<'_>) -> Result<Checkpoint> {
    Ok(Checkpoint {
        number: row.get(0)?,
        first: row.get(1)?,
        last: row.get(2)?,
        sealed_at: moment(row, 3)?,
        previous: Digest::from_bytes(row.get(4)?),
        root: Digest::from_bytes(row.get(5)?),
        hash: Digest::from_bytes(row.get(6)?),
        public_key: row.get(7)?,
        signature: row.get(8)?,
        leaves: row.get(9)?,
    })
}

/// `number, last, hash`.
pub fn checkpoint_head(row: &Row<'_>) -> Result<CheckpointHead> {
    Ok(CheckpointHead { number: row.get(0)?, last: row.get(1)?, hash: Digest::from_bytes(row.get(2)?) })
}

/// `key_id, created_at, expires_at` from `first` on.
pub fn secret(row: &Row<'_>, first: usize) -> Result<Secret> {
    let at = |offset: usize| first.saturating_add(offset);
    Ok(Secret {
        key_id: text(row, at(0))?,
        created_at: moment(row, at(1))?,
        expires_at: moment_or_null(row, at(2))?,
    })
}

/// The columns of [`RESERVATION`] from the first on.
pub fn reservation(row: &Row<'_>) -> Result<Reservation> {
    let state: String = row.get(11)?;
    let state = match (state.as_str(), credits_or_null(row, 12)?, credits_or_null(row, 13)?) {
        ("pending", None, None) => State::Pending,
        ("posted", Some(asked), Some(charged)) => State::Posted { asked, charged },
        ("voided", None, None) => State::Voided,
        ("expired", asked, Some(charged)) => State::Expired { asked, charged },
        // Only releases that gave back what had expired wrote no charge beside it.
        ("expired", None, None) => State::Lapsed,
        _ => return Err(Error::broken(11, "a state that does not go with the charge beside it")),
    };
    Ok(Reservation {
        request: Request {
            id: text(row, 0)?,
            tenant_id: text(row, 1)?,
            key_id: text(row, 2)?,
            service: row.get(3)?,
            tool: row.get(4)?,
            credits: credits(row, 5)?,
            overrun: credits(row, 14)?,
            ttl_seconds: row.get(6)?,
            policy_version: text(row, 7)?,
        },
        reserved_at: moment(row, 8)?,
        expires_at: moment(row, 9)?,
        available_after: credits(row, 10)?,
        state,
    })
}

/// The columns of [`LEASE`] from the first on.
pub fn lease(row: &Row<'_>) -> Result<Lease> {
    let state: String = row.get(7)?;
    Ok(Lease {
        id: text(row, 0)?,
        tenant_id: text(row, 1)?,
        instance: text(row, 2)?,
        envoy: row.get(3)?,
        granted: credits(row, 4)?,
        spent: credits(row, 5)?,
        revision: row.get(6)?,
        state: LeaseState::ALL
            .into_iter()
            .find(|known| known.as_str() == state)
            .ok_or_else(|| Error::broken(7, "an unknown state"))?,
        opened_at: moment(row, 8)?,
        renewed_at: moment(row, 9)?,
        expires_at: moment(row, 10)?,
        recalled_at: moment_or_null(row, 11)?,
    })
}

/// The columns of [`SHARE`] from the first on.
pub fn share(row: &Row<'_>) -> Result<(ShareKey, Share)> {
    let at = ShareKey { key_id: text(row, 0)?, limit_id: row.get(1)?, instance: text(row, 2)? };
    let share = Share {
        permits: row.get(3)?,
        revision: row.get(4)?,
        window_seconds: row.get(5)?,
        renewed_at: moment(row, 6)?,
        expires_at: moment(row, 7)?,
        called_at: moment_or_null(row, 8)?,
    };
    Ok((at, share))
}
