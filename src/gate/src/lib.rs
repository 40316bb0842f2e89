//! The gate as one Envoy worker runs it: exchanges, keys, ledger calls, and the state that workers share.
//!
//! The gate knows no Envoy. It turns the events of a [`Host`] into events of [`policy::exchange`], and the exchange's
//! steps into calls of the host. It never decides whether a request may pass; that is `policy`. Reading order: `host`
//! says what is asked of Envoy; `stream` handles one HTTP exchange; `worker` holds what the exchanges of one Envoy
//! worker share.
//!
//! A host may call a [`Worker`] from two threads: the exchanges run on the worker's own, ticks and answers of the
//! ledger may run on another. Nothing holds one lock while it waits for another, but for the outbox, which starts its
//! call while it is locked.

mod calls;
mod config;
mod feed;
mod host;
mod ids_in_use;
mod in_progress;
mod lease_slots;
mod lock;
mod metrics;
mod reach;
mod report;
mod served;
mod shared;
mod stream;
mod windows;
mod worker;

pub use calls::{Answer, NotCalled, Request};
pub use config::Config;
pub use host::{
    Action, Body, Headers, Host, Map, MetricKind, Refused, Shared, Work, name_with_labels, read_status,
};
pub use lock::Locked;
pub use metrics::Metrics;
pub use stream::Stream;
pub use worker::Worker;
