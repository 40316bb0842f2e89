//! Decides a request whose limits belong to several owners: a key, its agent and its tenant.
//!
//! The windows of one owner are in one value of shared data, so one compare-and-swap decides them. Most requests have limits
//! of one owner. For the others the owners are asked in turn, and if one refuses, the permits that others gave at the same
//! stage are given back. Until then a window may hold a permit too many, which only refuses, and never admits.

use super::slot::{self, Ask, Stage};
use super::{Fleet, Monotonic, Verdict};
use crate::value::Corrupt;

/// Shared data: the values that hold the windows of an owner.
pub trait Slots {
    /// Changes the value of an owner by compare-and-swap. `None` if that is not possible.
    fn change<A>(
        &self,
        owner: u64,
        change: impl Fn(&[u8], Monotonic) -> Result<(Vec<u8>, A), Corrupt>,
    ) -> Option<A>;

    /// Reads the value of an owner.
    fn read<A>(&self, owner: u64, read: impl FnOnce(&[u8], Monotonic) -> Result<A, Corrupt>) -> Option<A>;
}

/// Decides all asks of one request. Each stage takes from all of its windows or from none. `None` if shared data fails; what
/// was taken until then stays taken.
pub fn take(slots: &impl Slots, asks: &[Ask], fleet: &Fleet) -> Option<Vec<Verdict>> {
    let Some(first) = asks.first() else { return Some(Vec::new()) };
    if asks.iter().all(|ask| ask.owner == first.owner) {
        return slots.change(first.owner, |value, now| slot::take(value, first.owner, asks, fleet, now));
    }
    let mut verdicts = vec![Verdict::default(); asks.len()];
    let mut is_refused = false;
    for stage in [Stage::Opening, Stage::Key, Stage::Tool] {
        let mut taken: Vec<Group> = Vec::new();
        for group in groups(asks, stage) {
            let owner = group.owner;
            if is_refused {
                let peeked =
                    slots.read(owner, |value, now| slot::peek(value, owner, &group.asks, fleet, now))?;
                group.write_verdicts(&peeked, &mut verdicts);
                continue;
            }
            let took = slots.change(owner, |value, now| slot::take(value, owner, &group.asks, fleet, now))?;
            group.write_verdicts(&took, &mut verdicts);
            is_refused = group.asks.iter().zip(&took).any(|(ask, took)| ask.enforced && !took.admitted);
            if !is_refused {
                taken.push(group);
                continue;
            }
            for group in taken.drain(..) {
                let took = group.read_verdicts(&verdicts);
                let owner = group.owner;
                let give_back =
                    |value: &[u8], now| slot::give_back(value, owner, &group.asks, &took, fleet, now);
                group.write_verdicts(&slots.change(owner, give_back)?, &mut verdicts);
            }
        }
    }
    Some(verdicts)
}

/// What [`take`] would answer, without taking permits.
pub fn peek(slots: &impl Slots, asks: &[Ask], fleet: &Fleet) -> Option<Vec<Verdict>> {
    let mut verdicts = vec![Verdict::default(); asks.len()];
    for stage in [Stage::Opening, Stage::Key, Stage::Tool] {
        for group in groups(asks, stage) {
            let owner = group.owner;
            let peeked = slots.read(owner, |value, now| slot::peek(value, owner, &group.asks, fleet, now))?;
            group.write_verdicts(&peeked, &mut verdicts);
        }
    }
    Some(verdicts)
}

/// The asks of one stage and owner, and their places among all asks.
struct Group {
    owner: u64,
    places: Vec<usize>,
    asks: Vec<Ask>,
}

/// The asks of a stage by owner, in the order in which the owners are named.
fn groups(asks: &[Ask], stage: Stage) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (place, ask) in asks.iter().enumerate().filter(|(_, ask)| ask.stage == stage) {
        match groups.iter_mut().find(|group| group.owner == ask.owner) {
            Some(group) => {
                group.places.push(place);
                group.asks.push(*ask);
            }
            None => groups.push(Group { owner: ask.owner, places: vec![place], asks: vec![*ask] }),
        }
    }
    groups
}

impl Group {
    fn write_verdicts(&self, own: &[Verdict], verdicts: &mut [Verdict]) {
        for (place, verdict) in self.places.iter().zip(own) {
            if let Some(slot) = verdicts.get_mut(*place) {
                *slot = *verdict;
            }
        }
    }

    fn read_verdicts(&self, verdicts: &[Verdict]) -> Vec<Verdict> {
        self.places.iter().filter_map(|place| verdicts.get(*place).copied()).collect()
    }
}

#[cfg(test)]
mod tests;
