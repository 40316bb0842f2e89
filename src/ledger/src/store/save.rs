//! Writes the rows that a transaction's operations changed.

use super::sql::{Connection, Result};
use super::{
    agents, audit, changes, credentials, envoys, keys, leases, policies, replays, reservations, sessions,
    shares, spending, tenants, transfers, usage,
};
use crate::transaction::Rows;

/// Writes referenced rows first. Returns the newest position of the change feed if it moved.
pub fn save(connection: &Connection, rows: &Rows) -> Result<Option<u64>> {
    tenants::save(connection, rows)?;
    keys::save(connection, rows)?;
    reservations::save(connection, rows)?;
    leases::save(connection, rows)?;
    shares::save(connection, rows)?;
    envoys::save(connection, rows)?;
    transfers::save(connection, rows)?;
    audit::save(connection, rows)?;
    usage::save(connection, rows)?;
    replays::save(connection, rows)?;
    credentials::save(connection, rows)?;
    agents::save(connection, rows)?;
    spending::save(connection, rows)?;
    audit::save_chain(connection, rows)?;
    sessions::save(connection, rows)?;
    policies::save(connection, rows)?;
    changes::save(connection, rows)
}
