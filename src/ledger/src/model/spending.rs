//! What was spent in a month.

use protocol::{KeyId, Month, TenantId};

/// A tenant or key, and a month.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpendingKey {
    pub tenant_id: TenantId,
    /// The key; `None` for the tenant's total.
    pub key_id: Option<KeyId>,
    pub month: Month,
}
