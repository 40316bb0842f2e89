//! Tenants.

use protocol::{Credits, TenantId, Timestamp};

/// A tenant as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    pub id: TenantId,
    pub name: String,
    pub tier: String,
    pub created_at: Timestamp,
    /// When it was suspended.
    pub suspended_at: Option<Timestamp>,
    /// The most it may spend in a calendar month (UTC).
    pub budget: Option<Credits>,
    /// Its version, for ETags.
    pub version: u64,
}
