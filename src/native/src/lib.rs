//! The gate as a dynamic module of Envoy, for those who run their own Envoy and want the cost of a native filter. It only
//! translates: Envoy's callbacks become events of [`gate::Stream`] and [`gate::Worker`], and what those ask of their host
//! becomes calls of Envoy.
//!
//! Each of Envoy's workers has a [`gate::Worker`] of its own. Its exchanges run on that worker's thread; ticks, and the
//! calls to the ledger with their answers, on Envoy's main thread, so that a call outlives the exchange that asked for
//! it. Reading order: `exchange`, `runtime`, `envoy`; all that is unsafe is in `abi` and `entry`.
//!
//! Whatever a callback asks for that may call this module again (an answer, a reset, going on) is done when the callback
//! has returned to `current`, never inside it.

mod abi;
mod current;
mod entry;
mod envoy;
mod exchange;
#[cfg(feature = "faults")]
mod faults;
mod inbox;
mod runtime;
mod shared;
mod stats;
