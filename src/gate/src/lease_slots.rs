//! The leases of this Envoy in shared data, from which all its workers spend credits. `policy::lease` has the rules.
//!
//! An index value holds one bit for each slot that was ever written, so that all of them can be listed.

use crate::host::Host;
use crate::metrics::Metrics;
use crate::shared;
use policy::exchange::{Refund, Spending};
use policy::lease::{self, SLOTS, Spent, Statement};
use policy::value::Corrupt;
use policy::window::Monotonic;
use protocol::{Credits, InstanceId, LeaseId};

const INDEX: &str = "agentrelay/lease/1/index";
const INSTANCE: &str = "agentrelay/instance";

/// Spends for one call. Returns `None` if shared data is unavailable or every compare-and-swap is lost; the call then
/// makes a reservation for its exact price.
pub fn spend<H: Host>(spending: &Spending, now: Monotonic, metrics: &Metrics<H>) -> Option<Spent> {
    let Spending { tenant, price, request } = *spending;
    let slot = lease::slot(tenant);
    let spent = change(slot, now, metrics, |value, now| lease::spend(value, tenant, price, request, now));
    if spent.is_some_and(|spent| spent.is_new) {
        mark(slot, now, metrics);
    }
    spent
}

/// Returns credits to a lease. False if the lease is gone or shared data is unavailable.
pub fn refund<H: Host>(refund: &Refund, metrics: &Metrics<H>) -> bool {
    let Refund { tenant, lease, credits } = *refund;
    change(lease::slot(tenant), H::monotonic_clock(), metrics, |value, _| {
        lease::refund(value, tenant, lease, credits)
    })
    .unwrap_or(false)
}

/// Records a lease that the ledger granted.
pub fn granted<H: Host>(
    tenant: u64,
    lease: LeaseId,
    credits: Credits,
    deadline: Monotonic,
    metrics: &Metrics<H>,
) {
    write(lease::slot(tenant), metrics, |value, now| {
        lease::granted(value, tenant, lease, credits, deadline, now)
    });
}

/// Records that the ledger has received a statement.
pub fn acknowledged<H: Host>(statement: &Statement, deadline: Option<Monotonic>, metrics: &Metrics<H>) {
    write(lease::slot(statement.tenant), metrics, |value, now| {
        lease::acknowledged(value, statement, deadline, now)
    });
}

/// Marks a tenant's leases as recalled by the ledger.
pub fn recall<H: Host>(tenant: u64, metrics: &Metrics<H>) {
    write(lease::slot(tenant), metrics, |value, now| lease::recalled(value, tenant, now));
}

/// The statements that are due for one slot.
pub fn due<H: Host>(slot: u16, metrics: &Metrics<H>) -> Vec<Statement> {
    change(slot, H::monotonic_clock(), metrics, lease::due).unwrap_or_default()
}

/// The slots that were ever written.
pub fn slots<H: Host>() -> impl Iterator<Item = u16> {
    let bits = H::shared(INDEX).bytes;
    (0..u16::try_from(SLOTS.get()).unwrap_or(u16::MAX)).filter(move |slot| is_marked(&bits, *slot))
}

/// The id of this run of this Envoy, which all its workers share. The first caller creates it. `None` if shared data is
/// unavailable.
pub fn instance<H: Host>(new: impl Fn() -> InstanceId, metrics: &Metrics<H>) -> Option<InstanceId> {
    shared::change(INSTANCE, H::monotonic_clock(), metrics, |value, _| {
        let known = str::from_utf8(value).ok().and_then(|text| InstanceId::parse(text).ok());
        let instance = known.unwrap_or_else(&new);
        Some((instance.text().as_bytes().to_vec(), instance))
    })
}

fn is_marked(bits: &[u8], slot: u16) -> bool {
    bits.get(usize::from(slot / 8)).is_some_and(|byte| byte & (1 << (slot % 8)) != 0)
}

fn mark<H: Host>(slot: u16, now: Monotonic, metrics: &Metrics<H>) {
    shared::change(INDEX, now, metrics, |bits, _| {
        let mut bits = bits.to_vec();
        bits.resize(bits.len().max(usize::from(slot / 8).saturating_add(1)), 0);
        if let Some(byte) = bits.get_mut(usize::from(slot / 8)) {
            *byte |= 1 << (slot % 8);
        }
        Some((bits, ()))
    });
}

/// Changes the leases in one slot.
fn change<H: Host, A>(
    slot: u16,
    now: Monotonic,
    metrics: &Metrics<H>,
    mut change: impl FnMut(&[u8], Monotonic) -> Result<(Vec<u8>, A), Corrupt>,
) -> Option<A> {
    shared::change(&lease::name(slot), now, metrics, |value, now| change(value, now).ok())
}

/// Like [`change`], for changes without a result.
fn write<H: Host>(
    slot: u16,
    metrics: &Metrics<H>,
    next: impl Fn(&[u8], Monotonic) -> Result<Vec<u8>, Corrupt>,
) {
    change(slot, H::monotonic_clock(), metrics, |value, now| next(value, now).map(|next| (next, ())));
}
