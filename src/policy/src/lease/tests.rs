//! Leases checked by a minimal ledger: whatever messages are lost, nothing is spent twice and nothing is forgotten.

#![allow(clippy::arithmetic_side_effects)]

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const TENANT: u64 = 7;
const TTL_MS: u64 = 30_000;

fn credits(credits: u64) -> Credits {
    Credits::new(credits).unwrap()
}

fn at(ms: u64) -> Monotonic {
    Monotonic(ms)
}

fn lease(id: u128) -> LeaseId {
    LeaseId::from_bits(id)
}

fn spend(
    value: &[u8],
    tenant: u64,
    price: Credits,
    request: u128,
    now: Monotonic,
) -> Result<(Vec<u8>, Spent), Corrupt> {
    super::spend(value, tenant, price, EventId::from_bits(request), now)
}

/// A value with a pending ask with the id 1.
fn asking() -> Vec<u8> {
    let mut value = Vec::new();
    for call in 0..CALLS_TO_LEASE {
        let (next, spent) = spend(&value, TENANT, credits(1), 1, at(0)).unwrap();
        let ask = (call + 1 == CALLS_TO_LEASE).then_some(credits(CALLS_MIN));
        assert_eq!(spent, Spent { is_new: call == 0, lease: None, ask });
        value = next;
    }
    value
}

fn with_lease(granted_credits: u64) -> Vec<u8> {
    granted(&asking(), TENANT, lease(1), credits(granted_credits), at(TTL_MS), at(5)).unwrap()
}

#[test]
fn a_tenant_with_few_calls_reserves_exactly_and_is_forgotten() {
    let mut value = Vec::new();
    for call in 0..20u64 {
        let (next, spent) = spend(&value, TENANT, credits(5), 1, at(call * 1_000)).unwrap();
        assert_eq!((spent.lease, spent.ask), (None, None));
        value = next;
    }
    assert_eq!(due(&value, at(19_000 + FORGET_MS)).unwrap(), (Vec::new(), Vec::new()));
}

#[test]
fn a_lease_is_spent_to_its_last_credit_and_no_further() {
    let mut value = with_lease(10);
    let mut paid = 0;
    for _ in 0..20 {
        let (next, spent) = spend(&value, TENANT, credits(3), 2, at(10)).unwrap();
        value = next;
        paid += u64::from(spent.lease == Some(lease(1)));
    }
    assert_eq!(paid, 3);
}

#[test]
fn a_remainder_too_small_for_a_call_is_returned_once_a_later_lease_pays() {
    let mut value = with_lease(5);
    let mut call = |price, request| {
        let (next, spent) = spend(&value, TENANT, credits(price), request, at(10)).unwrap();
        value = match spent.ask {
            Some(ask) => granted(&next, TENANT, lease(request), ask, at(TTL_MS), at(11)).unwrap(),
            None => next,
        };
        spent.lease
    };
    assert_eq!([call(3, 2), call(3, 3), call(3, 4)], [Some(lease(1)), None, None]);
    assert_eq!([call(1, 5), call(3, 6), call(1, 7)], [Some(lease(1)), Some(lease(4)), Some(lease(4))]);
    let statements = due(&value, at(20)).unwrap().1;
    assert_eq!(
        statements,
        [Statement { tenant: TENANT, lease: lease(1), revision: 1, spent: 4, closed: true }]
    );
}

/// Two prices leave remainders that neither of them uses, and the ledger grants no more while an Envoy holds many.
#[test]
fn leases_pay_for_as_long_as_calls_of_mixed_prices_come() {
    const OPEN_MAX: usize = 8;
    let (mut value, mut ledger) = (Vec::new(), Ledger { available: 1 << 40, ..Ledger::default() });
    let mut paid_last = 0;
    for call in 0..30_000u64 {
        let now = at(1_000 + call * 10 / 3);
        // A message takes some milliseconds to arrive; the ledger's answer is here before the next call.
        if call % 150 == 0 {
            let (next, statements) = due(&value, now).unwrap();
            value = next;
            for statement in &statements {
                ledger.receive(statement);
                let deadline = (!statement.closed).then_some(at(now.0 + TTL_MS));
                value = acknowledged(&value, statement, deadline, now).unwrap();
            }
        }
        let id = u128::from(call) + 1;
        let is_dear = call.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63;
        let (next, spent) = spend(&value, TENANT, credits(3 + 4 * is_dear), id, now).unwrap();
        value = next;
        if let Some(ask) = spent.ask {
            let open = ledger.leases.values().filter(|(.., closed)| !closed).count();
            let lent = if open < OPEN_MAX { ledger.lend(lease(id), ask.get()) } else { 0 };
            value = granted(&value, TENANT, lease(id), credits(lent), at(now.0 + TTL_MS), now).unwrap();
        }
        paid_last += u64::from(call >= 29_700 && spent.lease.is_some());
    }
    assert!(paid_last > 290, "{paid_last} of the last 300 calls were paid from a lease");
}

