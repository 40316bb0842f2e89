//! Which rows a transaction's operations look at.

use crate::model::replay::ReplayKey;
use protocol::{AgentId, EventId, KeyId, LeaseId, Month, ReservationId, TenantId, Timestamp};
use std::collections::BTreeSet;

/// The rows that a transaction's operations look at. Tenants and accounts of the keys, reservations and leases named here are
/// loaded too, the parents of the keys, and the secrets of the keys in [`Needs::secrets_of`].
#[derive(Debug, Default)]
pub struct Needs {
    /// Tenants with their accounts.
    pub tenants: BTreeSet<TenantId>,
    pub keys: BTreeSet<KeyId>,
    /// Keys with all their secrets.
    pub secrets_of: BTreeSet<KeyId>,
    /// Of these keys, how many that they asked for live at a moment.
    pub children_of: BTreeSet<(KeyId, Timestamp)>,
    /// Reservations, and which of them were given up before they were made.
    pub reservations: BTreeSet<ReservationId>,
    /// Which of these events are known.
    pub events: BTreeSet<EventId>,
    /// Answers given under an `Idempotency-Key`.
    pub replays: BTreeSet<ReplayKey>,
    /// Pending reservations whose time is over at this moment, at most so many.
    pub due: Option<(Timestamp, u32)>,
    /// The version of the policy in force.
    pub policy: bool,
    /// All service credentials; they are few.
    pub service_credentials: bool,
    pub agents: BTreeSet<AgentId>,
    /// What these keys and their tenants spent in these months. For reservations named here or due, what their keys and
    /// tenants spent in the month of their making is loaded too; and for leases, what their tenants spent in theirs.
    pub spending: BTreeSet<(KeyId, Month)>,
    /// What these tenants spent in these months.
    pub spending_of: BTreeSet<(TenantId, Month)>,
    /// What these tenants and all of their keys spent in these months.
    pub spending_by_key: BTreeSet<(TenantId, Month)>,
    /// Leases, and which of them were given up before they were opened.
    pub leases: BTreeSet<LeaseId>,
    /// Every open lease of these tenants.
    pub leases_of: BTreeSet<TenantId>,
    /// Every open lease of the tenants of these keys.
    pub leases_of_keys: BTreeSet<KeyId>,
    /// Open leases whose time is over at this moment, at most so many.
    pub leases_due: Option<(Timestamp, u32)>,
    /// Every share of these limits of these keys.
    pub shares: BTreeSet<(KeyId, u32)>,
    /// The newest checkpoint of the audit trail.
    pub checkpoint: bool,
    /// The public keys that signed checkpoints.
    pub audit_keys: bool,
    /// What is remembered of removals by age.
    pub retention: bool,
    /// All secrets of sessions.
    pub session_secrets: bool,
}
