//! The secrets that bind session ids to their tenants: when a new one is created, and how long earlier ones verify.
//!
//! They are rows, so that all ledgers of a database hand out the same ones. `policy::session` signs and verifies with them.

use crate::transaction::{Needs, Operation, Refusal, Rows};
use protocol::Timestamp;
use protocol::filter::Change;
use protocol::session::SessionSecret;
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// How long a secret signs. Few secrets exist at once, so verifying an id costs few hashes.
const SIGNS_SECONDS: u64 = 7 * 86_400;
/// How long it verifies after that. An older session has to start again.
const VERIFIES_SECONDS: u64 = 7 * 86_400;
/// How long before it signs a secret is handed out, at least, and at least twice `key_stale`: a filter that was cut off for
/// longer than `key_stale` trusts no key, so no filter signs without knowing the newest secret.
const AHEAD_SECONDS_MIN: u64 = 3600;

/// Creates the first secret, or the next one when it is due, and deletes expired ones.
#[derive(Clone)]
pub struct Rotate {
    /// Random bytes for a new secret, if one is due.
    pub seed: [u8; 32],
    /// How long filters may use key records without the ledger, by the policy.
    pub key_stale_seconds: u32,
    pub now: Timestamp,
}

impl Operation for Rotate {
    type Answer = Vec<SessionSecret>;

    fn needs(&self, needs: &mut Needs) {
        needs.session_secrets = true;
        needs.policy = true;
    }

    fn apply(self, rows: &mut Rows) -> Result<Vec<SessionSecret>, Refusal> {
        let Rotate { seed, key_stale_seconds, now } = self;
        let known = &mut rows.session_secrets;
        let ahead = u64::from(key_stale_seconds).saturating_mul(2).max(AHEAD_SECONDS_MIN);
        let signs_from = match known.last_key_value() {
            None => Some(now),
            Some((_, newest)) => {
                let due = newest.signs_from.plus_seconds(SIGNS_SECONDS);
                (due <= now.plus_seconds(ahead)).then(|| due.max(now.plus_seconds(ahead)))
            }
        };
        // A secret verifies until the next one has signed for VERIFIES_SECONDS.
        let expired =
            known.values().skip(1).take_while(|next| next.signs_from.plus_seconds(VERIFIES_SECONDS) <= now);
        let forgotten: Vec<u64> = known.keys().copied().take(expired.count()).collect();
        known.retain(|number, _| !forgotten.contains(number));
        if let Some(signs_from) = signs_from {
            let number = known.last_key_value().map_or(0, |(number, _)| *number).saturating_add(1);
            let secret = SessionSecret::new(seed, signs_from);
            known.insert(number, secret.clone());
            rows.new_session_secrets.push((number, secret));
        }
        let answer = known.values().cloned().collect();
        if let (true, Some(version)) = (signs_from.is_some() || !forgotten.is_empty(), rows.policy.clone()) {
            rows.change(Change::Policy { version }, now);
        }
        rows.forget_session_secrets.extend(forgotten);
        Ok(answer)
    }
}

/// An ETag-like tag of the policy and its secrets. It reveals no secret.
pub fn tag(version: &protocol::PolicyVersion, secrets: &[SessionSecret]) -> String {
    let mut hash = Sha256::new();
    hash.update(version.as_str());
    for secret in secrets {
        hash.update(secret.bytes());
        hash.update(secret.signs_from.as_millis().to_be_bytes());
    }
    let hash: [u8; 32] = hash.finalize().into();
    let mut tag = version.as_str().to_owned();
    for byte in hash.iter().take(8) {
        // Writing to a string can't fail.
        let _ = write!(tag, "{byte:02x}");
    }
    tag
}

#[cfg(test)]
mod tests;
