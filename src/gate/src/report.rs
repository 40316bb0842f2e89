//! The queue to the ledger: settlements and decisions, delivered in batches.
//!
//! A failed batch is sent again with the same id until the ledger has it. All queues are bounded. During a long ledger
//! outage, decisions are dropped first (and counted, see [`Records`]), settlements only much later; the reservation of
//! a dropped settlement expires unsettled.

use crate::host::Host;
use crate::metrics::Metrics;
use policy::exchange::Now;
use policy::records::{DecisionBatch, Recorded, Records};
use policy::window::Monotonic;
use protocol::audit::Decision;
use protocol::filter::{Action, Report, Settlement};
use protocol::packed::Packed;
use protocol::{BatchId, ReservationId};
use std::collections::{HashMap, VecDeque};

const SETTLEMENTS_MAX: usize = 100_000;
/// Maximum settlements in one batch: about 100 KiB.
const BATCH_MAX: usize = 1000;
const RETRY_MS_MIN: u64 = 200;
const RETRY_MS_MAX: u64 = 5_000;

/// Records that wait for delivery, and the reservations of streams that are still open.
#[derive(Default)]
pub struct Outbox {
    settlements: VecDeque<Settlement>,
    records: Records,
    batch: Option<Report>,
    in_flight: bool,
    retry_at_ms: u64,
    retry_ms: u64,
    open: HashMap<ReservationId, OpenReservation>,
    /// The queue depth last reported to Envoy's stats.
    reported_depth: i64,
}

struct OpenReservation {
    renew_at_ms: u64,
    ttl_seconds: u32,
}

impl Outbox {
    /// Queues a settlement of a reservation.
    pub fn settle<H: Host>(&mut self, settlement: Settlement, metrics: &Metrics<H>) {
        self.open.remove(&settlement.reservation_id);
        self.queue(settlement, metrics);
    }

    /// Queues a decision, or counts it if it has no usable key.
    pub fn record<H: Host>(&mut self, decision: Decision, now: Now, metrics: &Metrics<H>) {
        match self.records.record(decision, now) {
            Recorded::Queued | Recorded::Counted => {}
            Recorded::First => self.update_queue_depth(metrics),
            Recorded::Lost { paid } => {
                H::add(metrics.queue_dropped, 1);
                if paid {
                    H::add(metrics.paid_dropped, 1);
                }
            }
        }
    }

    /// Renews a reservation regularly until it is settled, because its stream is still open.
    pub fn watch(&mut self, reservation_id: ReservationId, ttl_seconds: u32, now: Monotonic) {
        self.open
            .insert(reservation_id, OpenReservation { renew_at_ms: half_of(ttl_seconds, now), ttl_seconds });
    }

    /// Queues the renewals that are due.
    pub fn renew<H: Host>(&mut self, now: Monotonic, metrics: &Metrics<H>) {
        let mut due = Vec::new();
        for (reservation_id, open) in &mut self.open {
            if open.renew_at_ms <= now.0 {
                open.renew_at_ms = half_of(open.ttl_seconds, now);
                let action = Action::Renew { ttl_seconds: open.ttl_seconds };
                due.push(Settlement { reservation_id: *reservation_id, action });
            }
        }
        due.into_iter().for_each(|settlement| self.queue(settlement, metrics));
    }

    /// The batch to deliver now, if there is one and no delivery is in flight.
    pub fn next_batch(
        &mut self,
        envoy: &str,
        batch_id: impl FnOnce() -> BatchId,
        now: Now,
    ) -> Option<&Report> {
        if self.in_flight || now.monotonic.0 < self.retry_at_ms {
            return None;
        }
        if self.batch.is_none() {
            // Decisions wait until a batch is worthwhile; settlements are sent at once.
            let decisions = self.records.take(!self.settlements.is_empty(), now)?;
            let DecisionBatch { decisions: Packed { subjects, rows }, counted, lost: decisions_dropped } =
                decisions;
            self.batch = Some(Report {
                batch_id: batch_id(),
                envoy: envoy.to_owned(),
                settlements: self.settlements.drain(..self.settlements.len().min(BATCH_MAX)).collect(),
                subjects,
                rows,
                counted,
                decisions_dropped,
            });
        }
        self.in_flight = true;
        self.batch.as_ref()
    }

    /// Handles the result of a delivery: drops the batch if it arrived, else schedules a retry.
    pub fn delivered<H: Host>(&mut self, arrived: bool, now: Monotonic, metrics: &Metrics<H>) {
        self.in_flight = false;
        if arrived {
            self.retry_ms = 0;
            self.batch = None;
            self.update_queue_depth(metrics);
        } else {
            self.retry_ms = self.retry_ms.saturating_mul(2).clamp(RETRY_MS_MIN, RETRY_MS_MAX);
            self.retry_at_ms = now.0.saturating_add(self.retry_ms);
        }
    }

    /// Drops a batch that the ledger rejected, because it would reject it every time.
    pub fn refused<H: Host>(&mut self, status: u16, now: Monotonic, metrics: &Metrics<H>) {
        if let Some(batch) = &self.batch {
            let count = batch.settlements.len().saturating_add(batch.rows.len());
            H::add(metrics.queue_dropped, i64::try_from(count).unwrap_or(0));
            log::error!(
                "the ledger refused batch {} with status {status}; run the same release of ledger and filter",
                batch.batch_id
            );
        }
        self.delivered(true, now, metrics);
    }

    fn queue<H: Host>(&mut self, settlement: Settlement, metrics: &Metrics<H>) {
        if self.settlements.len() >= SETTLEMENTS_MAX {
            H::add(metrics.queue_dropped, 1);
            return;
        }
        self.settlements.push_back(settlement);
        self.update_queue_depth(metrics);
    }

    /// Updates the queue depth in Envoy's stats: at once for the first queued decision, at the next tick for later ones.
    pub fn update_queue_depth<H: Host>(&mut self, metrics: &Metrics<H>) {
        let in_batch = |batch: &Report| batch.settlements.len().saturating_add(batch.rows.len());
        let in_batch = self.batch.as_ref().map_or(0, in_batch);
        let waiting = self.settlements.len().saturating_add(self.records.waiting()).saturating_add(in_batch);
        let waiting = i64::try_from(waiting).unwrap_or(i64::MAX);
        if waiting != self.reported_depth {
            H::add(metrics.queue_depth, waiting.saturating_sub(self.reported_depth));
            self.reported_depth = waiting;
        }
    }
}

fn half_of(ttl_seconds: u32, now: Monotonic) -> u64 {
    now.0.saturating_add(u64::from(ttl_seconds).saturating_mul(500))
}
