//! Shared data of all workers: the windows, and the key hashes that the ledger does not know.

use crate::host::{Host, Refused};
use crate::metrics::Metrics;
use crate::shared;
use policy::limit::LimitRule;
use policy::unknown_keys;
use policy::value::Corrupt;
use policy::window::owners::{self, Slots};
use policy::window::share::{self, Given};
use policy::window::slot::{self, Ask};
use policy::window::{Fleet, Monotonic, Verdict};
use protocol::api_key::KeyHash;

/// The windows can't be read: shared data is unavailable, or every compare-and-swap was lost. Never admits a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unavailable;

/// Shared data, as the windows of a request use it.
struct Shared<'m, H: Host> {
    now: Monotonic,
    metrics: &'m Metrics<H>,
}

impl<H: Host> Slots for Shared<'_, H> {
    fn change<A>(
        &self,
        owner: u64,
        change: impl Fn(&[u8], Monotonic) -> Result<(Vec<u8>, A), Corrupt>,
    ) -> Option<A> {
        shared::change(&slot::name(owner), self.now, self.metrics, |value, now| change(value, now).ok())
    }

    fn read<A>(&self, owner: u64, read: impl FnOnce(&[u8], Monotonic) -> Result<A, Corrupt>) -> Option<A> {
        read(&H::shared(&slot::name(owner)).bytes, self.now).ok()
    }
}

/// Takes permits from the windows of a request.
pub fn ask<H: Host>(
    asks: &[Ask],
    fleet: &Fleet,
    now: Monotonic,
    metrics: &Metrics<H>,
) -> Result<Vec<Verdict>, Unavailable> {
    owners::take(&Shared { now, metrics }, asks, fleet).ok_or(Unavailable)
}

/// Reads the windows of a request without taking permits.
pub fn peek<H: Host>(asks: &[Ask], fleet: &Fleet, metrics: &Metrics<H>) -> Result<Vec<Verdict>, Unavailable> {
    owners::peek(&Shared { now: H::monotonic_clock(), metrics }, asks, fleet).ok_or(Unavailable)
}

/// The global limits whose shares must be renewed.
pub fn expiring_shares(asks: &[Ask], verdicts: &[Verdict]) -> Vec<LimitRule> {
    let expiring = asks.iter().zip(verdicts).filter(|(_, verdict)| verdict.expires_soon);
    expiring.map(|(ask, _)| ask.rule).collect()
}

/// What to ask the ledger for a global limit; `None` if asking now is useless.
pub fn ask_share<H: Host>(owner: u64, rule: &LimitRule, metrics: &Metrics<H>) -> Option<share::Ask> {
    change(owner, metrics, |value, now| share::ask(value, owner, rule, now))
}

/// What to give back of a global limit that other Envoys need; `None` if this Envoy can spare nothing.
pub fn release_share<H: Host>(owner: u64, limit_id: u32, metrics: &Metrics<H>) -> Option<share::Ask> {
    change(owner, metrics, |value, now| share::release(value, owner, limit_id, now))
}

/// Applies the ledger's answer about a share.
pub fn share_given<H: Host>(owner: u64, limit_id: u32, answer: &Given, metrics: &Metrics<H>) {
    change(owner, metrics, |value, now| {
        let next = share::given(value, owner, limit_id, answer, now)?;
        Ok(next.map(|next| (next, ())))
    });
}

/// Changes the windows of one owner.
fn change<H: Host, A>(
    owner: u64,
    metrics: &Metrics<H>,
    change: impl Fn(&[u8], Monotonic) -> Result<Option<(Vec<u8>, A)>, Corrupt>,
) -> Option<A> {
    let now = H::monotonic_clock();
    shared::change(&slot::name(owner), now, metrics, |value, now| change(value, now).ok()?)
}

/// True if the ledger recently did not know this hash.
pub fn is_unknown<H: Host>(hash: &KeyHash, now: Monotonic) -> bool {
    unknown_keys::contains(&H::shared(&unknown_keys::name(hash)).bytes, hash, now)
}

/// Remembers that the ledger does not know this hash. There is no retry, because a lost write costs only one lookup.
pub fn remember_unknown<H: Host>(hash: &KeyHash, now: Monotonic) {
    let name = unknown_keys::name(hash);
    let read = H::shared(&name);
    let next = unknown_keys::insert(&read.bytes, hash, now);
    if let Err(Refused(status)) = H::swap_shared(&name, &read, &next) {
        log::warn!("shared data refused a write with status {status}; give the plugin's vm_config a vm_id");
    }
}
