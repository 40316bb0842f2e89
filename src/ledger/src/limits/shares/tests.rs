//! Simulated Envoys that share one limit: each counts its own window, asks, and gets answers late, twice, out of order
//! or not at all. Over all of them no window ever has more than the limit.

#![allow(clippy::arithmetic_side_effects)]

use super::*;
use crate::fixture::seeded;
use policy::window::{Monotonic, Window};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use protocol::OwnerId;
use protocol::key::Limit;

const LIMIT: Limit = Limit { permits: 40, window_seconds: 60 };
/// More permits than any window has, to see how many it gave.
const ENDLESS: Limit = Limit { permits: Limit::PERMITS_MAX, window_seconds: 60 };

fn key() -> OwnerId {
    OwnerId::parse("key_1").unwrap()
}

/// The filter's side of the protocol, for one limit.
struct Envoy {
    instance: InstanceId,
    window: Window,
    share: u32,
    ends_ms: u64,
    revision: u64,
    /// Asks that were sent and not answered.
    asked: Option<ShareAsk>,
}

impl Envoy {
    fn new(number: usize) -> Envoy {
        let instance = InstanceId::from_bits(number as u128);
        Envoy { instance, window: Window::default(), share: 0, ends_ms: 0, revision: 0, asked: None }
    }

    fn holds(&mut self, now_ms: u64) -> u32 {
        ENDLESS.permits - self.window.peek(&ENDLESS, Monotonic(now_ms)).remaining
    }

    fn share(&self, now_ms: u64) -> u32 {
        if now_ms < self.ends_ms { self.share } else { 0 }
    }

    fn call(&mut self, now_ms: u64) -> bool {
        let permits = self.share(now_ms);
        permits > 0 && self.window.take(&Limit { permits, ..LIMIT }, Monotonic(now_ms)).admitted
    }

    /// Lowers its share to what it needs, then asks.
    fn ask(&mut self, spare: u32, wanted: u32, now_ms: u64) -> Message {
        // From an expired share it gives nothing more, but its earlier permits are still in the window.
        let holds = self.holds(now_ms);
        self.share = self.share(now_ms).min(holds.saturating_add(spare));
        let keep = self.share.max(holds);
        self.revision += 1;
        let ask = ShareAsk {
            owner: key(),
            limit_id: 7,
            limit: LIMIT,
            revision: self.revision,
            used: holds,
            keep,
            wanted,
        };
        self.asked = Some(ask.clone());
        Message { ask, sent_ms: now_ms }
    }

    /// Another worker sends the same ask.
    fn repeat(&self, now_ms: u64) -> Option<Message> {
        self.asked.clone().map(|ask| Message { ask, sent_ms: now_ms })
    }

    fn answered(&mut self, answer: &Answer, sent_ms: u64) {
        // Answers to older rounds are ignored.
        if answer.revision == self.revision {
            self.share = answer.permits;
            self.ends_ms = sent_ms + TTL_MILLIS;
            self.asked = None;
        }
    }
}

#[derive(Clone)]
struct Message {
    ask: ShareAsk,
    sent_ms: u64,
}

#[derive(Debug, Clone, Copy)]
enum Command {
    Calls {
        envoy: usize,
        count: u32,
    },
    Ask {
        envoy: usize,
        spare: u32,
        wanted: u32,
    },
    Repeat {
        envoy: usize,
    },
    /// One of the rounds sent so far reaches the ledger.
    Deliver {
        pick: usize,
    },
    /// One of the answers so far reaches its Envoy.
    Answer {
        pick: usize,
    },
    /// A round and its answer, without loss.
    Round {
        envoy: usize,
        spare: u32,
        wanted: u32,
    },
    /// The Envoy restarts without its state.
    Restart {
        envoy: usize,
    },
    Wait {
        millis: u64,
    },
}

const ENVOYS: usize = 3;

fn command() -> impl Strategy<Value = Command> {
    let envoy = 0..ENVOYS;
    let spare = prop_oneof![Just(0u32), 1u32..50];
    prop_oneof![
        6 => (envoy.clone(), 1u32..30).prop_map(|(envoy, count)| Command::Calls { envoy, count }),
        3 => (envoy.clone(), spare.clone(), 0u32..60)
            .prop_map(|(envoy, spare, wanted)| Command::Ask { envoy, spare, wanted }),
        2 => envoy.clone().prop_map(|envoy| Command::Repeat { envoy }),
        3 => any::<usize>().prop_map(|pick| Command::Deliver { pick }),
        3 => any::<usize>().prop_map(|pick| Command::Answer { pick }),
        5 => (envoy.clone(), spare, 0u32..60)
            .prop_map(|(envoy, spare, wanted)| Command::Round { envoy, spare, wanted }),
        1 => envoy.prop_map(|envoy| Command::Restart { envoy }),
        4 => prop_oneof![
            0u64..100,
            0u64..20_000,
            55_000u64..70_000,
            Just(TTL_MILLIS - 500),
            100_000u64..200_000
        ]
            .prop_map(|millis| Command::Wait { millis }),
    ]
}

