//! Credits of tenants: granted, reserved, leased, called back, corrected, held to budgets. The rules are in `book`.

pub mod budgets;
pub mod leases;
pub mod recall;
pub mod reservations;
pub mod tenants;
