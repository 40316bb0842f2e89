//! Which exchange the gate's code is running for on this thread, and what it has asked for that must wait until it returns.

use crate::abi::EnvoyExchange;
use gate::{Body, Request};
use policy::exchange::Reply;
use std::cell::{Cell, RefCell};

/// What waits until the gate's code has returned, because Envoy may call the module again while it does it.
pub enum Deferred {
    Call(Call),
    Reply(Reply),
    Resume,
    Reset,
}

/// A call to the ledger.
pub struct Call {
    /// The worker that gets the answer, and the number by which it knows the call.
    pub worker_id: u32,
    pub call_id: u32,
    pub request: Request,
}

/// The exchange for which code runs.
#[derive(Debug, Clone, Copy)]
pub struct Current {
    pub envoy: EnvoyExchange,
    /// The body of which a part is just arriving.
    pub arriving: Option<Body>,
}

thread_local! {
    static CURRENT: Cell<Option<Current>> = const { Cell::new(None) };
    static DETAILS: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
    static DEFERRED: RefCell<Vec<Deferred>> = const { RefCell::new(Vec::new()) };
}

/// Runs `work` for an exchange, or for none, and returns what it has deferred. `details` is why Envoy itself has answered the
/// exchange, if it has.
pub fn run<Answer>(
    current: Option<Current>,
    details: Option<Vec<u8>>,
    work: impl FnOnce() -> Answer,
) -> (Answer, Vec<Deferred>) {
    let outer = (CURRENT.replace(current), DETAILS.replace(details), DEFERRED.take());
    let answer = work();
    CURRENT.set(outer.0);
    DETAILS.set(outer.1);
    (answer, DEFERRED.replace(outer.2))
}

/// The exchange for which this code runs.
pub fn current() -> Option<Current> {
    CURRENT.get()
}

/// Why Envoy itself has answered the exchange.
pub fn details() -> Option<Vec<u8>> {
    DETAILS.with_borrow(Clone::clone)
}

/// Puts something off until the gate's code has returned.
pub fn defer(what: Deferred) {
    DEFERRED.with_borrow_mut(|deferred| deferred.push(what));
}
