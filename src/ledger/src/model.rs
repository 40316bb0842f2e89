//! Rows as data: no operations, no SQL. Reservations, leases and accounts are in `book`.

pub mod checkpoint;
pub mod credential;
pub mod event;
pub mod key;
pub mod latency;
pub mod replay;
pub mod retention;
pub mod share;
pub mod spending;
pub mod tenant;
pub mod usage;
