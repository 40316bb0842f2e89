//! The callbacks of one HTTP exchange.
//!
//! Until the exchange is decided, every request callback returns Pause, because a single Continue sends the held
//! headers upstream (see `allow_on_headers_stop_iteration`).

use crate::host::Envoy;
use gate::Worker;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;
use std::sync::Arc;

/// The context of one stream.
pub struct Stream(gate::Stream<Envoy>);

impl Stream {
    /// Creates the context of a stream that Envoy has just opened.
    pub fn new(id: u32, worker: Arc<Worker<Envoy>>) -> Stream {
        Stream(gate::Stream::new(id, worker))
    }
}

fn action(action: gate::Action) -> Action {
    match action {
        gate::Action::Continue => Action::Continue,
        gate::Action::Pause => Action::Pause,
    }
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _count: usize, ends: bool) -> Action {
        action(self.0.request_headers(ends))
    }

    fn on_http_request_body(&mut self, bytes: usize, ends: bool) -> Action {
        action(self.0.request_body(bytes, ends))
    }

    fn on_http_request_trailers(&mut self, _count: usize) -> Action {
        action(self.0.request_trailers())
    }

    fn on_http_response_headers(&mut self, _count: usize, ends: bool) -> Action {
        action(self.0.response_headers(ends))
    }

    fn on_http_response_body(&mut self, bytes: usize, ends: bool) -> Action {
        action(self.0.response_body(bytes, ends))
    }

    fn on_http_response_trailers(&mut self, _count: usize) -> Action {
        action(self.0.response_trailers())
    }

    fn on_log(&mut self) {
        self.0.ended();
    }
}
