//! Shares of several Envoys, checked by a minimal ledger: no interval ever has more than the limit.

#![allow(clippy::arithmetic_side_effects)]

use super::*;
use crate::window::Fleet;
use crate::window::slot::{Ask as WindowAsk, Stage};
use proptest::prelude::*;

const KEY: u64 = 7;
const TTL_MS: u64 = 120_000;

fn rule(permits: u32, window_seconds: u32) -> LimitRule {
    LimitRule { global: true, ..LimitRule::plain(1, Limit { permits, window_seconds }) }
}

fn take(value: &mut Vec<u8>, rule: &LimitRule, now: u64) -> bool {
    let asks = [WindowAsk { rule: *rule, owner: KEY, stage: Stage::Key, enforced: true }];
    let (next, verdicts) = slot::take(value, KEY, &asks, &Fleet::default(), Monotonic(now)).unwrap();
    *value = next;
    verdicts[0].admitted
}

fn asked(value: &mut Vec<u8>, rule: &LimitRule, now: u64) -> Option<Ask> {
    let (next, ask) = ask(value, KEY, rule, Monotonic(now)).unwrap()?;
    *value = next;
    Some(ask)
}

fn answer(value: &mut Vec<u8>, ask: &Ask, permits: u32, now: u64) {
    let (revision, deadline) = (ask.revision, Monotonic(now + TTL_MS));
    let answer = Given { revision, permits, elsewhere: 0, deadline };
    let next = given(value, KEY, 1, &answer, Monotonic(now)).unwrap();
    *value = next.unwrap();
}

#[test]
fn a_share_admits_no_more_than_its_permits() {
    let (rule, mut value) = (rule(10, 60), Vec::new());
    assert!(!take(&mut value, &rule, 1_000));
    let ask = asked(&mut value, &rule, 1_000).unwrap();
    assert_eq!((ask.keep, ask.wanted), (0, 8));
    answer(&mut value, &ask, 3, 1_000);
    let admitted = (0..5).filter(|_| take(&mut value, &rule, 1_001)).count();
    assert_eq!(admitted, 3);
}

#[test]
fn only_the_answer_to_the_last_ask_counts() {
    let (rule, mut value) = (rule(10, 60), Vec::new());
    let first = asked(&mut value, &rule, 1_000).unwrap();
    let later = 1_000 + ASK_MS;
    let second = asked(&mut value, &rule, later).unwrap();
    assert!(second.revision > first.revision);
    answer(&mut value, &first, 8, later + 1);
    assert!(!take(&mut value, &rule, later + 2));
    answer(&mut value, &second, 8, later + 3);
    assert!(take(&mut value, &rule, later + 4));
}

#[test]
fn concurrent_asks_of_workers_are_equal_and_either_answer_counts() {
    let (rule, mut value) = (rule(100, 60), Vec::new());
    let first = asked(&mut value, &rule, 1_000).unwrap();
    let second = asked(&mut value, &rule, 1_001).unwrap();
    assert_eq!(second, first);
    answer(&mut value, &first, 8, 1_002);
    (0..8).for_each(|_| assert!(take(&mut value, &rule, 1_003)));
    // The second answer brings no more, and does not prevent another ask.
    answer(&mut value, &second, 8, 1_004);
    assert!(!take(&mut value, &rule, 1_005));
    let third = asked(&mut value, &rule, 1_006).unwrap();
    assert!(third.revision > first.revision);
    assert_eq!((third.keep, third.wanted), (8, 24));
}

#[test]
fn an_ask_after_a_release_is_a_new_one() {
    let (rule, mut value) = (rule(100, 60), Vec::new());
    let ask = asked(&mut value, &rule, 0).unwrap();
    answer(&mut value, &ask, 50, 0);
    let pending = asked(&mut value, &rule, 10).unwrap();
    let (next, released) = release(&value, KEY, 1, Monotonic(20)).unwrap().unwrap();
    value = next;
    assert_eq!(released.keep, 25);
    let again = asked(&mut value, &rule, 30).unwrap();
    assert!(pending.revision < released.revision && released.revision < again.revision);
    assert_eq!(again.keep, 25);
}

