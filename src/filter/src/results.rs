//! Calls and results that meet in shared data because they came on different streams, perhaps of different workers.
//!
//! Whoever comes second settles. Each writes first and looks then, so that of two who come at once at least one sees the
//! other; if both do, the one settles who gets to take the call away.

use crate::host;
use crate::metrics::Metrics;
use crate::windows::ATTEMPTS_MAX;
use policy::late::{self, CallPrint, Late, Settled, Table};

/// A call has ended without its result. One that can't be remembered costs its caller nothing.
pub fn awaited(call: Late, metrics: &Metrics) -> Option<Settled> {
    remember(Table::Calls, &call, metrics);
    let kept = take(Table::Results, call.call, metrics)?;
    let result = late::Result::of_kept(&kept, &call)?;
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

fn remember(table: Table, entry: &Late, metrics: &Metrics) {
    let name = entry.call.name(table);
    for _ in 0..ATTEMPTS_MAX {
        let read = host::shared(&name);
        let next = late::insert(&read.bytes, entry, host::monotonic_clock());
        if host::swap_shared(&name, &read, &next).unwrap_or(true) {
            return;
        }
        metrics.cas_retries.add(1);
    }
    metrics.cas_exhausted.add(1);
}

fn take(table: Table, call: CallPrint, metrics: &Metrics) -> Option<Late> {
    let name = call.name(table);
    for _ in 0..ATTEMPTS_MAX {
        let read = host::shared(&name);
        let (entry, next) = late::take(&read.bytes, call, host::monotonic_clock())?;
        if host::swap_shared(&name, &read, &next).ok()? {
            return Some(entry);
        }
        metrics.cas_retries.add(1);
    }
    metrics.cas_exhausted.add(1);
    None
}