#[test]
fn the_next_lease_is_asked_for_once_before_the_last_is_empty() {
    let mut value = with_lease(16);
    let mut asked_at = Vec::new();
    for call in 0..16u64 {
        let (next, spent) = spend(&value, TENANT, credits(1), 100 + u128::from(call), at(10)).unwrap();
        value = next;
        assert_eq!(spent.lease, Some(lease(1)));
        asked_at.extend(spent.ask.map(|ask| (call, ask)));
    }
    assert_eq!(asked_at, [(11, credits(32))]);
}

#[test]
fn after_a_refusal_calls_reserve_exactly_for_a_while() {
    let value = granted(&asking(), TENANT, lease(1), Credits::ZERO, at(TTL_MS), at(5)).unwrap();
    let (value, soon) = spend(&value, TENANT, credits(1), 2, at(900)).unwrap();
    assert_eq!((soon.lease, soon.ask), (None, None));
    let (_, later) = spend(&value, TENANT, credits(1), 3, at(1100)).unwrap();
    assert!(later.ask.is_some());
}

#[test]
fn idle_leases_are_returned() {
    let value = with_lease(16);
    let (value, _) = spend(&value, TENANT, credits(4), 2, at(10)).unwrap();
    let (value, statements) = due(&value, at(IDLE_MS + 20)).unwrap();
    assert_eq!(
        statements,
        [Statement { tenant: TENANT, lease: lease(1), revision: 1, spent: 4, closed: true }]
    );
    let (_, spent) = spend(&value, TENANT, credits(1), 3, at(IDLE_MS + 30)).unwrap();
    assert_eq!(spent.lease, None);
}

#[test]
fn nothing_is_spent_after_a_recall_or_the_deadline() {
    let value = with_lease(16);
    let recalled = recalled(&value, TENANT, at(10)).unwrap();
    let spent = spend(&recalled, TENANT, credits(1), 2, at(11)).unwrap().1;
    assert_eq!((spent.lease, spent.ask), (None, None));
    assert_eq!(spend(&value, TENANT, credits(1), 2, at(TTL_MS - 1)).unwrap().1.lease, None);
}

#[test]
fn a_refund_after_the_closing_statement_is_reported() {
    let value = with_lease(16);
    let (value, _) = spend(&value, TENANT, credits(4), 2, at(10)).unwrap();
    let value = recalled(&value, TENANT, at(20)).unwrap();
    let (value, statements) = due(&value, at(20)).unwrap();
    let value = acknowledged(&value, &statements[0], None, at(30)).unwrap();
    assert_eq!(due(&value, at(100)).unwrap().1, []);
    let (value, is_paid) = refund(&value, TENANT, lease(1), credits(4)).unwrap();
    assert!(is_paid);
    let (_, statements) = due(&value, at(110)).unwrap();
    assert_eq!(
        statements,
        [Statement { tenant: TENANT, lease: lease(1), revision: 2, spent: 0, closed: true }]
    );
}

#[test]
fn a_statement_that_is_not_acknowledged_is_sent_again() {
    let value = with_lease(16);
    let (value, _) = spend(&value, TENANT, credits(4), 2, at(10)).unwrap();
    let (value, first) = due(&value, at(2_500)).unwrap();
    let (value, between) = due(&value, at(3_000)).unwrap();
    let (_, second) = due(&value, at(3_600)).unwrap();
    assert_eq!((first.len(), between.len(), second.len()), (1, 0, 1));
    assert!(second[0].revision > first[0].revision);
}

#[test]
fn a_corrupt_value_is_refused() {
    assert_eq!(spend(b"nonsense", TENANT, credits(1), 1, at(0)).unwrap_err(), Corrupt);
}

/// The ledger, as far as it matters here.
#[derive(Default)]
struct Ledger {
    available: u64,
    /// By lease: granted, spent, revision, closed.
    leases: BTreeMap<LeaseId, (u64, u64, u64, bool)>,
}

impl Ledger {
    fn lend(&mut self, id: LeaseId, wanted: u64) -> u64 {
        if let Some((granted, ..)) = self.leases.get(&id) {
            return *granted;
        }
        let granted = wanted.min(self.available / 2);
        self.available -= granted;
        self.leases.insert(id, (granted, 0, 0, false));
        granted
    }

