//! Shared data of all workers: the windows, and the hashes that the ledger does not know.

use crate::host;
use crate::metrics::Metrics;
use policy::unknown_keys;
use policy::window::slot::{self, Ask};
use policy::window::{Monotonic, Verdict};
use protocol::api_key::KeyHash;

/// How often a compare-and-swap may lose before the request is refused. On one hot key and two workers 2 % lose once;
/// a loop without end would let one worker starve another.
pub const ATTEMPTS_MAX: u32 = 64;

/// The windows can't be asked: shared data is not to be had, or others always win. Never admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unavailable;

/// Asks a key's windows and takes what they give.
pub fn ask(fingerprint: u64, asks: &[Ask], metrics: &Metrics) -> Result<Vec<Verdict>, Unavailable> {
    if asks.is_empty() {
        return Ok(Vec::new());
    }
    let name = slot::name(fingerprint);
    for _ in 0..ATTEMPTS_MAX {
        let read = host::shared(&name);
        // Read anew each time: the loser of a race has become later.
        let now = host::monotonic_clock();
        let (next, verdicts) = slot::take(&read.bytes, fingerprint, asks, now).map_err(|_| Unavailable)?;
        if next == read.bytes || host::swap_shared(&name, &read, &next).map_err(|_| Unavailable)? {
            return Ok(verdicts);
        }
        metrics.cas_retries.add(1);
    }
    metrics.cas_exhausted.add(1);
    Err(Unavailable)
}

/// Looks at a key's windows and takes nothing.
pub fn look(fingerprint: u64, asks: &[Ask]) -> Result<Vec<Verdict>, Unavailable> {
    let read = host::shared(&slot::name(fingerprint));
    slot::peek(&read.bytes, fingerprint, asks, host::monotonic_clock()).map_err(|_| Unavailable)
}

/// True if the ledger did not know this hash a moment ago.
pub fn is_unknown(hash: &KeyHash, now: Monotonic) -> bool {
    unknown_keys::contains(&host::shared(&unknown_keys::name(hash)).bytes, hash, now)
}

/// Remembers that the ledger does not know this hash. Forgetting one now and then costs a lookup, so no retry.
pub fn remember_unknown(hash: &KeyHash, now: Monotonic) {
    let name = unknown_keys::name(hash);
    let read = host::shared(&name);
    let next = unknown_keys::insert(&read.bytes, hash, now);
    if let Err(host::Refused(status)) = host::swap_shared(&name, &read, &next) {
        log::warn!("shared data refused a write with status {status}; give the plugin's vm_config a vm_id");
    }
}
