//! Ends exchanges whose key has ended: a long-running exchange must not outlive its credential.

use super::Worker;
use crate::host::Host;
use crate::windows;
use policy::Key;
use policy::window::Monotonic;
use protocol::api_key::KeyHash;

/// Maximum number of key records fetched again in one tick.
const RECHECKS_MAX: usize = 64;
/// How long these fetches may fail before the exchanges are ended.
const RECHECK_MS: u64 = 1_500;

impl<H: Host> Worker<H> {
    /// Ends the exchanges of credentials that are no longer valid, and fetches again the records that are no longer cached.
    pub(super) fn end_revoked(&self, now: Monotonic) {
        let credentials = self.in_progress.lock().credentials();
        self.rechecks.lock().retain(|hash, _| credentials.contains(hash));
        let mut asked = 0usize;
        for hash in credentials {
            if let Some(key) = self.known(&hash, now) {
                self.rechecks.lock().remove(&hash);
                self.end(&hash, Some(&key));
            } else if windows::is_unknown::<H>(&hash, now) {
                self.end(&hash, None);
            } else if asked < RECHECKS_MAX && !self.waiting.lock().contains_key(&hash) {
                asked = asked.saturating_add(1);
                let since = *self.rechecks.lock().entry(hash).or_insert(now);
                if now.0.saturating_sub(since.0) > RECHECK_MS {
                    // A new request with this credential would be refused too.
                    self.end(&hash, None);
                } else if self.dispatch(self.resolve(hash)).is_ok() {
                    self.waiting.lock().entry(hash).or_default();
                }
            }
        }
    }

    /// Ends the exchanges of a credential, unless its key is active and still has the same permissions.
    fn end(&self, hash: &KeyHash, key: Option<&Key>) {
        let key = key.filter(|key| key.is_active(self.now().wall));
        let ended = self.in_progress.lock().to_end(hash, key);
        for stream_id in ended {
            H::in_stream(
                self.id,
                stream_id,
                Box::new(|| {
                    H::reset_response();
                    true
                }),
            );
        }
    }
}
