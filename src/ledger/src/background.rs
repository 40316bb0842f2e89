//! The loops that run until the ledger stops.

pub mod expire;
pub mod follow_policy;
pub mod retain;
pub mod seal;
