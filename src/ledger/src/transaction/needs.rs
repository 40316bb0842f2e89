//! The rows that a transaction's operations read.

use crate::model::replay::ReplayKey;
use protocol::{
    AgentId, EventId, InstanceId, KeyId, LeaseId, Month, OwnerId, ReservationId, TenantId, Timestamp,
};
use std::collections::BTreeSet;

/// The rows that a transaction's operations read. Tenants and accounts of the keys, reservations and leases named here are
/// loaded too, and so are the keys' parents.
#[derive(Debug, Default)]
pub struct Needs {
    /// Tenants with their accounts.
    pub tenants: BTreeSet<TenantId>,
    pub keys: BTreeSet<KeyId>,
    /// Keys with all their secrets.
    pub secrets_of: BTreeSet<KeyId>,
    /// Parent keys, to count their live children at this time.
    pub children_of: BTreeSet<(KeyId, Timestamp)>,
    /// Reservations, and whether they were voided before they were created.
    pub reservations: BTreeSet<ReservationId>,
    /// Events, to know which exist already.
    pub events: BTreeSet<EventId>,
    /// Stored answers to `Idempotency-Key`s.
    pub replays: BTreeSet<ReplayKey>,
    /// Pending reservations that are due at this time, and how many at most.
    pub due: Option<(Timestamp, u32)>,
    /// The version of the policy in force.
    pub policy: bool,
    /// All service credentials; they are few.
    pub service_credentials: bool,
    pub agents: BTreeSet<AgentId>,
    /// Sums of these keys and their tenants in these months. For reservations and leases named here or due, the sums of the
    /// month of their creation are loaded too.
    pub spending: BTreeSet<(KeyId, Month)>,
    /// Sums of these tenants in these months.
    pub spending_of: BTreeSet<(TenantId, Month)>,
    /// Sums of these tenants and all their keys in these months.
    pub spending_by_key: BTreeSet<(TenantId, Month)>,
    /// Leases, and whether they were closed before they were opened.
    pub leases: BTreeSet<LeaseId>,
    /// Every open lease of these tenants.
    pub leases_of: BTreeSet<TenantId>,
    /// Every open lease of the tenants of these keys.
    pub leases_of_keys: BTreeSet<KeyId>,
    /// Open leases that are due at this time, and how many at most.
    pub leases_due: Option<(Timestamp, u32)>,
    /// Every share of these limits of these owners.
    pub shares: BTreeSet<(OwnerId, u32)>,
    /// Envoys that follow the change feed.
    pub envoys: BTreeSet<InstanceId>,
    /// How many Envoys followed the change feed after this time.
    pub envoys_seen_since: Option<Timestamp>,
    /// The newest checkpoint of the audit trail.
    pub checkpoint: bool,
    /// The public keys that signed checkpoints.
    pub audit_keys: bool,
    /// The state of retention.
    pub retention: bool,
    /// All session secrets.
    pub session_secrets: bool,
}
