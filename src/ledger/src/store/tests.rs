//! The store suite on each database, and failures that only one of them can have.

mod killed;
mod migrated;
mod moved;
mod postgres;
mod sqlite;
mod tls;
