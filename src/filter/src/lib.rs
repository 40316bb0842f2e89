//! The filter: turns Envoy's callbacks into events of [`policy::exchange`], and its steps into hostcalls.
//!
//! The filter only translates. It never decides whether a request may pass; logic that needs a unit test belongs in
//! `policy`. Reading order: `stream` handles one HTTP exchange; `worker` holds what the exchanges of one Envoy worker
//! share; `root` starts every ledger call and receives every answer; `host` contains all hostcalls.
//!
//! Each worker has its own VM, which runs on one thread, so shared state uses `Rc` and `Cell` and needs no locks.

// The only public function is the SDK's entry point, which a macro generates.
#![allow(missing_docs)]

mod calls;
mod config;
mod feed;
mod host;
mod ids_in_use;
mod in_progress;
mod lease_slots;
mod metrics;
mod reach;
mod report;
mod root;
mod served;
mod shared;
mod stream;
mod windows;
mod worker;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(proxy_wasm::types::LogLevel::Info);
    proxy_wasm::set_root_context(|context_id| Box::new(root::Root::new(context_id)));
}}
