//! What was spent in a month.

use protocol::{KeyId, Month, TenantId};

/// Whose spending, and when.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpendingKey {
    pub tenant_id: TenantId,
    /// The key, or the tenant as a whole.
    pub key_id: Option<KeyId>,
    pub month: Month,
}
