//! The ids that requests use in sessions, in shared data of all workers.

use crate::host::Host;
use crate::lock::Locked;
use crate::metrics::Metrics;
use crate::shared;
use policy::ids_in_use::{self, Ended, Use};
use policy::window::Monotonic;
use std::collections::HashMap;

/// Records this worker's uses. A use that ends is written with the next one that begins, or with the next tick.
#[derive(Default)]
pub struct IdsInUse {
    ended: Locked<HashMap<u64, Vec<Ended>>>,
}

impl IdsInUse {
    /// Records uses of one owner that begin. If that fails, no answer to them proves anything.
    pub fn begin<H: Host>(&self, uses: impl Iterator<Item = Use>, now: Monotonic, metrics: &Metrics<H>) {
        let mut uses = uses.peekable();
        let Some(Use { owner, .. }) = uses.peek().copied() else { return };
        let ended = self.ended.lock().remove(&owner).unwrap_or_default();
        let begun: Vec<u64> = uses.map(|used| used.id).collect();
        write(owner, &ended, &begun, now, metrics);
    }

    /// Takes note that uses of one owner have ended.
    pub fn end(&self, owner: u64, ended: impl Iterator<Item = Ended>) {
        self.ended.lock().entry(owner).or_default().extend(ended);
    }

    /// True if a request that is about to end was alone with its id.
    pub fn is_alone<H: Host>(used: Use, now: Monotonic) -> bool {
        ids_in_use::is_alone(&H::shared(&ids_in_use::name(used.owner)).bytes, used, now)
    }

    /// Writes the uses that have ended.
    pub fn flush<H: Host>(&self, now: Monotonic, metrics: &Metrics<H>) {
        for (owner, ended) in self.ended.replace(HashMap::new()) {
            write(owner, &ended, &[], now, metrics);
        }
    }
}

fn write<H: Host>(owner: u64, ended: &[Ended], begun: &[u64], now: Monotonic, metrics: &Metrics<H>) {
    shared::change(&ids_in_use::name(owner), now, metrics, |value, now| {
        Some((ids_in_use::change(value, owner, ended, begun, now).ok()?, ()))
    });
}
