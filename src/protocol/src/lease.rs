//! Leases: a bounded share of a tenant's credits, or of a limit's permits, which one Envoy spends without a ledger call
//! for each request.
//!
//! `POST` [`LEASES_PATH`] [`Round`] answers 200 [`RoundAnswer`]. One round carries everything that an Envoy has to report
//! at that moment: what it spent, what it returns and what it asks for. Every part is idempotent. If an answer is lost or
//! late, the ledger may overestimate what the Envoy holds, but it never underestimates it.
//!
//! **Credits.** The filter chooses the id of a lease (a UUIDv7) and asks; the ledger moves credits from `available` to
//! `pending` and answers how many. Statements are cumulative: `spent` is the total spent from the lease so far, without
//! failed calls. Of two statements, the one with the higher `revision` counts, so a later one may lower the total. A
//! statement with `closed` returns the unspent credits to `available`; only refunds may follow it. Each statement renews
//! the lease. The filter stops spending when the time to live ends, counted from before it asked. A lease that ends
//! without a closing statement is **lost**: the ledger charges the credits not accounted for, because they may have been
//! spent, and a later statement corrects the charge.
//!
//! **Permits.** Each Envoy holds a share of a global limit, and the sum of the shares never exceeds the limit. A filter
//! lowers its share to `keep` before it reports that, and never below what its window holds now. Therefore no interval as
//! long as the window ever has more requests than the limit, over all Envoys. Of two rounds about one share, the one with
//! the higher revision counts. A share that is not renewed ends for the filter after its time to live; the ledger gives it
//! to other Envoys one window later.

use crate::key::Limit;
use crate::{Credits, InstanceId, LeaseId, OwnerId, TenantId};
use serde::{Deserialize, Serialize};

/// Path of leases.
pub const LEASES_PATH: &str = "/filter/v1/leases";
/// Time to live of a lease for the filter, in milliseconds, counted from before it sent the ask or the statement.
pub const LEASE_TTL_MS: u64 = 30_000;
/// Time to live of a share of a limit for the filter, in milliseconds, counted from before it sent the ask.
pub const SHARE_TTL_MS: u64 = 120_000;
/// Maximum number of parts of each kind in one round.
pub const PARTS_MAX: usize = 1000;

/// What one Envoy reports and asks about its leases and shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Round {
    /// Identifies this run of this Envoy. After a restart, an Envoy is a new holder.
    pub instance: InstanceId,
    /// The Envoy's node id, for human readers only.
    pub envoy: String,
    /// Credits that the Envoy asks for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asks: Vec<Ask>,
    /// Credits that the Envoy spent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accounts: Vec<Statement>,
    /// Permits that the Envoy keeps and asks for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<ShareAsk>,
}

/// Asks for a lease of credits. Idempotent by `lease_id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// The id of the new lease.
    pub lease_id: LeaseId,
    /// The tenant that pays.
    pub tenant_id: TenantId,
    /// The credits wanted; the ledger may grant fewer, or none.
    pub credits: Credits,
    /// The price of the call that needs the lease. A lease that covers only a few calls is useless.
    pub price: Credits,
}

/// What was spent from a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// The lease.
    pub lease_id: LeaseId,
    /// Increases with each statement of this lease.
    pub revision: u64,
    /// The total spent, without failed calls.
    pub spent: Credits,
    /// The filter spends nothing more; the rest goes back to the tenant.
    pub closed: bool,
}

/// Lowers an Envoy's share of a limit to `keep`, and asks for more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareAsk {
    /// Whose limit it is.
    pub owner: OwnerId,
    /// The limit, as the policy identifies it.
    pub limit_id: u32,
    /// The whole limit, over all Envoys.
    pub limit: Limit,
    /// Increases with each round about this share.
    pub revision: u64,
    /// The permits that this Envoy gave within the window that ends now.
    pub used: u32,
    /// The permits that this Envoy uses at most until the answer arrives.
    pub keep: u32,
    /// The total number of permits wanted.
    pub wanted: u32,
}

/// The ledger's answer to a round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundAnswer {
    /// Time to live of the leases in this round, in milliseconds from when the round was sent.
    pub lease_ttl_ms: u64,
    /// Time to live of the shares in this round, in milliseconds from when the round was sent.
    pub share_ttl_ms: u64,
    /// One grant for each ask, in order.
    pub leases: Vec<Grant>,
    /// Leases in this round's statements that are no longer open: the filter must stop spending from them and send their
    /// closing statements.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<LeaseId>,
    /// One share for each one asked for, in order.
    pub shares: Vec<Share>,
}

/// A lease of credits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// The lease.
    pub lease_id: LeaseId,
    /// The credits of the lease. Zero if the tenant has too few left to lease; each call must then reserve its exact price.
    pub credits: Credits,
}

/// A share of a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Whose limit it is.
    pub owner: OwnerId,
    /// The limit.
    pub limit_id: u32,
    /// The revision of the ask that this answers.
    pub revision: u64,
    /// The permits that this Envoy may now give per window.
    pub permits: u32,
    /// The permits of the limit beyond this share that no other Envoy is known to have used. It may ask for them.
    pub elsewhere: u32,
}
