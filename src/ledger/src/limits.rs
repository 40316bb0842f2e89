//! Limits that hold across all Envoys.

pub mod fleet;
pub mod shares;
