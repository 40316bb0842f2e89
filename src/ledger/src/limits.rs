//! Limits that hold over all Envoys.

pub mod shares;