#[derive(Default)]
struct World {
    rows: Rows,
    envoys: Vec<Envoy>,
    sent: Vec<(InstanceId, Message)>,
    answers: Vec<(InstanceId, Answer, u64)>,
    admitted_ms: Vec<u64>,
    now_ms: u64,
    runs: usize,
}

impl World {
    fn new() -> World {
        let now_ms = 1_700_000_000_000;
        let rows = fleet_of(3);
        World {
            rows,
            envoys: (0..ENVOYS).map(Envoy::new).collect(),
            now_ms,
            runs: ENVOYS,
            ..World::default()
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now_ms)
    }

    fn deliver_message(&mut self, instance: InstanceId, message: &Message) -> Result<(), TestCaseError> {
        let now = self.now();
        let answer = grant(&mut self.rows, &instance, &message.ask, now);
        let out = self.rows.shares.rows().filter(|(_, share)| share.expires_at > now);
        let out: u32 = out.map(|(_, share)| share.permits).sum();
        prop_assert!(out <= LIMIT.permits, "{} permits are out", out);
        self.answers.push((instance, answer, message.sent_ms));
        Ok(())
    }

    fn deliver_answer(&mut self, pick: usize) {
        if let Some((instance, answer, sent_ms)) = self.answers.get(pick)
            && let Some(envoy) = self.envoys.iter_mut().find(|envoy| envoy.instance == *instance)
        {
            envoy.answered(answer, *sent_ms);
        }
    }

    fn apply(&mut self, command: Command) -> Result<(), TestCaseError> {
        match command {
            Command::Wait { millis } => self.now_ms += millis,
            Command::Calls { envoy, count } => {
                for _ in 0..count {
                    if self.envoys[envoy].call(self.now_ms) {
                        self.admitted_ms.push(self.now_ms);
                    }
                    self.now_ms += 3;
                }
            }
            Command::Ask { envoy, spare, wanted } => {
                let message = self.envoys[envoy].ask(spare, wanted, self.now_ms);
                self.sent.push((self.envoys[envoy].instance, message));
            }
            Command::Repeat { envoy } => {
                let envoy = &self.envoys[envoy];
                self.sent.extend(envoy.repeat(self.now_ms).map(|message| (envoy.instance, message)));
            }
            Command::Deliver { pick } => {
                if let Some((instance, message)) = self.sent.get(pick % self.sent.len().max(1)).cloned() {
                    self.deliver_message(instance, &message)?;
                }
            }
            Command::Answer { pick } => self.deliver_answer(pick % self.answers.len().max(1)),
            Command::Round { envoy, spare, wanted } => self.exchange_round(envoy, spare, wanted)?,
            Command::Restart { envoy } => {
                self.envoys[envoy] = Envoy::new(self.runs);
                self.runs += 1;
            }
        }
        Ok(())
    }

    fn exchange_round(&mut self, envoy: usize, spare: u32, wanted: u32) -> Result<(), TestCaseError> {
        let message = self.envoys[envoy].ask(spare, wanted, self.now_ms);
        let instance = self.envoys[envoy].instance;
        self.sent.push((instance, message.clone()));
        self.deliver_message(instance, &message)?;
        self.deliver_answer(self.answers.len() - 1);
        Ok(())
    }

    /// Over all Envoys, including those before a restart.
    fn check(&self) -> Result<(), TestCaseError> {
        let window_ms = u64::from(LIMIT.window_seconds) * 1000;
        for (place, first) in self.admitted_ms.iter().enumerate() {
            let inside = self.admitted_ms[place..].iter().take_while(|at| **at < first + window_ms).count();
            prop_assert!(inside <= LIMIT.permits as usize, "{} in the window from {}", inside, first);
        }
        Ok(())
    }
}

#[test]
fn rounds_in_any_order_keep_all_envoys_within_the_limit() {
    let run = |commands: Vec<Command>| {
        let mut world = World::new();
        commands.into_iter().try_for_each(|command| world.apply(command))?;
        world.check()
    };
    seeded("SHARE_SEED", 1000, &vec(command(), 1..120), run);
}

#[test]
fn shares_follow_the_traffic() {
    let mut world = World::new();
    for busy in [0, 1, 2, 0] {
        // Ten minutes of traffic on one Envoy alone; each talks once in ten seconds, keeping what its window holds.
        for _ in 0..60 {
            world.apply(Command::Calls { envoy: busy, count: 20 }).unwrap();
            for envoy in 0..ENVOYS {
                let wanted = if envoy == busy { LIMIT.permits } else { 0 };
                let spare = if envoy == busy { LIMIT.permits } else { 0 };
                world.exchange_round(envoy, spare, wanted).unwrap();
            }
            world.apply(Command::Wait { millis: 10_000 }).unwrap();
        }
        let share = world.envoys[busy].share(world.now_ms);
        assert!(share >= LIMIT.permits - 1, "Envoy {busy} has {share} permits");
    }
    world.check().unwrap();
}

/// The rows as they are loaded while so many Envoys follow the feed.
fn fleet_of(envoys: u32) -> Rows {
    let mut rows = Rows::default();
    rows.envoys_seen = envoys;
    rows
}

