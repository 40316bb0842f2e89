//! The filter: the gate in a proxy-wasm VM. It only translates: Envoy's callbacks become events of [`gate::Stream`] and
//! [`gate::Worker`], and what those ask of their host becomes hostcalls.
//!
//! Each worker has its own VM, which runs on one thread.

// The only public function is the SDK's entry point, which a macro generates.
#![allow(missing_docs)]

mod context;
mod host;
mod root;
mod stream;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(proxy_wasm::types::LogLevel::Info);
    proxy_wasm::set_root_context(|context_id| Box::new(root::Root::new(context_id)));
}}
