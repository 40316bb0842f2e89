//! Purses in shared data: what all workers of this Envoy spend from. The rules are `policy::lease`'s.
//!
//! One more value, a bit for each value of purses, says which were ever written, so that they can be looked through.

use crate::host;
use crate::metrics::Metrics;
use crate::shared;
use policy::exchange::{Refund, Spending};
use policy::lease::{self, SLOTS, Spent, Statement};
use policy::value::Corrupt;
use policy::window::Monotonic;
use protocol::{Credits, InstanceId};

const INDEX: &str = "agentrelay/lease/1/index";
const INSTANCE: &str = "agentrelay/instance";

/// Spends for one call. `None` if shared data is not to be had or others always win: the call then reserves exactly.
pub fn spend(spending: &Spending, now: Monotonic, metrics: &Metrics) -> Option<Spent> {
    let Spending { tenant, price, request } = *spending;
    let slot = lease::slot(tenant);
    let spent = change(slot, now, metrics, |value, now| lease::spend(value, tenant, price, request, now));
    if spent.is_some_and(|spent| spent.is_new) {
        mark(slot, now, metrics);
    }
    spent
}

/// Gives back to a lease. False if none can take it.
pub fn refund(refund: &Refund, metrics: &Metrics) -> bool {
    let Refund { tenant, lease, credits } = *refund;
    change(lease::slot(tenant), host::monotonic_clock(), metrics, |value, _| {
        lease::refund(value, tenant, lease, credits)
    })
    .unwrap_or(false)
}

/// The ledger gave a lease.
pub fn granted(tenant: u64, lease: u128, credits: Credits, deadline: Monotonic, metrics: &Metrics) {
    write(lease::slot(tenant), metrics, |value, now| {
        lease::granted(value, tenant, lease, credits, deadline, now)
    });
}

/// The ledger has an account.
pub fn acknowledged(account: &Statement, deadline: Option<Monotonic>, metrics: &Metrics) {
    write(lease::slot(account.tenant), metrics, |value, now| {
        lease::acknowledged(value, account, deadline, now)
    });
}

/// The ledger calls back what a tenant has on lease.
pub fn recall(tenant: u64, metrics: &Metrics) {
    write(lease::slot(tenant), metrics, |value, now| lease::recalled(value, tenant, now));
}

/// What is due to be said of one value's purses.
pub fn due(slot: u16, metrics: &Metrics) -> Vec<Statement> {
    change(slot, host::monotonic_clock(), metrics, lease::due).unwrap_or_default()
}

/// The values that were ever written.
pub fn slots() -> impl Iterator<Item = u16> {
    let bits = host::shared(INDEX).bytes;
    (0..u16::try_from(SLOTS.get()).unwrap_or(u16::MAX)).filter(move |slot| is_marked(&bits, *slot))
}

/// This run of this Envoy, which all its workers share: whoever asks first names it. `None` if shared data is not to be
/// had.
pub fn instance(new: impl Fn() -> InstanceId, metrics: &Metrics) -> Option<InstanceId> {
    shared::change(INSTANCE, host::monotonic_clock(), metrics, |value, _| {
        let known = str::from_utf8(value).ok().and_then(|text| InstanceId::parse(text).ok());
        let instance = known.unwrap_or_else(&new);
        Some((instance.as_str().as_bytes().to_vec(), instance))
    })
}

fn is_marked(bits: &[u8], slot: u16) -> bool {
    bits.get(usize::from(slot / 8)).is_some_and(|byte| byte & (1 << (slot % 8)) != 0)
}

fn mark(slot: u16, now: Monotonic, metrics: &Metrics) {
    shared::change(INDEX, now, metrics, |bits, _| {
        let mut bits = bits.to_vec();
        bits.resize(bits.len().max(usize::from(slot / 8).saturating_add(1)), 0);
        if let Some(byte) = bits.get_mut(usize::from(slot / 8)) {
            *byte |= 1 << (slot % 8);
        }
        Some((bits, ()))
    });
}

/// Changes one value of purses.
fn change<A>(
    slot: u16,
    now: Monotonic,
    metrics: &Metrics,
    mut change: impl FnMut(&[u8], Monotonic) -> Result<(Vec<u8>, A), Corrupt>,
) -> Option<A> {
    shared::change(&lease::name(slot), now, metrics, |value, now| change(value, now).ok())
}

/// The same, where there is nothing to answer.
fn write(slot: u16, metrics: &Metrics, next: impl Fn(&[u8], Monotonic) -> Result<Vec<u8>, Corrupt>) {
    change(slot, host::monotonic_clock(), metrics, |value, now| next(value, now).map(|next| (next, ())));
}
