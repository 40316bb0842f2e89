//! Envoy stats. Names are fixed and few: what grows with keys or tenants is counted by the ledger.

use crate::host::{Metric, metric};
use protocol::audit::Outcome;
use proxy_wasm::types::MetricType;
use std::cell::Cell;

/// Decisions with one outcome: counted here, and told to Envoy once a tick.
struct Counted {
    outcome: Outcome,
    metric: Metric,
    untold: Cell<i64>,
}

/// Every metric of the filter.
pub struct Metrics {
    decisions: [Counted; Outcome::ALL.len()],
    /// Decisions in which a shadow rule would have refused.
    pub would_deny: Metric,
    /// Ledger calls started, by what for.
    pub callouts: [Metric; 7],
    /// Ledger calls without a usable answer.
    pub callouts_failed: Metric,
    /// Requests that joined a key lookup already under way.
    pub lookups_joined: Metric,
    /// Compare-and-swaps of shared data that lost and were tried again.
    pub cas_retries: Metric,
    /// Requests refused because a compare-and-swap lost too often.
    pub cas_exhausted: Metric,
    /// Failed leased calls that could not be given back, because the purse was gone.
    pub lease_refunds_lost: Metric,
    /// Settlements and decisions waiting to be delivered.
    pub queue_depth: Metric,
    /// Those lost because the queue was full.
    pub queue_dropped: Metric,
    /// Of these, decisions on calls that were paid.
    pub paid_dropped: Metric,
    /// Key records held.
    pub keys: Metric,
    /// VMs of this Envoy that have a policy: its workers and one more.
    pub policy_loaded: Metric,
    /// Changes applied from the feed.
    pub changes: Metric,
    /// Times that the feed was lost.
    pub feed_lost: Metric,
}

impl Metrics {
    /// Defines them.
    pub fn define() -> Metrics {
        let counter = |name: &str| metric(MetricType::Counter, name);
        let gauge = |name: &str| metric(MetricType::Gauge, name);
        Metrics {
            decisions: Outcome::ALL.map(|outcome| Counted {
                outcome,
                metric: counter(&format!("agentrelay_decisions.outcome={outcome}")),
                untold: Cell::new(0),
            }),
            would_deny: counter("agentrelay_would_deny"),
            callouts: ["policy", "changes", "resolve", "reserve", "report", "issue", "leases"]
                .map(|kind| counter(&format!("agentrelay_callouts.kind={kind}"))),
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

    /// Counts a decision. Envoy is told by [`Metrics::tell`].
    pub fn decision(&self, outcome: Outcome) {
        if let Some(counted) = self.decisions.iter().find(|counted| counted.outcome == outcome) {
            counted.untold.set(counted.untold.get().saturating_add(1));
        }
    }

    /// Tells Envoy how many decisions were counted since it was last told.
    pub fn tell(&self) {
        for counted in self.decisions.iter().filter(|counted| counted.untold.get() > 0) {
            counted.metric.add(counted.untold.take());
        }
    }
}
