//! Decisions that wait to be sent to the ledger. Paid decisions have a queue of their own, so that a flood of refusals can't
//! displace them. Decisions without an active key are only counted, because anyone can cause any number of them.
//!
//! Pure: this module says what to send and when, and sends nothing itself.

use crate::exchange::Now;
use protocol::audit::{Counted, Decision, Outcome};
use protocol::packed::Packed;
use std::collections::VecDeque;

/// The most paid decisions that wait: 10 s at 20,000 per second, 42 MB.
const PAID_MAX: usize = 200_000;
/// The most other decisions on requests with a key that wait.
const UNPAID_MAX: usize = 20_000;
/// The most counts that wait, plus one for each outcome. Further decisions are counted by outcome only, without key, service
/// and minute.
const COUNTS_MAX: usize = 256;
/// The most rows of each queue in one batch: about 100 KiB.
const BATCH_ROWS_MAX: usize = 1000;
/// How long decisions wait so that they are sent together; twice as long after a large batch.
const FLUSH_MS: u64 = 1_000;
/// A batch with this many rows is large.
const BUSY: usize = 200;
const MINUTE_MS: u64 = 60_000;

/// What happened to a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It is queued behind others.
    Queued,
    /// It is queued, as the first one.
    First,
    /// It is only counted.
    Counted,
    /// It is lost, because its queue was full.
    Lost {
        /// It was a paid decision.
        paid: bool,
    },
}

/// Decisions in the form in which a batch has them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct DecisionBatch {
    /// Decisions with an active key.
    pub decisions: Packed,
    /// Decisions without an active key.
    pub counted: Vec<Counted>,
    /// The number of decisions lost since the last batch.
    pub lost: u64,
}

/// The decisions that wait to be sent.
#[derive(Debug, Default)]
pub struct Records {
    paid: Queue,
    unpaid: Queue,
    counts: Vec<Counted>,
    /// When the oldest queued decision was made.
    oldest_ms: u64,
    /// When the first of the waiting counts was made.
    counting_since_ms: u64,
    /// When counts were last sent.
    counts_sent_ms: Option<u64>,
    /// The last batch was large.
    is_busy: bool,
    lost: u64,
}

impl Records {
    /// Queues a decision, or counts it.
    pub fn record(&mut self, decision: Decision, now: Now) -> Recorded {
        let paid = is_paid(&decision);
        if !paid && (decision.key_id.is_none() || decision.outcome == Outcome::AuthDenied) {
            self.count(decision, now);
            return Recorded::Counted;
        }
        let is_first = self.waiting() == 0;
        let (queue, most) = if paid { (&mut self.paid, PAID_MAX) } else { (&mut self.unpaid, UNPAID_MAX) };
        if queue.len >= most {
            self.lost = self.lost.saturating_add(1);
            return Recorded::Lost { paid };
        }
        queue.push(decision);
        if !is_first {
            return Recorded::Queued;
        }
        self.oldest_ms = now.monotonic.0;
        Recorded::First
    }

    /// The number of queued decisions, without those that are only counted.
    pub fn waiting(&self) -> usize {
        self.paid.len.saturating_add(self.unpaid.len)
    }

    /// The batch that is due now, if any. With `force`, a batch is sent in any case, and its batch includes all it can hold.
    pub fn take(&mut self, force: bool, now: Now) -> Option<DecisionBatch> {
        let wait_ms = if self.is_busy { FLUSH_MS.saturating_mul(2) } else { FLUSH_MS };
        let is_old = now.monotonic.0 >= self.oldest_ms.saturating_add(wait_ms);
        let waiting = self.waiting();
        let are_due = waiting > 0 && (is_old || waiting >= BATCH_ROWS_MAX);
        let counted = self.due_counts(now);
        if !force && !are_due && counted.is_empty() {
            return None;
        }
        let mut decisions = self.paid.take();
        // Paid decisions come first. The others wait until the queue of paid ones is empty.
        if self.paid.len == 0 {
            decisions.append(self.unpaid.take());
        }
        self.oldest_ms = now.monotonic.0;
        self.is_busy = decisions.rows.len() >= BUSY;
        Some(DecisionBatch { decisions, counted, lost: std::mem::take(&mut self.lost) })
    }

