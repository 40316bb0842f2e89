//! The root context: receives the configuration, the ticks and the answers to ledger calls.

use crate::context::{self, Context as Active};
use crate::host::{self, Envoy};
use crate::stream::Stream;
use gate::{Config, Worker};
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;
use std::sync::Arc;

/// How often the filter delivers its queues and reads changes. Envoy's real interval is a little longer.
const TICK_MS: u32 = 100;

/// The root context; each VM has one.
pub struct Root {
    worker: Arc<Worker<Envoy>>,
}

impl Root {
    /// Creates the state of a root context that Envoy has just created.
    pub fn new(context_id: u32) -> Root {
        Root { worker: Worker::new(context_id) }
    }

    fn run(&self, work: impl FnOnce(&Worker<Envoy>)) {
        context::enter(Active::Root);
        host::set_context(self.worker.id());
        work(&self.worker);
        context::enter(Active::Stream);
    }
}

impl Context for Root {
    fn on_http_call_response(&mut self, call_id: u32, headers: usize, body_bytes: usize, _trailers: usize) {
        self.run(|worker| worker.answered(call_id, || host::answer(headers, body_bytes)));
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        match Config::read(&host::configuration()) {
            Ok(config) => {
                host::set_tick_period(TICK_MS);
                self.worker.configure(config, host::node().as_deref());
                true
            }
            Err(fault) => {
                log::error!("{fault}");
                false
            }
        }
    }

    fn on_tick(&mut self) {
        self.run(Worker::tick);
    }

    /// Not called for an Envoy queue: see [`host::enter_root`].
    fn on_queue_ready(&mut self, _queue_id: u32) {
        host::set_context(self.worker.id());
        context::send_passed(host::send);
    }

    fn create_http_context(&self, context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream::new(context_id, self.worker.clone())))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}
