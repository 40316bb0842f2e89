//! Events of a year of operating a ledger.

#[path = "steady/exports.rs"]
mod exports;
#[path = "steady/files.rs"]
mod files;
#[path = "steady/names.rs"]
mod names;
#[path = "steady/on_both.rs"]
mod on_both;
#[path = "steady/periods.rs"]
mod periods;
#[path = "steady/policies.rs"]
mod policies;
#[path = "steady/secrets.rs"]
mod secrets;
