//! The policy document, and which version is in force.

pub mod document;
pub mod in_force;
pub mod names;
pub(crate) mod unknown;
