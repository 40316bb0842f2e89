//! The loops that run beside the API until the ledger stops.

pub mod expire;
pub mod follow_policy;
pub mod retain;
pub mod seal;
