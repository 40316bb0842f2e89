//! The root context: receives the configuration, the ticks and the answers to ledger calls.

use crate::config;
use crate::host;
use crate::stream::Stream;
use crate::worker::Worker;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{BufferType, ContextType};
use std::rc::Rc;

/// How often the filter delivers its queues and reads changes. Envoy's real interval is a little longer.
const TICK_MS: u32 = 100;

/// The root context; each VM has one.
pub struct Root {
    worker: Rc<Worker>,
}

impl Root {
    /// Creates the state of a root context that Envoy has just created.
    pub fn new(context_id: u32) -> Root {
        Root { worker: Rc::new(Worker::new(context_id)) }
    }
}

impl Context for Root {
    fn on_http_call_response(&mut self, call_id: u32, headers: usize, body_bytes: usize, _trailers: usize) {
        self.worker.answered(call_id, headers, body_bytes);
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        match config::read(&host::buffer(BufferType::PluginConfiguration)) {
            Ok(config) => {
                host::set_tick_period(TICK_MS);
                self.worker.configure(config);
                true
            }
            Err(fault) => {
                log::error!("{fault}");
                false
            }
        }
    }

    fn on_tick(&mut self) {
        self.worker.tick();
    }

    /// Not called for an Envoy queue: see [`host::enter_root`].
    fn on_queue_ready(&mut self, _queue_id: u32) {
        self.worker.dispatch_passed_call();
    }

    fn create_http_context(&self, context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream::new(context_id, self.worker.clone())))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}
