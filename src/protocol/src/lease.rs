//! Leases: a bounded share of a tenant's credits, or of a limit's permits, that one Envoy spends without a call each.
//!
//! `POST` [`LEASES_PATH`] [`Round`] answers 200 [`RoundAnswer`]. One round carries what an Envoy has to say at that
//! moment: what it spent, what it gives back, what it would like. Every part is idempotent, and safe when an answer is
//! lost or comes late: the ledger then believes that more is out than there is, never less.
//!
//! **Credits.** The filter chooses the id of a lease (a UUIDv7) and asks; the ledger moves credits from `available` to
//! `pending` and says how many. Accounts are cumulative: `spent` is all that was spent from the lease until now, net of
//! calls that failed, and of two accounts the one with the higher `revision` counts, so that one may lower the other. An
//! account with `closed` is the last but for refunds: what was not spent goes back to `available`. Each account renews
//! the lease. The filter spends nothing after its time to live, counted from before it asked. A lease that ends without
//! a closing account is **lost**: what was not accounted for is charged, because it may have been spent, and an account
//! that comes later sets that right.
//!
//! **Permits.** Of a global limit each Envoy holds a share, and the shares sum to the limit at most. A filter lowers its
//! share to `keep` before it says so, never below what its window holds now; then no interval as long as the window
//! ever sees more than the limit, over all Envoys. Of two rounds on one share the one with the higher revision counts.
//! A share that is not renewed ends for the filter after its time to live; the ledger gives it to others one window
//! later.

use crate::key::Limit;
use crate::{Credits, InstanceId, KeyId, LeaseId, TenantId};
use serde::{Deserialize, Serialize};

/// Path of leases.
pub const LEASES_PATH: &str = "/filter/v1/leases";
/// How long a lease lasts for the filter, in milliseconds, from before it asked or accounted.
pub const LEASE_TTL_MS: u64 = 30_000;
/// How long a share of a limit lasts for the filter, in milliseconds, from before it asked.
pub const SHARE_TTL_MS: u64 = 120_000;
/// Most parts of each kind in one round.
pub const PARTS_MAX: usize = 1000;

/// What one Envoy has to say of its leases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Round {
    /// This run of this Envoy. Another run is another holder.
    pub instance: InstanceId,
    /// The Envoy's node id, for people.
    pub envoy: String,
    /// Credits that it would like.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asks: Vec<Ask>,
    /// Credits that it spent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accounts: Vec<Statement>,
    /// Permits that it keeps and would like.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<ShareAsk>,
}

/// Asks for a lease of credits. Idempotent by `lease_id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// The lease to be.
    pub lease_id: LeaseId,
    /// Who pays.
    pub tenant_id: TenantId,
    /// How many credits would be good to have; the ledger may give fewer, or none.
    pub credits: Credits,
    /// The price of the call that asks. A lease of only a few calls is of no use.
    pub price: Credits,
}

/// What was spent from a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// The lease.
    pub lease_id: LeaseId,
    /// Grows with each account of this lease.
    pub revision: u64,
    /// All that was spent, net of calls that failed.
    pub spent: Credits,
    /// Nothing more will be spent; what is left goes back.
    pub closed: bool,
}

/// Lowers an Envoy's share of a key's limit to `keep`, and asks for more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareAsk {
    /// Whose limit.
    pub key_id: KeyId,
    /// Which of its limits, as the policy identifies it.
    pub limit_id: u32,
    /// The whole limit.
    pub limit: Limit,
    /// Grows with each round on this share.
    pub revision: u64,
    /// The permits that this Envoy holds itself to until it is answered.
    pub keep: u32,
    /// The permits that it would like to have in all.
    pub wanted: u32,
}

/// What the ledger gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundAnswer {
    /// How long leases last that were asked for or accounted for in this round, from when it was sent, in milliseconds.
    pub lease_ttl_ms: u64,
    /// How long shares last that were asked for in this round, from when it was sent, in milliseconds.
    pub share_ttl_ms: u64,
    /// For each ask, in order.
    pub leases: Vec<Grant>,
    /// Leases accounted for that are no longer open: the filter stops spending from them, if it still does, and sends
    /// their closing accounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<LeaseId>,
    /// For each share asked for, in order.
    pub shares: Vec<Share>,
}

/// A lease of credits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// The lease.
    pub lease_id: LeaseId,
    /// What it holds; zero if the tenant has too little left to share out, and calls are to reserve exactly.
    pub credits: Credits,
}

/// A share of a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Whose limit.
    pub key_id: KeyId,
    /// Which.
    pub limit_id: u32,
    /// The revision that was asked for.
    pub revision: u64,
    /// The permits that this Envoy may now give in any window.
    pub permits: u32,
}
