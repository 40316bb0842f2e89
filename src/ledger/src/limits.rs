//! Limits that hold across all Envoys.

pub mod shares;
