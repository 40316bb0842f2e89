//! Latency histograms, which can be summed over any hours before percentiles are computed. Pure.
//!
//! Up to 7 ms each bucket is one millisecond wide. Above, each doubling has eight buckets, so a percentile is at most an
//! eighth too high.

use protocol::admin::Percentiles;

/// The bucket of calls whose latency is unknown.
pub const UNKNOWN: u32 = u32::MAX >> 1;
/// An upper bound on the number of buckets: eight for each of 64 doublings, and [`UNKNOWN`].
pub const BUCKETS_MAX: u32 = 513;
const PER_DOUBLING: u32 = 8;
const SHIFT: u32 = 3;

/// The bucket of a duration.
pub fn bucket(millis: u64) -> u32 {
    let Some(doubling) = millis.checked_ilog2().and_then(|log| log.checked_sub(SHIFT)) else {
        return u32::try_from(millis).unwrap_or_default();
    };
    // The four highest bits: a one, and the position among the eight buckets.
    let place = u32::try_from(millis >> doubling).unwrap_or_default();
    doubling.saturating_mul(PER_DOUBLING).saturating_add(place)
}

/// The longest duration that a bucket holds.
fn longest(bucket: u32) -> u64 {
    let Some(doubling) = (bucket / PER_DOUBLING).checked_sub(1) else { return bucket.into() };
    let place = u128::from(bucket % PER_DOUBLING).saturating_add(PER_DOUBLING.into());
    let next = place.saturating_add(1).checked_shl(doubling).unwrap_or(u128::MAX);
    u64::try_from(next.saturating_sub(1)).unwrap_or(u64::MAX)
}

/// Counts by bucket.
#[derive(Debug, Clone, Default)]
pub struct Histogram(std::collections::BTreeMap<u32, u64>);

impl Histogram {
    /// Adds `count` durations to a bucket.
    pub fn add(&mut self, bucket: u32, count: u64) {
        if bucket != UNKNOWN {
            let sum = self.0.entry(bucket).or_default();
            *sum = sum.saturating_add(count);
        }
    }

    /// The percentiles, or `None` if nothing was counted.
    pub fn percentiles(&self) -> Option<Percentiles> {
        let total = self.0.values().fold(0u64, |sum, count| sum.saturating_add(*count));
        let at = |percent: u64| {
            // The smallest rank that covers this percentage.
            let wanted = u128::from(total).saturating_mul(percent.into()).div_ceil(100);
            let mut seen = 0u128;
            self.0
                .iter()
                .find(|(_, count)| {
                    seen = seen.saturating_add(u128::from(**count));
                    seen >= wanted
                })
                .map(|(bucket, _)| longest(*bucket))
        };
        Some(Percentiles { p50: at(50)?, p95: at(95)?, p99: at(99)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_ordered_and_contain_their_range() {
        let mut last = 0;
        for millis in (0..5000).chain([60_000, 3_600_000, u64::MAX / 2, u64::MAX]) {
            let bucket = bucket(millis);
            assert!(bucket >= last, "{millis}");
            last = bucket;
            let longest = longest(bucket);
            assert!(longest >= millis && longest - millis <= millis / 8, "{millis} in {bucket}: {longest}");
        }
    }

    #[test]
    fn percentiles_are_those_of_the_counts() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentiles(), None);
        for millis in 1..=7 {
            histogram.add(bucket(millis), 14);
        }
        histogram.add(bucket(1000), 2);
        histogram.add(UNKNOWN, 50);
        let found = histogram.percentiles().unwrap();
        assert_eq!((found.p50, found.p95), (4, 7));
        assert!((1000..1125).contains(&found.p99), "{found:?}");
    }
}
