//! The ledger's Prometheus metrics. Every label has a bounded set of values: no ids, no names of tenants.

use crate::book::TransferKind;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use protocol::audit::Outcome;
use std::time::Duration;

/// What a transaction changed, for metrics and the change feed.
#[derive(Debug, Default)]
pub struct Committed {
    /// Transfers by kind.
    pub transfers: Vec<&'static str>,
    /// Decisions by outcome.
    pub outcomes: Vec<(&'static str, u64)>,
    /// Decisions that filters dropped.
    pub decisions_dropped: u64,
    /// Credits of leases that expired.
    pub credits_lost: u64,
    /// Credits of reservations that expired.
    pub credits_unaccounted: u64,
    /// Recalls of leases.
    pub recalls: u64,
    /// The newest position of the change feed, if it moved.
    pub newest_change: Option<u64>,
    /// Rows were written.
    pub is_written: bool,
}

/// One answered request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// The HTTP method; `other` for one that the API does not use.
    pub method: &'static str,
    /// The route's template; `unmatched` if there is none.
    pub route: String,
    /// The HTTP status.
    pub status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TransferLabels {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    outcome: &'static str,
}

/// The counters.
pub struct Metrics {
    registry: Registry,
    /// Answered requests.
    pub requests: Family<RequestLabels, Counter>,
    /// Transactions that failed.
    pub commit_failures: Counter,
    /// Writes that the database rejected.
    pub operations_unstorable: Counter,
    /// Settlements that the book refused.
    pub settlements_refused: Counter,
    /// Policies that were refused.
    pub policies_refused: Counter,
    /// Lease statements that were refused.
    pub lease_accounts_refused: Counter,
    lease_credits_lost: Counter,
    reservation_credits_unaccounted: Counter,
    lease_recalls: Counter,
    leases_open: Gauge,
    lease_credits_out: Gauge,
    decisions_dropped: Counter,
    audit_rows_removed: Counter,
    audit_retention_held: Gauge,
    transfers: Family<TransferLabels, Counter>,
    decisions: Family<DecisionLabels, Counter>,
    commit_operations: Histogram,
    commit_seconds: Histogram,
    queue_depth: Gauge,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let mut registry = Registry::with_prefix("agentrelay_ledger");
        let requests = Family::default();
        registry.register("http_requests", "Answered requests", requests.clone());
        let commit_failures = Counter::default();
        registry.register("commit_failures", "Transactions that failed", commit_failures.clone());
        let operations_unstorable = Counter::default();
        let help = "Writes that were refused because the database rejects them";
        registry.register("operations_unstorable", help, operations_unstorable.clone());
        let settlements_refused = Counter::default();
        registry.register(
            "settlements_refused",
            "Settlements that the book refused",
            settlements_refused.clone(),
        );
        let policies_refused = Counter::default();
        registry.register(
            "policies_refused",
            "Changed policy files that were refused",
            policies_refused.clone(),
        );
        let lease_accounts_refused = Counter::default();
        let help = "Lease statements that the book refused";
        registry.register("lease_accounts_refused", help, lease_accounts_refused.clone());
        let lease_credits_lost = Counter::default();
        let help = "Credits charged because an Envoy sent no statement of its lease in time";
        registry.register("lease_credits_lost", help, lease_credits_lost.clone());
        let reservation_credits_unaccounted = Counter::default();
        registry.register(
            "reservation_credits_unaccounted",
            "Credits charged because a reservation was not settled in time",
            reservation_credits_unaccounted.clone(),
        );
        let lease_recalls = Counter::default();
        registry.register("lease_recalls", "Recalls of leased credits", lease_recalls.clone());
        let leases_open = Gauge::default();
        registry.register("leases_open", "Leases of credits that Envoys hold", leases_open.clone());
        let lease_credits_out = Gauge::default();
        let help = "Leased credits that are not reported as spent yet";
        registry.register("lease_credits_out", help, lease_credits_out.clone());
        let decisions_dropped = Counter::default();
        let help = "Decisions that filters dropped and the audit trail lacks";
        registry.register("decisions_dropped", help, decisions_dropped.clone());
        let audit_rows_removed = Counter::default();
        let help = "Rows of the audit trail that retention removed";
        registry.register("audit_rows_removed", help, audit_rows_removed.clone());
        let audit_retention_held = Gauge::default();
        let help = "1 if old rows are kept because the clock is in doubt";
        registry.register("audit_retention_held", help, audit_retention_held.clone());
        let transfers = Family::<TransferLabels, Counter>::default();
        for kind in TransferKind::ALL {
            let _ = transfers.get_or_create(&TransferLabels { kind: kind.as_str() });
        }
        let help = "Transfers of credits by kind";
        registry.register("transfers", help, transfers.clone());
        let decisions = Family::<DecisionLabels, Counter>::default();
        for outcome in Outcome::ALL {
            let _ = decisions.get_or_create(&DecisionLabels { outcome: outcome.as_str() });
        }
        registry.register("decisions", "Decisions reported by filters", decisions.clone());
        let commit_operations = Histogram::new(exponential_buckets(1.0, 2.0, 11));
        registry.register("commit_operations", "Operations in one transaction", commit_operations.clone());
        let commit_seconds = Histogram::new(exponential_buckets(0.000_25, 2.0, 14));
        registry.register(
            "commit_seconds",
            "Time of one transaction, fsync included",
            commit_seconds.clone(),
        );
        let queue_depth = Gauge::default();
        registry.register("queue_depth", "Writes that wait for the next transaction", queue_depth.clone());
        Metrics {
            registry,
            requests,
            commit_failures,
            operations_unstorable,
            settlements_refused,
            policies_refused,
            lease_accounts_refused,
            lease_credits_lost,
            reservation_credits_unaccounted,
            lease_recalls,
            leases_open,
            lease_credits_out,
            decisions_dropped,
            audit_rows_removed,
            audit_retention_held,
            transfers,
            decisions,
            commit_operations,
            commit_seconds,
            queue_depth,
        }
    }
}

impl Metrics {
    /// Media type of [`Metrics::text`].
    pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// Counts one transaction.
    pub fn committed(&self, operations: usize, took: Duration, committed: &Committed) {
        self.commit_operations.observe(u32::try_from(operations).unwrap_or(u32::MAX).into());
        self.commit_seconds.observe(took.as_secs_f64());
        self.decisions_dropped.inc_by(committed.decisions_dropped);
        self.lease_credits_lost.inc_by(committed.credits_lost);
        self.reservation_credits_unaccounted.inc_by(committed.credits_unaccounted);
        self.lease_recalls.inc_by(committed.recalls);
        for kind in &committed.transfers {
            self.transfers.get_or_create(&TransferLabels { kind }).inc();
        }
        for (outcome, count) in &committed.outcomes {
            self.decisions.get_or_create(&DecisionLabels { outcome }).inc_by(*count);
        }
    }

    /// Counts a pass of retention.
    pub fn retained(&self, rows: u64, is_held: bool) {
        self.audit_rows_removed.inc_by(rows);
        self.audit_retention_held.set(is_held.into());
    }

    /// Sets how many leases are open, and the credits that they hold.
    pub fn set_open_leases(&self, (leases, credits): (u64, u64)) {
        self.leases_open.set(i64::try_from(leases).unwrap_or(i64::MAX));
        self.lease_credits_out.set(i64::try_from(credits).unwrap_or(i64::MAX));
    }

    /// All of it as text.
    pub fn text(&self, queue_depth: usize) -> Result<String, std::fmt::Error> {
        self.queue_depth.set(i64::try_from(queue_depth).unwrap_or(i64::MAX));
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
