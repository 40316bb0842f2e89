//! Changes one value of shared data by compare-and-swap, with retries while other workers win.

use crate::host::Host;
use crate::metrics::Metrics;
use policy::window::Monotonic;

/// Maximum attempts of one change. With two workers on one hot key, 2 % of changes need a second attempt; an endless
/// loop would let one worker starve another.
const ATTEMPTS_MAX: u32 = 64;

/// Changes a value. `change` returns the next value and a result, or `None` to leave the value unchanged. Also returns
/// `None` if shared data is unavailable or every attempt is lost.
pub fn change<H: Host, A>(
    name: &str,
    mut now: Monotonic,
    metrics: &Metrics<H>,
    mut change: impl FnMut(&[u8], Monotonic) -> Option<(Vec<u8>, A)>,
) -> Option<A> {
    for _ in 0..ATTEMPTS_MAX {
        let read = H::shared(name);
        let (next, answer) = change(&read.bytes, now)?;
        if next == read.bytes || H::swap_shared(name, &read, &next).ok()? {
            return Some(answer);
        }
        H::add(metrics.cas_retries, 1);
        // Time has passed since the lost attempt, so read the clock again.
        now = H::monotonic_clock();
    }
    H::add(metrics.cas_exhausted, 1);
    None
}