fn rows_with(permits: [u32; 2], now: Timestamp) -> Rows {
    let mut rows = Rows::default();
    for (number, wanted) in permits.into_iter().enumerate() {
        let mut envoy = Envoy::new(number);
        while envoy.share < wanted {
            let ask = envoy.ask(wanted, wanted, now.as_millis()).ask;
            let answer = grant(&mut rows, &envoy.instance, &ask, now);
            envoy.answered(&answer, now.as_millis());
        }
    }
    rows.changes.clear();
    rows
}

#[test]
fn an_envoy_without_permits_triggers_recalls_at_a_bounded_rate() {
    let now = Timestamp::from_millis(1_700_000_000_000);
    let mut rows = rows_with([30, 0], now);
    let mut second = Envoy::new(1);
    let mut ask = |rows: &mut Rows, at: Timestamp| {
        // It uses all that it has.
        while second.call(at.as_millis()) {}
        let ask = second.ask(40, 40, at.as_millis()).ask;
        let answer = grant(rows, &second.instance, &ask, at);
        second.answered(&answer, at.as_millis());
        second.share
    };
    // As long as there are free permits, nobody has to return any.
    while ask(&mut rows, now) < 10 {}
    assert!(rows.changes.is_empty());
    let mut calls = Vec::new();
    for millis in [0, 100, 199, 200, 300, 500] {
        assert_eq!(ask(&mut rows, now.plus_millis(millis)), 10);
        calls.push(rows.changes.len());
    }
    assert_eq!(calls, [1, 1, 1, 2, 2, 3]);
    assert_eq!(rows.changes[0].0, Change::Share { owner: key(), limit_id: 7 });
}

#[test]
fn equal_asks_of_two_workers_get_equal_answers_valid_from_the_later_one() {
    let now = Timestamp::from_millis(1_700_000_000_000);
    let mut rows = Rows::default();
    let mut envoys = [Envoy::new(0), Envoy::new(1)];
    let message = envoys[0].ask(40, 24, now.as_millis());
    let first = grant(&mut rows, &envoys[0].instance, &message.ask, now);
    let later = now.plus_millis(3_000);
    let again = envoys[0].repeat(later.as_millis()).unwrap();
    assert_eq!(grant(&mut rows, &envoys[0].instance, &again.ask, later), first);
    let lasts_millis = TTL_MILLIS + 60_000 + MARGIN_MILLIS;
    let mut left = |at: Timestamp| {
        let ask = envoys[1].ask(40, 40, at.as_millis()).ask;
        let answer = grant(&mut rows, &envoys[1].instance, &ask, at);
        envoys[1].answered(&answer, at.as_millis());
        answer.permits
    };
    let free = LIMIT.permits - first.permits;
    assert!((0..20).all(|_| left(later.plus_millis(lasts_millis - 1)) <= free));
    assert!(left(later.plus_millis(lasts_millis)) > free);
}

#[test]
fn a_lowered_limit_is_never_exceeded_and_an_expired_share_is_not_kept() {
    let now = Timestamp::from_millis(1_700_000_000_000);
    let mut rows = rows_with([25, 15], now);
    let ask = |limit: Limit, revision, keep| ShareAsk {
        owner: key(),
        used: 0,
        limit_id: 7,
        limit,
        revision,
        keep,
        wanted: 40,
    };
    let first = InstanceId::from_bits(0);
    let lowered = Limit { permits: 20, ..LIMIT };
    assert_eq!(grant(&mut rows, &first, &ask(lowered, 100, 25), now).permits, 5);
    // A late round of earlier raises nothing.
    assert_eq!(grant(&mut rows, &first, &ask(LIMIT, 99, 25), now).permits, 5);
    let ended = now.plus_millis(TTL_MILLIS + 60_000 + MARGIN_MILLIS);
    let just_before = ended.plus_millis(0).as_millis() - 1;
    let just_before = Timestamp::from_millis(just_before);
    let third = InstanceId::from_bits(2);
    assert_eq!(grant(&mut rows, &third, &ask(LIMIT, 1, 40), just_before).permits, 10);
    assert_eq!(grant(&mut rows, &third, &ask(LIMIT, 2, 40), ended).permits, 25);
}

#[test]
fn an_envoy_that_asks_gets_its_fair_share_at_once_and_one_that_returns_permits_does_not() {
    let now = Timestamp::from_millis(1_700_000_000_000);
    let mut rows = fleet_of(2);
    let mut envoys = [Envoy::new(0), Envoy::new(1)];
    for envoy in &mut envoys {
        let ask = envoy.ask(40, 8, now.as_millis()).ask;
        let answer = grant(&mut rows, &envoy.instance, &ask, now);
        envoy.answered(&answer, now.as_millis());
    }
    assert_eq!((envoys[0].share, envoys[1].share), (20, 20));
    let returned = envoys[0].ask(5, 5, now.as_millis()).ask;
    assert_eq!(grant(&mut rows, &envoys[0].instance, &returned, now).permits, 5);
}
