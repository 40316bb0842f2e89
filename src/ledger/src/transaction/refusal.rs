//! Why an operation is refused.

use crate::book;
use protocol::key::KeyState;
use protocol::{CredentialId, Credits, KeyId, Month, PolicyVersion};

/// Why the rules refused an operation. Nothing was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The rules of the book.
    Money(book::Refusal),
    /// No tenant has this id.
    TenantUnknown,
    /// No key has this id.
    KeyUnknown,
    /// The key can't be used.
    KeyInactive(KeyState),
    /// The tenant has no agent with this id.
    AgentUnknown,
    /// The tenant has no reservation with this id.
    ReservationUnknown,
    /// No credential of the kind has this id.
    AdminKeyUnknown,
    /// This `Idempotency-Key` already created this credential or its secret, which can't be shown again.
    AdminKeyExists(CredentialId),
    /// It is the last owner of the ledger.
    LastOwner,
    /// Another policy is in force than the caller named.
    PolicyChanged { version: PolicyVersion },
    /// The row has another version than the caller named.
    ChangedSince {
        /// Its version now.
        version: u64,
    },
    /// It would exceed the month's budget.
    BudgetSpent {
        /// Whose.
        payer: Payer,
        /// The budget.
        budget: Credits,
        spent: Credits,
        month: Month,
    },
    /// This `Idempotency-Key` was used before, with another body.
    IdempotencyKeyReused,
    /// This `Idempotency-Key` already created this key, whose secret can't be shown again.
    KeyExists(KeyId),
    /// An issued key can't request keys.
    KeyIsIssued,
    /// The requesting key is restricted to other services.
    ServiceNotGranted,
    /// The key has the maximum number of live children.
    TooManyChildren,
    /// The database already has its first credentials.
    AlreadyInitialised,
    /// The database refuses one of its rows; the log has the cause.
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
