//! The state of a share: its fields, and the bytes that a slot keeps next to the limit's window.

use super::Monotonic;

/// The size of [`Share::bytes`].
const BYTES: usize = 48;

/// A share of a global limit.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// All permits of the limit.
    pub(super) limit: u32,
    pub(super) permits: u32,
    pub(super) revision: u64,
    /// The share is valid until this time.
    pub(super) deadline_ms: u64,
    /// A pending ask is given up at this time; zero if none is pending.
    pub(super) asked_until_ms: u64,
    /// The ledger has no more permits before this time.
    pub(super) no_ask_before_ms: u64,
    /// The permits beyond this share that no other Envoy was known to have used when the ledger last answered.
    pub(super) elsewhere: u32,
    /// The permits that this Envoy has used, as last reported to the ledger.
    pub(super) reported: u32,
}

impl Share {
    /// The permits that may be given now.
    pub(super) fn permits(&self, now: Monotonic) -> u32 {
        if now.0 < self.deadline_ms { self.permits } else { 0 }
    }

    /// False if the share can be dropped. It is kept for one window longer than it is valid, because it also says how
    /// much this Envoy may give while the ledger is unavailable.
    pub(super) fn is_needed(&self, window_seconds: u32, now: Monotonic) -> bool {
        let window_ms = u64::from(window_seconds).saturating_mul(1000);
        let deadline_ms = self.deadline_ms.saturating_add(window_ms);
        now.0 < deadline_ms.max(self.asked_until_ms).max(self.no_ask_before_ms)
    }

    /// True if the share must be asked for again soon, or it expires.
    pub(super) fn expires_soon(&self, now: Monotonic) -> bool {
        let half_ms = protocol::lease::SHARE_TTL_MS / 2;
        now.0 < self.deadline_ms
            && now.0.saturating_add(half_ms) >= self.deadline_ms
            && now.0 >= self.asked_until_ms
    }

    /// Makes everything that was sent so far out of date.
    pub(super) fn revise(&mut self, now: Monotonic) {
        // The revision is at least the clock's time, so it also exceeds those of an earlier share that was dropped.
        self.revision = self.revision.saturating_add(1).max(now.0);
    }

    /// Reads the bytes that [`Share::bytes`] wrote.
    pub(super) fn read(bytes: &[u8; BYTES]) -> Share {
        let [counts, revision, deadline_ms, asked_until_ms, no_ask_before_ms, known] =
            std::array::from_fn(|place| {
                bytes.as_chunks::<8>().0.get(place).map_or(0, |number| u64::from_le_bytes(*number))
            });
        let (limit, permits) = halves(counts);
        let (elsewhere, reported) = halves(known);
        Share { limit, permits, revision, deadline_ms, asked_until_ms, no_ask_before_ms, elsewhere, reported }
    }

    /// Its bytes in a slot: limit u32, permits u32, then revision and the three times, each u64, then elsewhere u32 and
    /// reported u32.
    pub(super) fn bytes(&self) -> [u8; BYTES] {
        let counts = u64::from(self.limit) | (u64::from(self.permits) << 32);
        let known = u64::from(self.elsewhere) | (u64::from(self.reported) << 32);
        let numbers =
            [counts, self.revision, self.deadline_ms, self.asked_until_ms, self.no_ask_before_ms, known];
        let mut bytes = [0; BYTES];
        for (place, number) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(numbers) {
            *place = number.to_le_bytes();
        }
        bytes
    }
}

fn halves(number: u64) -> (u32, u32) {
    let half = |number: u64| u32::try_from(number & u64::from(u32::MAX)).unwrap_or(0);
    (half(number), half(number >> 32))
}
