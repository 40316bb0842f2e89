//! The ledger: the only authority on keys, policy, money and audit, as a small HTTP service.
//!
//! Reading order: `model` has the rows, `book` the rules of money, `transaction` defines a write. `identity`, `money`,
//! `limits`, `audit`, `policies` and `deliveries` have the operations, which check and change rows in memory. `store` runs
//! operations durably, many in one transaction; only it knows a database. `background` has the loops, `http` the API,
//! `service` starts and stops everything. `moment` is the only clock.
//!
//! A write is answered after it is durable. Repeating any write with the same ids changes nothing more.

mod audit;
mod background;
mod book;
mod deliveries;
#[cfg(test)]
mod fixture;
mod http;
mod identity;
mod limits;
mod metrics;
mod model;
mod moment;
mod money;
mod policies;
mod service;
mod store;
mod transaction;

pub use audit::{chain, export, verify};
pub use service::backup::{BackupError, Copied, backup, restore};
pub use service::check::check;
pub use service::entry::{Credentials, init, recover};
pub use service::signing_key::trusted;
pub use service::tls::{Tls, TlsError};
pub use service::{Config, Error, Running, start};
pub use service::{direct, relocate};
pub use store::database::{Database, InvalidDatabase};
pub use store::{CONNECTIONS, CONNECTIONS_MIN, OpenError, fill_usage};
