//! The audit trail: the chain of checkpoints, exports and their verification, sealing, retention.

pub mod chain;
pub mod explain;
pub mod export;
pub mod retention;
pub mod seal;
pub mod verify;
