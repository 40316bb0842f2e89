//! Changing one value of shared data by compare-and-swap, as often as others are faster.

use crate::host;
use crate::metrics::Metrics;
use policy::window::Monotonic;

/// How often a compare-and-swap may lose before it is given up. On one hot key and two workers 2 % lose once; a loop
/// without end would let one worker starve another.
const ATTEMPTS_MAX: u32 = 64;

/// Changes a value: `change` says what it is to become and what to answer, or `None` to leave it. `None` also where
/// shared data is not to be had, or others always win.
pub fn change<A>(
    name: &str,
    mut now: Monotonic,
    metrics: &Metrics,
    mut change: impl FnMut(&[u8], Monotonic) -> Option<(Vec<u8>, A)>,
) -> Option<A> {
    for _ in 0..ATTEMPTS_MAX {
        let read = host::shared(name);
        let (next, answer) = change(&read.bytes, now)?;
        if next == read.bytes || host::swap_shared(name, &read, &next).ok()? {
            return Some(answer);
        }
        metrics.cas_retries.add(1);
        // The loser of a race has become later.
        now = host::monotonic_clock();
    }
    metrics.cas_exhausted.add(1);
    None
}
