//! Stores rows: the only room that knows a database. Reads see every write that was answered before they began.
//!
//! A write is an [`crate::transaction::Operation`]. The store takes all waiting operations, loads the rows they need,
//! applies them in order, and writes the result in one transaction. So both databases follow the same rules, and a refused
//! operation, which changes no rows, does not affect the others.

mod agents;
pub(crate) mod audit;
mod changes;
mod credentials;
pub mod database;
mod envoys;
mod generate;
mod handle;
mod keys;
pub(crate) mod laws;
mod leases;
mod load;
mod newest;
mod open;
mod policies;
mod readers;
mod replays;
mod reservations;
mod row;
mod save;
pub(crate) mod schema;
mod sessions;
mod shares;
mod spending;
pub mod sql;
#[cfg(test)]
pub(crate) mod suite;
mod tenants;
#[cfg(test)]
mod tests;
mod transfers;
mod usage;
mod value;
mod writer;

pub use agents::AgentFilter;
pub use audit::{AuditFilter, CHECKPOINTS_MAX, CheckpointFilter};
pub use credentials::CredentialFilter;
pub use generate::fill_usage;
pub use handle::Store;
pub use keys::KeyFilter;
pub use leases::LeaseFilter;
pub use open::{CONNECTIONS, CONNECTIONS_MIN, OpenError};
pub(crate) use open::{check_encoding, connect, create, create_new_private, is_initialised, once};
pub use reservations::ReservationFilter;
pub use usage::{Group, SHADOW_TEXTS, USAGE_TEXTS, UsageQuery};

/// For tests: as if all that is sealed had been sealed in another year.
#[cfg(test)]
pub(crate) fn tests_age_audit(database: &crate::store::database::Database) {
    let connection = sql::Connection::open(database, sql::Purpose::Write).unwrap();
    connection.execute("UPDATE audit_batches SET sealed_at = 1600000000000", &[]).unwrap();
}