#[test]
fn permits_in_the_window_count_after_the_share_expires() {
    let (rule, mut value) = (rule(10, 3600), Vec::new());
    let ask = asked(&mut value, &rule, 0).unwrap();
    answer(&mut value, &ask, 8, 0);
    (0..5).for_each(|_| assert!(take(&mut value, &rule, 10)));
    assert!(!take(&mut value, &rule, TTL_MS + 1));
    assert_eq!(asked(&mut value, &rule, TTL_MS + 2).unwrap().keep, 5);
}

#[test]
fn a_release_returns_half_of_the_permits_that_the_window_does_not_hold() {
    let (rule, mut value) = (rule(100, 60), Vec::new());
    let ask = asked(&mut value, &rule, 0).unwrap();
    answer(&mut value, &ask, 50, 0);
    (0..10).for_each(|_| assert!(take(&mut value, &rule, 10)));
    let mut kept = Vec::new();
    while let Some((next, ask)) = release(&value, KEY, 1, Monotonic(20)).unwrap() {
        value = next;
        kept.push(ask.keep);
    }
    assert_eq!(kept, [30, 20, 15, 12, 11, 10]);
    assert!(!take(&mut value, &rule, 30));
}

/// One of several Envoys, with its messages in transit.
#[derive(Default)]
struct Envoy {
    value: Vec<u8>,
    recorded: u32,
    revision: u64,
    sent: Vec<Ask>,
}

#[derive(Debug, Clone)]
enum Event {
    Call,
    Ask,
    Release,
    /// The ledger gets what was sent, in any order; its answer arrives or is lost.
    Hear {
        pick: usize,
        is_lost: bool,
        is_repeated: bool,
    },
    Wait {
        ms: u64,
    },
}

fn event() -> impl Strategy<Value = (usize, Event)> {
    let event = prop_oneof![
        6 => Just(Event::Call),
        3 => Just(Event::Ask),
        1 => Just(Event::Release),
        4 => (0..4usize, prop::bool::weighted(0.2), prop::bool::weighted(0.2))
            .prop_map(|(pick, is_lost, is_repeated)| Event::Hear { pick, is_lost, is_repeated }),
        2 => (1..3_000u64).prop_map(|ms| Event::Wait { ms }),
    ];
    (0..2usize, event)
}

proptest! {
    #[test]
    fn two_envoys_never_give_more_than_the_limit(events in prop::collection::vec(event(), 1..200)) {
        let rule = rule(6, 5);
        let mut envoys = [Envoy::default(), Envoy::default()];
        let mut admitted: Vec<u64> = Vec::new();
        let mut now = 10_000;
        for (which, event) in events {
            let others = envoys[1 - which].recorded;
            let envoy = &mut envoys[which];
            match event {
                Event::Wait { ms } => now += ms,
                Event::Call => if take(&mut envoy.value, &rule, now) {
                    admitted.push(now);
                    let inside = admitted.iter().filter(|at| now - **at <= 5_000).count();
                    prop_assert!(inside <= 6, "{} in one window", inside);
                },
                Event::Ask => envoy.sent.extend(asked(&mut envoy.value, &rule, now)),
                Event::Release => {
                    if let Some((next, ask)) = release(&envoy.value, KEY, 1, Monotonic(now)).unwrap() {
                        envoy.value = next;
                        envoy.sent.push(ask);
                    }
                }
                Event::Hear { pick, is_lost, is_repeated } => {
                    if envoy.sent.is_empty() { continue; }
                    let place = pick % envoy.sent.len();
                    let ask = if is_repeated { envoy.sent[place] } else { envoy.sent.remove(place) };
                    if ask.revision > envoy.revision {
                        envoy.revision = ask.revision;
                        let kept = envoy.recorded.min(ask.keep);
                        envoy.recorded = kept.max(ask.wanted.min(rule.limit.permits - others));
                    }
                    if !is_lost && ask.revision == envoy.revision {
                        let (permits, deadline) = (envoy.recorded, Monotonic(now + TTL_MS));
                        let answer = Given { revision: ask.revision, permits, elsewhere: 0, deadline };
                        let next = given(&envoy.value, KEY, 1, &answer, Monotonic(now)).unwrap();
                        envoy.value = next.unwrap_or_else(|| envoy.value.clone());
                    }
                }
            }
        }
    }
}
