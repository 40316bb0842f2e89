//! Credits of tenants: grants, reservations, leases, recalls, corrections, budgets. The rules are in `book`.

pub mod budgets;
pub mod leases;
pub mod recall;
pub mod reservations;
pub mod tenants;
