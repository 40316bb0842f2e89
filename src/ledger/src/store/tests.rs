//! The store suite on each database, and what only one of them can suffer.

mod killed;
mod migrated;
mod moved;
mod postgres;
mod sqlite;
mod tls;
