//! The filter: Envoy's callbacks become events of [`policy::exchange`], its steps become hostcalls.
//!
//! Translation only. Nothing here decides whether a request may pass; a question that wants a unit test belongs in
//! `policy`. Reading order: `stream` is one HTTP exchange, `worker` what the exchanges of one Envoy worker share,
//! `root` where every ledger call starts and every answer arrives, `host` the only place with hostcalls.
//!
//! There is one VM for each worker and it runs on one thread, so shared state is `Rc` and `Cell`, never a lock.

// The one public function is the SDK's entry point, which its macro writes.
#![allow(missing_docs)]

mod calls;
mod config;
mod feed;
mod host;
mod metrics;
mod purses;
mod report;
mod root;
mod shared;
mod stream;
mod under_way;
mod windows;
mod worker;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(proxy_wasm::types::LogLevel::Info);
    proxy_wasm::set_root_context(|context_id| Box::new(root::Root::new(context_id)));
}}
