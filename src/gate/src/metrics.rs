//! Envoy stats. The set of names is bounded: the ledger keeps all counts per key or tenant.

use crate::host::{Host, MetricKind};
use crate::served::Served;
use protocol::audit::Outcome;
use std::sync::atomic::{AtomicI64, Ordering};

/// Number of decisions with one outcome: counted here, and passed to Envoy once per tick.
struct Counted<H: Host> {
    outcome: Outcome,
    metric: H::Metric,
    unreported: AtomicI64,
}

/// All metrics of the filter.
pub struct Metrics<H: Host> {
    decisions: [Counted<H>; Outcome::ALL.len()],
    /// What was served, by service.
    pub served: Served<H>,
    /// Decisions that a shadow rule would have refused.
    pub would_deny: H::Metric,
    /// Ledger calls sent, by kind.
    pub callouts: [H::Metric; 7],
    /// Ledger calls without a usable answer.
    pub callouts_failed: H::Metric,
    /// Requests that joined a key lookup already in flight.
    pub lookups_joined: H::Metric,
    /// Compare-and-swaps of shared data that were lost and retried.
    pub cas_retries: H::Metric,
    /// Changes given up because their compare-and-swap was lost too often.
    pub cas_exhausted: H::Metric,
    /// Refunds of leased credits that were lost, because the lease was gone.
    pub lease_refunds_lost: H::Metric,
    /// Settlements and decisions that wait for delivery.
    pub queue_depth: H::Metric,
    /// Settlements and decisions dropped because the queue was full or the ledger rejected them.
    pub queue_dropped: H::Metric,
    /// Dropped decisions about paid calls.
    pub paid_dropped: H::Metric,
    /// Cached key records.
    pub keys: H::Metric,
    /// VMs of this Envoy that have loaded a policy: one per worker, plus one.
    pub policy_loaded: H::Metric,
    /// Changes from the feed that were applied.
    pub changes: H::Metric,
    /// How often a call to the change feed failed.
    pub feed_lost: H::Metric,
}

impl<H: Host> Metrics<H> {
    /// Defines all metrics in Envoy.
    pub fn define() -> Metrics<H> {
        let counter = |name: &str| H::metric(MetricKind::Counter, name, &[]);
        let gauge = |name: &str| H::metric(MetricKind::Gauge, name, &[]);
        Metrics {
            decisions: Outcome::ALL.map(|outcome| Counted {
                outcome,
                metric: H::metric(
                    MetricKind::Counter,
                    "agentrelay_decisions",
                    &[("outcome", outcome.as_str())],
                ),
                unreported: AtomicI64::new(0),
            }),
            served: Served::default(),
            would_deny: counter("agentrelay_would_deny"),
            callouts: ["policy", "changes", "resolve", "reserve", "report", "issue", "leases"]
                .map(|kind| H::metric(MetricKind::Counter, "agentrelay_callouts", &[("kind", kind)])),
            callouts_failed: counter("agentrelay_callouts_failed"),
            lookups_joined: counter("agentrelay_lookups_joined"),
            cas_retries: counter("agentrelay_cas_retries"),
            cas_exhausted: counter("agentrelay_cas_exhausted"),
            lease_refunds_lost: counter("agentrelay_lease_refunds_lost"),
            queue_depth: gauge("agentrelay_queue_depth"),
            queue_dropped: counter("agentrelay_queue_dropped"),
            paid_dropped: counter("agentrelay_paid_dropped"),
            keys: gauge("agentrelay_keys"),
            policy_loaded: gauge("agentrelay_policy_loaded"),
            changes: counter("agentrelay_changes"),
            feed_lost: counter("agentrelay_feed_lost"),
        }
    }

    /// Counts a decision. [`Metrics::flush`] passes the count to Envoy.
    pub fn decision(&self, outcome: Outcome) {
        if let Some(counted) = self.decisions.iter().find(|counted| counted.outcome == outcome) {
            counted.unreported.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Passes to Envoy the decisions counted since the last call.
    pub fn flush(&self) {
        for counted in &self.decisions {
            let unreported = counted.unreported.swap(0, Ordering::Relaxed);
            if unreported > 0 {
                H::add(counted.metric, unreported);
            }
        }
        self.served.tell();
    }
}
