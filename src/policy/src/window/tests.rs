//! Properties of the window with adversarial arrival times.

#![allow(clippy::arithmetic_side_effects)]

use super::slot::{self, Ask, Stage};
use super::*;
use crate::limit::LimitRule;
use crate::value::Corrupt;
use proptest::prelude::*;

const PER_MINUTE_20: Limit = Limit { permits: 20, window_seconds: 60 };

fn ask(id: u32, limit: Limit, stage: Stage) -> Ask {
    Ask { rule: LimitRule::plain(id, limit), owner: 7, stage, enforced: true }
}

#[test]
fn the_21st_call_of_a_minute_is_refused_until_the_first_is_a_minute_old() {
    let mut window = Window::default();
    for call in 0..20 {
        let verdict = window.take(&PER_MINUTE_20, Monotonic(1_000_000 + call));
        assert!(verdict.admitted);
        assert_eq!(verdict.remaining, 19 - u32::try_from(call).unwrap());
    }
    let refused = window.take(&PER_MINUTE_20, Monotonic(1_000_100));
    assert!(!refused.admitted);
    assert!((60_000 - 100..=61_000).contains(&refused.reset_ms), "{refused:?}");
    let just_before = window.take(&PER_MINUTE_20, Monotonic(1_000_100 + refused.reset_ms - 1));
    assert!(!just_before.admitted);
    assert!(window.take(&PER_MINUTE_20, Monotonic(1_000_100 + refused.reset_ms)).admitted);
}

#[test]
fn a_refused_tool_costs_a_permit_of_the_key_and_a_refused_key_costs_the_tool_nothing() {
    let key = ask(1, Limit { permits: 3, window_seconds: 60 }, Stage::Key);
    let tool = ask(2, Limit { permits: 1, window_seconds: 60 }, Stage::Tool);
    let asks = [key, tool];
    let mut value = Vec::new();
    let mut seen = Vec::new();
    for _ in 0..4 {
        let (next, verdicts) = slot::take(&value, 7, &asks, &Fleet::default(), Monotonic(5)).unwrap();
        value = next;
        seen.push(verdicts.iter().map(|verdict| (verdict.admitted, verdict.remaining)).collect::<Vec<_>>());
    }
    assert_eq!(
        seen,
        [
            vec![(true, 2), (true, 0)],
            vec![(true, 1), (false, 0)],
            vec![(true, 0), (false, 0)],
            vec![(false, 0), (false, 0)],
        ]
    );
}

#[test]
fn a_slot_forgets_idle_keys_and_keeps_busy_ones() {
    let asks = [ask(1, PER_MINUTE_20, Stage::Key)];
    let mut value = Vec::new();
    for key in 0..50 {
        value = slot::take(&value, key, &asks, &Fleet::default(), Monotonic(0)).unwrap().0;
    }
    let full = value.len();
    value = slot::take(&value, 3, &asks, &Fleet::default(), Monotonic(30_000)).unwrap().0;
    value = slot::take(&value, 99, &asks, &Fleet::default(), Monotonic(70_000)).unwrap().0;
    assert!(value.len() < full / 10, "{} of {full}", value.len());
    let kept = slot::peek(&value, 3, &asks, &Fleet::default(), Monotonic(70_000)).unwrap();
    assert_eq!(kept[0].remaining, 19);
}

#[test]
fn each_slot_has_a_name_of_its_own() {
    let slots = slot::SLOTS.get();
    let names: std::collections::BTreeSet<slot::Name> = (0..slots).map(slot::name).collect();
    assert_eq!(names.len(), 16_384);
    assert!(names.iter().all(|name| name.starts_with("agentrelay/window/3/")));
    assert_eq!(slot::name(2026 + 3 * slots), slot::name(2026));
}

#[test]
fn corrupt_slots_are_refused() {
    let asks = [ask(1, PER_MINUTE_20, Stage::Key)];
    let value = slot::take(&[], 1, &asks, &Fleet::default(), Monotonic(0)).unwrap().0;
    for length in 1..value.len() {
        assert_eq!(
            slot::take(&value[..length], 1, &asks, &Fleet::default(), Monotonic(0)),
            Err(Corrupt),
            "{length}"
        );
    }
}

/// Difficult arrival times: bursts, cell and window edges, long pauses, and readings that go back a little.
fn arrivals(window_ms: u64) -> impl Strategy<Value = Vec<u64>> {
    let cell = window_ms.div_ceil(CELLS);
    let step = prop_oneof![
        4 => Just(0i64),
        2 => -3i64..3,
        2 => 0..(cell as i64 + 2),
        2 => (cell as i64 - 2)..(cell as i64 + 2),
        1 => (window_ms as i64 - 2)..(window_ms as i64 + 2),
        1 => 0..(2 * window_ms as i64),
    ];
    proptest::collection::vec(step, 1..200).prop_map(|steps| {
        let mut now = 10_000_000i64;
        steps
            .into_iter()
            .map(|step| {
                now = (now + step).max(0);
                now as u64
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn never_over_the_limit_and_never_refused_while_there_is_room(
        permits in 1u32..12,
        window_seconds in 1u32..90,
        seed_arrivals in arrivals(60_000),
    ) {
        let limit = Limit { permits, window_seconds };
        let window_ms = u64::from(window_seconds) * 1000;
        let cell = window_ms.div_ceil(CELLS);
        let mut window = Window::default();
        let mut admitted: Vec<u64> = Vec::new();
        for now in seed_arrivals {
            let verdict = window.take(&limit, Monotonic(now));
            // Admissions are counted with the times that the window was given, in any order.
            let latest = admitted.last().copied().unwrap_or(0);
            let counted = now.max(latest);
            if verdict.admitted {
                admitted.push(counted);
                let inside = admitted.iter().filter(|at| counted - **at <= window_ms).count();
                prop_assert!(inside <= permits as usize, "{inside} admitted within one window");
            } else {
                let inside = admitted.iter().filter(|at| counted + cell - **at <= window_ms + 2 * cell).count();
                prop_assert!(inside >= permits as usize, "refused with {inside} of {permits} in the wider window");
                let again = window.clone().take(&limit, Monotonic(counted + verdict.reset_ms));
                prop_assert!(again.admitted, "the stated wait was not enough");
            }
        }
    }

    #[test]
    fn packing_changes_no_verdict(
        limits in proptest::collection::vec((1u32..6, 1u32..90), 1..4),
        others in proptest::collection::vec(0u64..5, 0..40),
        times in arrivals(20_000),
    ) {
        let mut asks: Vec<Ask> = Vec::new();
        for (index, (permits, window_seconds)) in limits.into_iter().enumerate() {
            asks.push(Ask {
                rule: LimitRule::plain(index as u32, Limit { permits, window_seconds }),
                owner: 7,
                stage: Stage::Key,
                enforced: false,
            });
        }
        let mut plain: Vec<Window> = asks.iter().map(|_| Window::default()).collect();
        let mut value = Vec::new();
        for (index, now) in times.into_iter().enumerate() {
            if let Some(other) = others.get(index) {
                value = slot::take(&value, 100 + other, &asks, &Fleet::default(), Monotonic(now)).unwrap().0;
            }
            let (next, verdicts) = slot::take(&value, 7, &asks, &Fleet::default(), Monotonic(now)).unwrap();
            value = next;
            for ((ask, window), verdict) in asks.iter().zip(&mut plain).zip(&verdicts) {
                prop_assert_eq!(window.take(&ask.rule.limit, Monotonic(now)), *verdict);
            }
        }
    }
}
