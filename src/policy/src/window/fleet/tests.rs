//! Envoys whose ledger becomes unavailable, checked by plain counting: over all of them no window has more than the
//! limit.

#![allow(clippy::arithmetic_side_effects)]

use super::super::share;
use super::super::slot::{Ask, Stage, take};
use super::*;
use proptest::prelude::*;
use protocol::key::Limit;

const OWNER: u64 = 7;
/// When the ledger becomes unavailable.
const AWAY_AT: u64 = 1_000_000;

struct Envoy {
    value: Vec<u8>,
    fleet: Fleet,
}

impl Envoy {
    fn call(&mut self, rule: &LimitRule, now: u64) -> bool {
        let asks = [Ask { rule: *rule, owner: OWNER, stage: Stage::Key, enforced: true }];
        let (next, verdicts) = take(&self.value, OWNER, &asks, &self.fleet, Monotonic(now)).unwrap();
        self.value = next;
        verdicts[0].admitted
    }
}

/// Envoys with these shares, and how long before the outage the ledger last answered each.
fn envoys(rule: &LimitRule, shares: &[(u32, u64)]) -> Vec<Envoy> {
    let count = u32::try_from(shares.len()).unwrap();
    let envoy = |(permits, ago_ms): &(u32, u64)| {
        let now = Monotonic(AWAY_AT - ago_ms);
        let (value, ask) = share::ask(&[], OWNER, rule, now).unwrap().unwrap();
        let deadline = Monotonic(now.0 + 120_000);
        let given = share::Given { revision: ask.revision, permits: *permits, elsewhere: 0, deadline };
        let value = share::given(&value, OWNER, rule.id, &given, now).unwrap().unwrap();
        Envoy { value, fleet: Fleet { envoys: count, confirmed: now, is_unavailable: true } }
    };
    shares.iter().map(envoy).collect()
}

fn global(permits: u32, window_seconds: u32) -> LimitRule {
    LimitRule { global: true, ..LimitRule::plain(1, Limit { permits, window_seconds }) }
}

#[test]
fn each_envoy_rises_to_its_fair_share_when_what_others_gave_has_left_the_window() {
    let rule = global(20, 60);
    let mut both = envoys(&rule, &[(15, 0), (5, 0)]);
    let mut count = |envoy: usize, now: u64| (0..30).filter(|_| both[envoy].call(&rule, now)).count();
    assert_eq!((count(0, AWAY_AT + 1), count(1, AWAY_AT + 1)), (15, 5));
    let later = AWAY_AT + LOWERED_MS + 60_000;
    assert_eq!((count(0, later), count(1, later)), (10, 10));
    // It continues so for as long as the ledger is unavailable.
    assert_eq!((count(0, later * 2), count(1, later * 2)), (10, 10));
}

proptest! {
    #[test]
    fn no_window_has_more_than_the_limit_while_the_ledger_is_unavailable(
        permits in 1u32..40,
        window_seconds in prop::sample::select(vec![1u32, 10, 60]),
        cuts in prop::collection::vec((0u32..=40, 0u64..FEED_WAIT_MS_MAX), 1..5),
        calls in prop::collection::vec((0usize..5, 0u64..2_000), 50..400),
    ) {
        let rule = global(permits, window_seconds);
        // The shares sum to the limit at most, as the ledger keeps them.
        let mut left = permits;
        let shares: Vec<(u32, u64)> = cuts.iter().map(|(cut, ago_ms)| {
            let share = (*cut).min(left);
            left -= share;
            (share, *ago_ms)
        }).collect();
        let mut envoys = envoys(&rule, &shares);
        let mut now = AWAY_AT;
        let mut admitted: Vec<u64> = Vec::new();
        for (envoy, pause_ms) in calls {
            now += pause_ms;
            let place = envoy % envoys.len();
            // Bursts use every permit that an Envoy would give.
            while envoys[place].call(&rule, now) {
                admitted.push(now);
                let window_ms = u64::from(window_seconds) * 1000;
                let held = admitted.iter().filter(|at| **at + window_ms > now).count();
                prop_assert!(held <= permits as usize, "{held} of {permits} at {}", now - AWAY_AT);
            }
        }
    }
}