    fn receive(&mut self, statement: &Statement) {
        // Closed before it was asked for: the ask arrives late, and must find nothing.
        let lease = self.leases.entry(statement.lease).or_insert((0, 0, 0, true));
        let (granted, spent, revision, closed) = lease;
        if statement.revision <= *revision {
            return;
        }
        assert!(statement.spent <= *granted, "more was spent than granted");
        *revision = statement.revision;
        if *closed {
            self.available += *spent - statement.spent;
        } else if statement.closed {
            self.available += *granted - statement.spent;
            *closed = true;
        }
        *spent = statement.spent;
    }
}

#[derive(Debug, Clone)]
enum Event {
    Call {
        tenant: u64,
        price: u64,
        fails: bool,
    },
    /// The ledger's current answers arrive, or are lost.
    Deliver {
        is_lost: bool,
    },
    Statement {
        is_lost: bool,
        is_heard: bool,
    },
    Recall {
        tenant: u64,
    },
    Wait {
        ms: u64,
    },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0..2u64, 1..5u64, prop::bool::weighted(0.2))
            .prop_map(|(tenant, price, fails)| Event::Call { tenant, price, fails }),
        3 => prop::bool::weighted(0.2).prop_map(|is_lost| Event::Deliver { is_lost }),
        3 => (prop::bool::weighted(0.2), prop::bool::weighted(0.8))
            .prop_map(|(is_lost, is_heard)| Event::Statement { is_lost, is_heard }),
        1 => (0..2u64).prop_map(|tenant| Event::Recall { tenant }),
        4 => (1..4_000u64).prop_map(|ms| Event::Wait { ms }),
    ]
}

proptest! {
    /// The leases of both tenants are in one value. In the end, when all has been said, the ledger knows what was spent to the
    /// credit, whatever got lost on the way.
    #[test]
    fn all_spending_is_reported(events in prop::collection::vec(event(), 1..120)) {
        let mut value = Vec::new();
        let mut ledger = Ledger { available: 1_000, ..Ledger::default() };
        let mut asks: Vec<(u64, LeaseId, u64)> = Vec::new();
        let mut spent_net = 0u64;
        let mut now = 1_000u64;
        let mut next_id = 1u128;
        let say = |value: &mut Vec<u8>, ledger: &mut Ledger, now: u64, is_lost: bool, is_heard: bool| {
            let (next, statements) = due(value, at(now)).unwrap();
            *value = next;
            for statement in statements.iter().filter(|_| !is_lost) {
                ledger.receive(statement);
                if is_heard {
                    let deadline = (!statement.closed).then_some(at(now + TTL_MS));
                    *value = acknowledged(value, statement, deadline, at(now)).unwrap();
                }
            }
        };
        for event in events {
            match event {
                Event::Call { tenant, price, fails } => {
                    next_id += 1;
                    let (next, spent) = spend(&value, tenant, credits(price), next_id, at(now)).unwrap();
                    value = next;
                    asks.extend(spent.ask.map(|ask| (tenant, lease(next_id), ask.get())));
                    if let Some(lease) = spent.lease {
                        if fails {
                            let (next, is_paid) = refund(&value, tenant, lease, credits(price)).unwrap();
                            prop_assert!(is_paid);
                            value = next;
                        } else {
                            spent_net += price;
                        }
                    }
                }
                Event::Deliver { is_lost } => for (tenant, id, wanted) in asks.drain(..) {
                    let granted_credits = ledger.lend(id, wanted);
                    if !is_lost {
                        let deadline = at(now + TTL_MS);
                        value = granted(&value, tenant, id, credits(granted_credits), deadline, at(now)).unwrap();
                    }
                },
                Event::Statement { is_lost, is_heard } => say(&mut value, &mut ledger, now, is_lost, is_heard),
                Event::Recall { tenant } => value = recalled(&value, tenant, at(now)).unwrap(),
                Event::Wait { ms } => now += ms,
            }
        }
        for (_, id, wanted) in asks.drain(..) {
            ledger.lend(id, wanted);
        }
        // A few idle minutes.
        for _ in 0..20 {
            now += 2_000;
            say(&mut value, &mut ledger, now, false, true);
        }
        let charged: u64 = ledger.leases.values().map(|(_, spent, _, _)| spent).sum();
        prop_assert_eq!(charged, spent_net);
        prop_assert!(ledger.leases.values().all(|(granted, _, _, closed)| *closed || *granted == 0));
        prop_assert_eq!(ledger.available + charged, 1_000);
        now += CLOSED_MS + IDLE_MS;
        prop_assert_eq!(due(&value, at(now)).unwrap().0, b"");
    }
}
