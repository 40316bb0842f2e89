//! The wire format between filter, ledger and clients: ids, credits, times, key records, request and answer bodies.
//!
//! This crate defines types only. The rules about them (who may call, how often, at what price) are in `policy` and
//! `ledger::book`.
//!
//! ```
//! use protocol::{Credits, Timestamp};
//!
//! let price = Credits::new(5).unwrap().checked_mul(8).unwrap();
//! assert_eq!(price.get(), 40);
//! assert_eq!(Timestamp::from_millis(0).to_string(), "1970-01-01T00:00:00.000Z");
//! ```

pub mod admin;
pub mod api_key;
pub mod audit;
pub mod filter;
pub mod key;
pub mod lease;
pub mod lines;
pub mod packed;
pub mod problem;
pub mod reason;
pub mod session;
pub mod text;
pub mod uuid;

mod credits;
mod id;
mod time;

pub use credits::Credits;
pub use id::{
    AgentId, BatchId, CredentialId, EventId, InstanceId, InvalidId, KeyId, LeaseId, OwnerId, PolicyVersion,
    ReservationId, TenantId, TransferId, is_plain_id,
};
pub use time::{InvalidTimestamp, Month, Timestamp};
