//! The audit trail: its chain of checkpoints, exports and their verification, sealing, removal by age.

pub mod chain;
pub mod export;
pub mod retention;
pub mod seal;
pub mod verify;
