//! The root context: configuration, time, and the answers to ledger calls.

use crate::config;
use crate::host;
use crate::stream::Stream;
use crate::worker::Worker;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{BufferType, ContextType};
use std::rc::Rc;

/// How often queues are delivered and changes followed. Asked for 100 ms, Envoy gives a little more.
const TICK_MS: u32 = 100;

/// One for each VM.
pub struct Root {
    worker: Rc<Worker>,
}

impl Root {
    /// A root context that Envoy has just made.
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

    /// Not a queue of Envoy's: see [`host::enter_root`].
    fn on_queue_ready(&mut self, _queue_id: u32) {
        self.worker.take_over();
    }

    fn create_http_context(&self, context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream::new(context_id, self.worker.clone())))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}
