//! Shared data of all workers: the windows, and the key hashes that the ledger does not know.

use crate::host;
use crate::metrics::Metrics;
use crate::shared;
use policy::Key;
use policy::limit::LimitRule;
use policy::unknown_keys;
use policy::value::Corrupt;
use policy::window::slot::{self, Ask};
use policy::window::{Monotonic, Verdict, share};
use protocol::api_key::KeyHash;

/// The windows can't be read: shared data is unavailable, or every compare-and-swap was lost. Never admits a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unavailable;

/// Takes permits from a key's windows.
pub fn ask(key: &Key, asks: &[Ask], now: Monotonic, metrics: &Metrics) -> Result<Vec<Verdict>, Unavailable> {
    if asks.is_empty() {
        return Ok(Vec::new());
    }
    let take = |value: &[u8], now| slot::take(value, key.fingerprint, asks, now).ok();
    shared::change(&slot::name(key.fingerprint), now, metrics, take).ok_or(Unavailable)
}

/// The global limits whose shares must be renewed.
pub fn expiring_shares(asks: &[Ask], verdicts: &[Verdict]) -> Vec<LimitRule> {
    let expiring = asks.iter().zip(verdicts).filter(|(_, verdict)| verdict.expires_soon);
    expiring.map(|(ask, _)| ask.rule.clone()).collect()
}

/// What to ask the ledger for a global limit; `None` if asking now is useless.
pub fn ask_share(fingerprint: u64, rule: &LimitRule, metrics: &Metrics) -> Option<share::Ask> {
    change(fingerprint, metrics, |value, now| share::ask(value, fingerprint, rule, now))
}

/// What to give back of a global limit that other Envoys need; `None` if this Envoy can spare nothing.
pub fn release_share(fingerprint: u64, limit_id: u32, metrics: &Metrics) -> Option<share::Ask> {
    change(fingerprint, metrics, |value, now| share::release(value, fingerprint, limit_id, now))
}

/// Applies the ledger's answer (revision and permits) about a share.
pub fn share_given(
    fingerprint: u64,
    limit_id: u32,
    answer: (u64, u32),
    deadline: Monotonic,
    metrics: &Metrics,
) {
    change(fingerprint, metrics, |value, now| {
        let next = share::given(value, fingerprint, limit_id, answer, deadline, now)?;
        Ok(next.map(|next| (next, ())))
    });
}

/// Changes the slot of one key.
fn change<A>(
    fingerprint: u64,
    metrics: &Metrics,
    change: impl Fn(&[u8], Monotonic) -> Result<Option<(Vec<u8>, A)>, Corrupt>,
) -> Option<A> {
    let now = host::monotonic_clock();
    shared::change(&slot::name(fingerprint), now, metrics, |value, now| change(value, now).ok()?)
}

/// Reads a key's windows without taking permits.
pub fn peek(fingerprint: u64, asks: &[Ask]) -> Result<Vec<Verdict>, Unavailable> {
    let read = host::shared(&slot::name(fingerprint));
    slot::peek(&read.bytes, fingerprint, asks, host::monotonic_clock()).map_err(|_| Unavailable)
}

/// True if the ledger recently did not know this hash.
pub fn is_unknown(hash: &KeyHash, now: Monotonic) -> bool {
    unknown_keys::contains(&host::shared(&unknown_keys::name(hash)).bytes, hash, now)
}

/// Remembers that the ledger does not know this hash. There is no retry, because a lost write costs only one lookup.
pub fn remember_unknown(hash: &KeyHash, now: Monotonic) {
    let name = unknown_keys::name(hash);
    let read = host::shared(&name);
    let next = unknown_keys::insert(&read.bytes, hash, now);
    if let Err(host::Refused(status)) = host::swap_shared(&name, &read, &next) {
        log::warn!("shared data refused a write with status {status}; give the plugin's vm_config a vm_id");
    }
}
