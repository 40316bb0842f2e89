//! The ledger: the only authority on keys, policy, money and audit, as a small HTTP service.
//!
//! Reading order: `book` is the rules of money, pure. `keys`, `tenants`, `reservations`, `leases`, `shares`, `recall`, `report`, `retention`,
//! `credentials` and `policy_file` are operations: each checks, and changes rows in memory. `store` runs operations durably, many in one
//! transaction; only `store/*` knows a database. `http` is the API on top. `moment` is the only clock.
//!
//! A write is answered after it is durable. Repeating any write with the same ids changes nothing more.

mod agents;
mod audit;
pub mod bench;
mod book;
mod budgets;
pub mod chain;
mod changes;
mod check;
mod credentials;
mod database;
mod entry;
#[cfg(test)]
mod fixture;
mod http;
mod idempotency;
mod issued;
mod keys;
mod latency;
mod leases;
mod leaving;
mod lock;
mod metrics;
mod moment;
mod policy_file;
mod recall;
pub mod relocate;
mod report;
mod reservations;
mod retention;
mod sealer;
mod serve;
mod service;
mod sessions;
mod shares;
mod store;
mod tenants;
pub mod throwaway;

pub use check::check;
pub use database::{Database, InvalidDatabase};
pub use entry::{Credentials, init, recover};
pub use sealer::trusted;
pub use serve::tls::{Tls, TlsError};
pub use service::{Config, Error, Running, start};
pub use store::backup::{BackupError, Copied, backup, restore};
pub use store::{CONNECTIONS, CONNECTIONS_MIN, OpenError, fill_usage};
