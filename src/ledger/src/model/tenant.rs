//! Tenants.

use protocol::{Credits, TenantId, Timestamp};

/// A tenant at rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// For people.
    pub name: String,
    /// Its tier.
    pub tier: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Since when its keys are refused.
    pub suspended_at: Option<Timestamp>,
    /// The most that it may spend in a calendar month.
    pub budget: Option<Credits>,
    /// Counts its changes, for ETags.
    pub version: u64,
}
