//! Calls and results that meet in shared data because they came on different streams, perhaps of different workers.
//!
//! Whoever comes second settles. Each writes first and looks then, so that of two who come at once at least one sees the
//! other; if both do, the one settles who gets to take the call away.

use crate::host;
use crate::metrics::Metrics;
use crate::shared;
use policy::late::{self, CallPrint, Late, Settled, Table};

/// A call has ended without its result. Settles it if that is here, and another by the same id that waited before it.
pub fn awaited(call: &Late, metrics: &Metrics) -> impl Iterator<Item = Settled> {
    let other = remember(Table::Calls, call, metrics).and_then(Late::settled_unseen);
    other.into_iter().chain(met(call, metrics))
}

/// The result has come before its call ended.
fn met(call: &Late, metrics: &Metrics) -> Option<Settled> {
    let kept = take(Table::Results, call.call, metrics)?;
    let result = late::Result::of_kept(&kept, call)?;
    take(Table::Calls, call.call, metrics)?.settled_by(&result)
}

/// A result has come on another stream than its call's. Only one worker gets the call.
pub fn came(result: &late::Result, metrics: &Metrics) -> Option<Settled> {
    if let Some(call) = take(Table::Calls, result.call, metrics) {
        return call.settled_by(result);
    }
    remember(Table::Results, &result.kept(host::monotonic_clock()), metrics);
    let call = take(Table::Calls, result.call, metrics)?;
    take(Table::Results, result.call, metrics);
    call.settled_by(result)
}

/// What stood there by the same id, if anything did.
fn remember(table: Table, entry: &Late, metrics: &Metrics) -> Option<Late> {
    shared::change(&entry.call.name(table), host::monotonic_clock(), metrics, |value, now| {
        Some(late::insert(value, entry, now))
    })?
}

fn take(table: Table, call: CallPrint, metrics: &Metrics) -> Option<Late> {
    shared::change(&call.name(table), host::monotonic_clock(), metrics, |value, now| {
        late::take(value, call, now).map(|(entry, next)| (next, entry))
    })
}
