//! Tenants.

use protocol::{Credits, TenantId, Timestamp};

/// A tenant at rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    pub id: TenantId,
    pub name: String,
    pub tier: String,
    pub created_at: Timestamp,
    /// Since when its keys are refused.
    pub suspended_at: Option<Timestamp>,
    /// The most that it may spend in a calendar month.
    pub budget: Option<Credits>,
    /// Counts its changes, for ETags.
    pub version: u64,
}
