//! Loads the rows that a transaction's operations need.

use super::sql::{Connection, Result};
use super::{
    agents, audit, credentials, envoys, keys, leases, policies, replays, reservations, sessions, shares,
    spending, tenants,
};
use crate::transaction::{Needs, Rows};

/// Each step uses what the steps before it loaded.
pub fn load(connection: &Connection, needs: &Needs) -> Result<Rows> {
    let mut rows = Rows::default();
    let mut payers = needs.tenants.clone();
    reservations::load(connection, needs, &mut rows, &mut payers)?;
    keys::load(connection, needs, &mut rows, &mut payers)?;
    keys::load_family(connection, needs, &mut rows)?;
    leases::load(connection, needs, &mut rows, &mut payers)?;
    shares::load(connection, needs, &mut rows)?;
    envoys::load(connection, needs, &mut rows)?;
    tenants::load(connection, &payers, &mut rows)?;
    replays::load(connection, needs, &mut rows)?;
    policies::load(connection, needs, &mut rows)?;
    credentials::load(connection, needs, &mut rows)?;
    agents::load(connection, needs, &mut rows)?;
    spending::load(connection, needs, &mut rows)?;
    audit::load(connection, needs, &mut rows)?;
    sessions::load(connection, needs, &mut rows)?;
    Ok(rows)
}
