//! Requests of several keys of one tenant, checked by plain counting.

#![allow(clippy::arithmetic_side_effects)]

use super::*;
use crate::limit::LimitRule;
use proptest::prelude::*;
use protocol::key::Limit;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Shared data in memory.
#[derive(Default)]
struct Memory {
    values: RefCell<BTreeMap<u64, Vec<u8>>>,
    now: u64,
}

impl Slots for Memory {
    fn change<A>(
        &self,
        owner: u64,
        change: impl Fn(&[u8], Monotonic) -> Result<(Vec<u8>, A), Corrupt>,
    ) -> Option<A> {
        let mut values = self.values.borrow_mut();
        let value = values.entry(owner).or_default();
        let (next, answer) = change(value, Monotonic(self.now)).unwrap();
        *value = next;
        Some(answer)
    }

    fn read<A>(&self, owner: u64, read: impl FnOnce(&[u8], Monotonic) -> Result<A, Corrupt>) -> Option<A> {
        let values = self.values.borrow();
        Some(read(values.get(&owner).map_or(&[], Vec::as_slice), Monotonic(self.now)).unwrap())
    }
}

fn ask(owner: u64, id: u32, stage: Stage, permits: u32, enforced: bool) -> Ask {
    let rule = LimitRule::plain(id, Limit { permits, window_seconds: 60 });
    Ask { rule, owner, stage, enforced }
}

#[test]
fn a_refusal_by_one_owner_takes_nothing_from_another() {
    let memory = Memory { now: 1_000_000, ..Memory::default() };
    let fleet = Fleet::default();
    let asks = |key| [ask(key, 1, Stage::Key, 5, true), ask(99, 2, Stage::Key, 3, true)];
    for key in [1, 2, 1] {
        assert!(take(&memory, &asks(key), &fleet).unwrap().iter().all(|verdict| verdict.admitted));
    }
    for _ in 0..10 {
        let verdicts = take(&memory, &asks(1), &fleet).unwrap();
        assert!(verdicts[0].admitted && !verdicts[1].admitted);
        assert_eq!((verdicts[0].remaining, verdicts[1].remaining), (3, 0));
    }
}

proptest! {
    /// Any requests of two keys, two agents and their tenant: each window holds what was admitted, and nothing else.
    #[test]
    fn each_stage_takes_from_all_owners_or_from_none(
        requests in prop::collection::vec((0u64..2, 0u64..2, prop::collection::vec((0u64..3, any::<bool>(), any::<bool>()), 1..5), 0u64..30_000), 1..60)
    ) {
        let mut memory = Memory { now: 1_000_000, ..Memory::default() };
        // When each window gave its permits, by owner and id.
        let mut given: BTreeMap<(u64, u32), Vec<u64>> = BTreeMap::new();
        for (key, agent, limits, pause_ms) in requests {
            memory.now += pause_ms;
            let now = memory.now;
            let mut asks: Vec<Ask> = Vec::new();
            for (kind, is_of_tool, enforced) in limits {
                let owner = match kind { 0 => 10 + key, 1 => 20 + agent, _ => 30 };
                let (stage, id) = if is_of_tool { (Stage::Tool, 2) } else { (Stage::Key, 1) };
                let permits = 2 + id;
                if asks.iter().all(|other| (other.owner, other.rule.id) != (owner, id)) {
                    asks.push(ask(owner, id, stage, permits, enforced));
                }
            }
            let verdicts = take(&memory, &asks, &Fleet::default()).unwrap();
            // A cell is 1/64 of the window, so a permit may count for that much longer.
            let (window_ms, cell_ms) = (60_000, 60_000 / 64 + 1);
            let used = |given: &BTreeMap<(u64, u32), Vec<u64>>, ask: &Ask, within: u64| {
                let times = given.get(&(ask.owner, ask.rule.id));
                times.map_or(0, |times| times.iter().filter(|at| now - **at < within).count())
            };
            let mut is_refused = false;
            for stage in [Stage::Key, Stage::Tool] {
                let of_stage: Vec<(&Ask, &Verdict)> =
                    asks.iter().zip(&verdicts).filter(|(ask, _)| ask.stage == stage).collect();
                let refuses = of_stage.iter().any(|(ask, verdict)| ask.enforced && !verdict.admitted);
                for (ask, verdict) in &of_stage {
                    let permits = ask.rule.limit.permits as usize;
                    if verdict.admitted {
                        prop_assert!(used(&given, ask, window_ms) < permits);
                    } else {
                        prop_assert!(used(&given, ask, window_ms + cell_ms) >= permits);
                    }
                }
                is_refused = is_refused || refuses;
                if !is_refused {
                    for (ask, verdict) in of_stage {
                        if verdict.admitted {
                            given.entry((ask.owner, ask.rule.id)).or_default().push(now);
                        }
                    }
                }
            }
        }
    }
}
