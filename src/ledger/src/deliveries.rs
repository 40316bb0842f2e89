//! Reports of filters: settlements and decisions, one batch in one transaction.
//!
//! A batch, or a part of it, may arrive twice. Settlements are idempotent by reservation, decisions by their id, counts and
//! dropped decisions by the batch's id, so batches themselves are not stored.

use crate::model::event::{ANONYMOUS, Event, Kind};
use crate::money::budgets;
use crate::money::reservations::{self, Settled};
use crate::transaction::{Needs, Operation, Refusal, Rows};
use protocol::audit::{Counted, Decision};
use protocol::filter::{Report, ReportAnswer};
use protocol::packed::Unreadable;
use protocol::{EventId, Month, ReservationId, Timestamp};
use serde::Serialize;
use serde_json::json;
use std::sync::Arc;

/// Most dropped decisions that one batch adds to the metric. The audit trail has the reported number.
const DECISIONS_DROPPED_MAX: u64 = 1_000_000_000;

/// Applies one batch.
#[derive(Clone)]
pub struct Deliver {
    /// The report without its decisions.
    pub report: Arc<Report>,
    pub decisions: Arc<[Decision]>,
    /// The id of the filter's credential.
    pub actor: String,
    pub now: Timestamp,
}

/// The result of [`Deliver`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// The answer to the filter.
    pub answer: ReportAnswer,
    /// Refused settlements, for the log. Repeating them would not help, so the filter is not told.
    pub refused: Vec<(ReservationId, Settled)>,
}

/// The audit detail of a count.
#[derive(Serialize)]
struct Counts<'r> {
    envoy: &'r str,
    #[serde(flatten)]
    counted: &'r Counted,
}

impl Deliver {
    pub fn new(mut report: Report, actor: String, now: Timestamp) -> Result<Deliver, Unreadable> {
        let decisions = report.unpack()?.into();
        Ok(Deliver { report: Arc::new(report), decisions, actor, now })
    }

    /// Splits the batch in two; `None` if it has a single item.
    pub fn halves(&self) -> Option<[Deliver; 2]> {
        let mut one = Report::clone(&self.report);
        let mut other =
            Report { settlements: Vec::new(), counted: Vec::new(), decisions_dropped: 0, ..one.clone() };
        let counts = !one.counted.is_empty() || one.decisions_dropped > 0;
        // How many decisions stay in the first half.
        let stay = match (one.settlements.len(), self.decisions.len()) {
            (0, 0) => return None,
            (settlements, decisions) if counts || (settlements > 0 && decisions > 0) => {
                // Counts stay together: a count's id is its place among them.
                if counts {
                    other.settlements = std::mem::take(&mut one.settlements);
                }
                0
            }
            (0, 1) | (1, 0) => return None,
            (settlements, decisions) => {
                other.settlements = one.settlements.split_off(settlements / 2);
                decisions / 2
            }
        };
        let (first, then) = self.decisions.split_at_checked(stay)?;
        Some([(one, first), (other, then)].map(|(report, decisions)| Deliver {
            report: Arc::new(report),
            decisions: decisions.into(),
            ..self.clone()
        }))
    }
}

impl Operation for Deliver {
    type Answer = Delivered;

    fn needs(&self, needs: &mut Needs) {
        let Deliver { report, decisions, now, .. } = self;
        needs.reservations.extend(report.settlements.iter().map(|step| step.reservation_id));
        needs.events.extend(decisions.iter().map(|decision| decision.id));
        needs.keys.extend(decisions.iter().filter_map(|decision| decision.key_id.clone()));
        needs.spending.extend(
            decisions
                .iter()
                .filter(|decision| decision.lease_id.is_some())
                .filter_map(|decision| Some((decision.key_id.clone()?, month(decision, *now)))),
        );
        needs.events.extend((0..report.counted.len()).map(|place| counted_id(report, place)));
        if report.decisions_dropped > 0 {
            needs.events.insert(report.batch_id.into());
        }
    }

    fn apply(self, rows: &mut Rows) -> Result<Delivered, Refusal> {
        let Deliver { report, decisions, actor, now } = self;
        let mut answer = ReportAnswer { settled: 0, recorded: 0 };
        let mut refused = Vec::new();
        for settlement in &report.settlements {
            match reservations::settle(rows, settlement, now) {
                Settled::Now => answer.settled = answer.settled.saturating_add(1),
                Settled::Before => {}
                why => refused.push((settlement.reservation_id, why)),
            }
        }
        for decision in decisions.iter() {
            if record(rows, decision, now) {
                answer.recorded = answer.recorded.saturating_add(1);
            }
        }
        for (place, counted) in report.counted.iter().enumerate() {
            let detail = Counts { envoy: &report.envoy, counted };
            let actor = counted.key_id.as_ref().map_or(ANONYMOUS, |id| id.as_str());
            let event = Event {
                tenant_id: counted.tenant_id.clone(),
                outcome: Some(counted.outcome),
                ..Event::new(Kind::DecisionsCounted, now, actor, &detail)
            };
            if rows.record_once(counted_id(&report, place), event) {
                rows.count_many(counted, now);
            }
        }
        if report.decisions_dropped > 0 {
            let detail = json!({"envoy": report.envoy, "count": report.decisions_dropped});
            let event = Event::new(Kind::DecisionsDropped, now, actor, &detail);
            if rows.record_once(report.batch_id.into(), event) {
                let dropped = report.decisions_dropped.min(DECISIONS_DROPPED_MAX);
                rows.decisions_dropped = rows.decisions_dropped.saturating_add(dropped);
            }
        }
        Ok(Delivered { answer, refused })
    }
}

/// A count has no id of its own: its place in the batch makes it idempotent.
fn counted_id(report: &Report, place: usize) -> EventId {
    EventId::from(report.batch_id).part(place)
}

/// The month in which a call began, at most the current one: an Envoy's fast clock can't spend next month's budget.
fn month(decision: &Decision, now: Timestamp) -> Month {
    decision.at.min(now).month()
}

fn record(rows: &mut Rows, decision: &Decision, now: Timestamp) -> bool {
    let actor = decision.key_id.as_ref().map_or(ANONYMOUS, |id| id.as_str());
    let event = Event {
        tenant_id: decision.tenant_id.clone(),
        outcome: Some(decision.outcome),
        ..Event::new(Kind::Decision, now, actor, decision)
    };
    if !rows.record_once(decision.id, event) {
        return false;
    }
    rows.count(decision, now);
    if let Some(id) = &decision.key_id {
        // A reservation was added to the key's sum when it was created. Only decisions say which key spent from a lease.
        if decision.lease_id.is_some()
            && let Some(tenant_id) = rows.keys.get(id).map(|key| key.tenant_id.clone())
        {
            budgets::spend(rows, &tenant_id, id, month(decision, now), decision.credits);
        }
        let used_at = decision.at.min(now);
        if rows.keys.get(id).is_some_and(|key| key.last_used_at.is_none_or(|known| known < used_at))
            && let Some(key) = rows.keys.get_mut(id)
        {
            key.last_used_at = Some(used_at);
        }
    }
    true
}
