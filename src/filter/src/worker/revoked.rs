//! Exchanges that end because their key did: what runs for long must not outlive the credential that it came with.

use super::Worker;
use crate::host;
use crate::windows;
use policy::Key;
use policy::window::Monotonic;
use protocol::api_key::KeyHash;

/// Records that are asked for again in one tick.
const DOUBTED_MAX: usize = 64;
/// For how long asking may fail before the exchanges end.
const DOUBTED_MS: u64 = 1_500;

impl Worker {
    /// Ends what is under way of credentials that are no good any more, and asks for records that are not known for certain.
    pub(super) fn end_revoked(&self, now: Monotonic) {
        let credentials = self.under_way.borrow().credentials();
        self.doubted.borrow_mut().retain(|hash, _| credentials.contains(hash));
        let mut asked = 0usize;
        for hash in credentials {
            if let Some(key) = self.known(&hash, now) {
                self.doubted.borrow_mut().remove(&hash);
                self.end(&hash, Some(&key));
            } else if windows::is_unknown(&hash, now) {
                self.end(&hash, None);
            } else if asked < DOUBTED_MAX && !self.waiting.borrow().contains_key(&hash) {
                asked = asked.saturating_add(1);
                let since = *self.doubted.borrow_mut().entry(hash).or_insert(now);
                if now.0.saturating_sub(since.0) > DOUBTED_MS {
                    // Whoever came with it now would be refused too.
                    self.end(&hash, None);
                } else if self.dispatch(self.resolve(hash)).is_ok() {
                    self.waiting.borrow_mut().insert(hash, Vec::new());
                }
            }
        }
    }

    /// Ends what is under way of a credential, unless it is as good as it was.
    fn end(&self, hash: &KeyHash, key: Option<&Key>) {
        let key = key.filter(|key| key.is_active(self.now().wall));
        for stream_id in self.under_way.borrow().ended(hash, key) {
            self.in_stream(stream_id, host::reset_response);
        }
    }
}
