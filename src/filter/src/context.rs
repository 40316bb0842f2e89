//! Which context the SDK and Envoy take hostcalls for, and the one call at a time that a stream passes to the root.

use gate::{NotCalled, Request};
use std::cell::{Cell, RefCell};

/// The active context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// A stream's, in a callback of its own.
    Stream,
    /// The root's.
    Root,
    /// A stream's, in a callback of the root.
    StreamOfRoot(u32),
}

thread_local! {
    static ACTIVE: Cell<Context> = const { Cell::new(Context::Stream) };
    static PASSED: RefCell<Option<Request>> = const { RefCell::new(None) };
    static SENT: Cell<Result<u32, NotCalled>> = const { Cell::new(Err(NotCalled)) };
}

/// The active context.
pub fn active() -> Context {
    ACTIVE.get()
}

/// Notes which context is active from now on.
pub fn enter(context: Context) {
    ACTIVE.set(context);
}

/// Passes a call to the root context, which `enter_root` enters and which sends it by [`send_passed`].
pub fn pass(request: Request, enter_root: impl FnOnce()) -> Result<u32, NotCalled> {
    PASSED.set(Some(request));
    SENT.set(Err(NotCalled));
    enter_root();
    SENT.get()
}

/// Sends the call that was passed on, in the root context.
pub fn send_passed(send: impl FnOnce(&Request) -> Result<u32, NotCalled>) {
    if let Some(request) = PASSED.take() {
        SENT.set(send(&request));
    }
}
