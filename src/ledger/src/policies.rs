//! The policy document, and which one is in force.

pub mod document;
pub mod in_force;
pub mod names;
