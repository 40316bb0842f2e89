//! Limits how often one administrator's credential may ask, by a bucket of permits for each that refills with time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// At most so many buckets; idle ones go first.
const BUCKETS_MAX: usize = 1024;
const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// The buckets.
#[derive(Default)]
pub(super) struct Rates {
    buckets: Mutex<HashMap<String, Bucket>>,
}

#[derive(Clone, Copy)]
struct Bucket {
    /// Requests that may still come, in billionths.
    left: u128,
    filled_at: Instant,
}

impl Rates {
    /// How many requests a second are refilled.
    pub(super) const PER_SECOND: u32 = 2000;
    /// How many may come at once.
    const AT_ONCE: u32 = 4000;

    /// May one more request come.
    pub(super) fn admit(&self, id: &str, now: Instant) -> bool {
        let full = u128::from(Rates::AT_ONCE).saturating_mul(NANOS_PER_SECOND);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(id) {
            buckets.retain(|_, bucket| bucket.refilled(now, full) < full);
        }
        let bucket = buckets.entry(id.to_owned()).or_insert(Bucket { left: full, filled_at: now });
        let left = bucket.refilled(now, full);
        let after = left.checked_sub(NANOS_PER_SECOND);
        *bucket = Bucket { left: after.unwrap_or(left), filled_at: now };
        after.is_some()
    }
}

impl Bucket {
    fn refilled(&self, now: Instant, full: u128) -> u128 {
        let nanos = now.saturating_duration_since(self.filled_at).as_nanos();
        self.left.saturating_add(nanos.saturating_mul(Rates::PER_SECOND.into())).min(full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_credential_over_its_request_limit_waits_and_others_do_not() {
        let rates = Rates::default();
        let now = Instant::now();
        assert_eq!((0..9000).filter(|_| rates.admit("adm_1", now)).count(), 4000);
        assert!(rates.admit("adm_2", now));
        let later = now.checked_add(Duration::from_millis(10)).unwrap();
        assert_eq!((0..50).filter(|_| rates.admit("adm_1", later)).count(), 20);
    }
}