    fn count(&mut self, decision: Decision, now: Now) {
        if self.counts.is_empty() {
            self.counting_since_ms = now.monotonic.0;
        }
        let at_ms = decision.at.as_millis();
        let minute = protocol::Timestamp::from_millis(at_ms.saturating_sub(at_ms % MINUTE_MS));
        let Decision { outcome, key_id, tenant_id, service, .. } = decision;
        let is_same = |known: &Counted| {
            known.minute == minute
                && known.outcome == outcome
                && known.key_id == key_id
                && known.service == service
        };
        // Searched from the newest, which is the most likely match.
        let known = self.counts.iter().rposition(is_same);
        let (known, others) = if known.is_none() && self.counts.len() >= COUNTS_MAX {
            let of_any = |known: &Counted| known.outcome == outcome && known.key_id.is_none();
            (self.counts.iter().rposition(of_any), true)
        } else {
            (known, false)
        };
        match known.and_then(|place| self.counts.get_mut(place)) {
            Some(known) => known.count = known.count.saturating_add(1),
            None => self.counts.push(Counted {
                minute,
                outcome,
                key_id: key_id.filter(|_| !others),
                tenant_id: tenant_id.filter(|_| !others),
                service: service.filter(|_| !others),
                count: 1,
            }),
        }
    }

    /// The counts that are due: those of minutes that are over. After a minute without counts, all are sent soon. So a single
    /// request shows up within about a second, and a flood causes one count a minute.
    fn due_counts(&mut self, now: Now) -> Vec<Counted> {
        if self.counts.is_empty() {
            return Vec::new();
        }
        let began_ms = self.counting_since_ms;
        let is_quiet = self.counts_sent_ms.is_none_or(|sent| began_ms >= sent.saturating_add(MINUTE_MS));
        let is_old = now.monotonic.0 >= began_ms.saturating_add(FLUSH_MS);
        let all = is_quiet && is_old;
        let is_due = |known: &mut Counted| all || now.wall.millis_since(known.minute) >= MINUTE_MS;
        let due: Vec<Counted> = self.counts.extract_if(.., is_due).collect();
        if !due.is_empty() {
            self.counts_sent_ms = Some(now.monotonic.0);
        }
        due
    }
}

/// True if credits were charged for it, even if they were refunded.
fn is_paid(decision: &Decision) -> bool {
    !decision.credits.is_zero() || decision.reservation_id.is_some() || decision.lease_id.is_some()
}

/// Decisions of one kind, in batches, oldest first.
#[derive(Debug, Default)]
struct Queue {
    batches: VecDeque<Packed>,
    len: usize,
}

impl Queue {
    fn push(&mut self, decision: Decision) {
        if self.batches.back().is_none_or(|batch| batch.rows.len() >= BATCH_ROWS_MAX) {
            self.batches.push_back(Packed::default());
        }
        if let Some(batch) = self.batches.back_mut() {
            batch.push(decision);
            self.len = self.len.saturating_add(1);
        }
    }

