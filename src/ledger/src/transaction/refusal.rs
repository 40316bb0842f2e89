//! Why the rules refuse an operation.

use crate::book;
use protocol::key::KeyState;
use protocol::{CredentialId, Credits, KeyId, Month, PolicyVersion};

/// Why the rules refused an operation. Nothing was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The rules of money.
    Money(book::Refusal),
    /// No tenant has this id.
    TenantUnknown,
    /// No key has this id.
    KeyUnknown,
    /// The key is not in use.
    KeyInactive(KeyState),
    /// The tenant has no agent with this id.
    AgentUnknown,
    /// The tenant has no reservation with this id.
    ReservationUnknown,
    /// No credential of the kind has this id.
    AdminKeyUnknown,
    /// This `Idempotency-Key` made this service credential or its secret before; that can't be shown again.
    AdminKeyExists(CredentialId),
    /// It is the last credential that may do everything.
    LastOwner,
    /// Another policy is in force than the asker saw.
    PolicyChanged {
        /// Which.
        version: PolicyVersion,
    },
    /// It is no longer what the asker saw.
    ChangedSince {
        /// Its version now.
        version: u64,
    },
    /// The month's budget has no room for it.
    BudgetSpent {
        /// Whose.
        payer: Payer,
        /// The budget.
        budget: Credits,
        /// What is spent of it.
        spent: Credits,
        /// Of which month.
        month: Month,
    },
    /// This `Idempotency-Key` came before, with another body.
    IdempotencyKeyReused,
    /// This `Idempotency-Key` made this key before; its secret can't be shown again.
    KeyExists(KeyId),
    /// A key that another one asked for can't ask for keys.
    KeyIsIssued,
    /// The key that asks is held to other services.
    ServiceNotGranted,
    /// So many keys that this one asked for live already.
    TooManyChildren,
    /// The database already has its first credentials.
    AlreadyInitialised,
    /// The database does not take one of its rows; the log has the cause.
    Unstorable,
}

impl From<book::Refusal> for Refusal {
    fn from(refusal: book::Refusal) -> Refusal {
        Refusal::Money(refusal)
    }
}

/// Whose budget is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payer {
    /// The key's.
    Key,
    /// The tenant's.
    Tenant,
}