    fn take(&mut self) -> Packed {
        let batch = self.batches.pop_front().unwrap_or_default();
        self.len = self.len.saturating_sub(batch.rows.len());
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::Monotonic;
    use protocol::{Credits, EventId, KeyId, PolicyVersion, Timestamp};

    /// In the middle of a minute.
    const BEGIN_MS: u64 = 1_700_000_010_000;

    fn at(millis: u64) -> Now {
        let monotonic = Monotonic(millis.saturating_add(5_000));
        Now { wall: Timestamp::from_millis(BEGIN_MS).plus_millis(millis), monotonic }
    }

    fn decision(key: Option<&str>, credits: u64, now: Now) -> Decision {
        Decision {
            id: EventId::from_bits(credits.into()),
            at: now.wall,
            outcome: if key.is_some() { Outcome::RateLimited } else { Outcome::AuthDenied },
            would_deny: None,
            would_deny_reason: None,
            reason: None,
            key_id: key.map(|key| KeyId::parse(key).unwrap()),
            tenant_id: None,
            agent_id: None,
            service: Some("studio".to_owned()),
            tool: None,
            credits: Credits::new(credits).unwrap(),
            reservation_id: None,
            lease_id: None,
            usage_tokens: None,
            status: 401,
            first_byte_ms: None,
            duration_ms: 1,
            policy_version: PolicyVersion::parse("0a").unwrap(),
            envoy: "e1".to_owned(),
        }
    }

    #[test]
    fn nothing_displaces_what_was_paid_and_it_comes_first() {
        let mut records = Records::default();
        for number in 0..UNPAID_MAX {
            let kept = records.record(decision(Some("key_1"), 0, at(0)), at(0));
            assert_eq!(kept, if number == 0 { Recorded::First } else { Recorded::Queued });
        }
        assert_eq!(records.record(decision(Some("key_1"), 0, at(0)), at(0)), Recorded::Lost { paid: false });
        for number in 0..2_500 {
            let key = if number % 2 == 0 { "key_1" } else { "key_2" };
            assert_eq!(records.record(decision(Some(key), 1 + number, at(1)), at(1)), Recorded::Queued);
            records.record(decision(None, 0, at(1)), at(1));
        }
        let mut paid = Vec::new();
        for (rows, lost) in [(1000, 1), (1000, 0), (1500, 0)] {
            let batch = records.take(false, at(1)).expect("many wait");
            assert_eq!((batch.decisions.rows.len(), batch.lost), (rows, lost));
            let decisions = batch.decisions.unpack("e1").unwrap();
            for whole in decisions.into_iter().filter(|decision| !decision.credits.is_zero()) {
                assert_eq!(
                    whole.key_id.unwrap().as_str(),
                    if whole.credits.get() % 2 == 1 { "key_1" } else { "key_2" }
                );
                paid.push(whole.credits.get());
            }
        }
        assert_eq!(paid, (1..=2_500).collect::<Vec<_>>());
        assert_eq!(records.waiting(), UNPAID_MAX - 1000);
    }

    #[test]
    fn dropped_paid_decisions_are_counted_as_lost() {
        let mut records = Records::default();
        for _ in 0..PAID_MAX {
            records.record(decision(Some("key_1"), 1, at(0)), at(0));
        }
        assert_eq!(records.record(decision(Some("key_1"), 1, at(0)), at(0)), Recorded::Lost { paid: true });
        assert_eq!(records.record(decision(Some("key_1"), 0, at(0)), at(0)), Recorded::Queued);
    }

    #[test]
    fn decisions_are_sent_in_batches_or_with_settlements() {
        let mut records = Records::default();
        assert_eq!(records.take(false, at(0)), None);
        records.record(decision(Some("key_1"), 1, at(0)), at(0));
        assert_eq!(records.take(false, at(999)), None);
        assert_eq!(records.take(true, at(999)).unwrap().decisions.rows.len(), 1);
        records.record(decision(Some("key_1"), 1, at(999)), at(999));
        assert_eq!(records.take(false, at(1_998)), None);
        assert_eq!(records.take(false, at(1_999)).unwrap().decisions.rows.len(), 1);
    }

    #[test]
    fn a_flood_without_a_key_is_one_count_a_minute() {
        let mut records = Records::default();
        let (mut sent_batches, mut sent) = (Vec::new(), 0);
        for millis in (0..10 * MINUTE_MS).step_by(100) {
            for _ in 0..10 {
                records.record(decision(None, 0, at(millis)), at(millis));
                sent += 1;
            }
            sent_batches.extend(records.take(false, at(millis)).map(|batch| (millis, batch)));
        }
        let first = &sent_batches[0];
        assert_eq!((first.0, first.1.counted[0].count), (1_000, 110));
        let counted: Vec<&Counted> = sent_batches.iter().flat_map(|(_, batch)| &batch.counted).collect();
        assert_eq!(counted.len(), 11, "{counted:?}");
        assert!(counted.iter().skip(1).is_sorted_by(|one, next| one.minute < next.minute), "{counted:?}");
        let left = records.take(false, at(12 * MINUTE_MS)).unwrap().counted;
        let sum = counted.into_iter().chain(&left).map(|counted| counted.count).sum::<u64>();
        assert_eq!(sum, sent);
    }

    #[test]
    fn a_key_that_may_not_call_is_named_in_its_count() {
        let mut records = Records::default();
        for _ in 0..3 {
            let refused = Decision { outcome: Outcome::AuthDenied, ..decision(Some("key_1"), 0, at(0)) };
            assert_eq!(records.record(refused, at(0)), Recorded::Counted);
        }
        records.record(decision(None, 0, at(0)), at(0));
        let counted = records.take(false, at(FLUSH_MS)).unwrap().counted;
        let keys: Vec<_> = counted.iter().map(|counted| (counted.key_id.is_some(), counted.count)).collect();
        assert_eq!(keys, [(true, 3), (false, 1)]);
    }

    #[test]
    fn counts_are_bounded_and_none_is_lost() {
        let mut records = Records::default();
        for number in 0..5_000u64 {
            let now = at(number * MINUTE_MS / 2);
            let outcome = Outcome::ALL[usize::try_from(number % 11).unwrap()];
            let (key, service) = (format!("key_{number}"), Some(format!("s{number}")));
            let key = (outcome == Outcome::AuthDenied).then_some(key.as_str());
            records.record(Decision { outcome, service, ..decision(key, 0, now) }, now);
        }
        let batch = records.take(false, at(5_000 * MINUTE_MS)).unwrap();
        assert!(batch.counted.len() <= COUNTS_MAX + Outcome::ALL.len(), "{}", batch.counted.len());
        assert_eq!(batch.counted.iter().map(|counted| counted.count).sum::<u64>(), 5_000);
        assert_eq!(records.waiting(), 0);
    }
}
