//! The entries that Envoy calls.
//!
//! Envoy passes each pointer that an entry here returned until it destroys it, and lends bytes for the time of an entry.
#![allow(unsafe_code)]

use crate::abi::{self, Bytes, EnvoyConfig, EnvoyExchange, OK, Pair, caught};
use crate::exchange::Exchange;
use crate::runtime::{self, Attached};
use std::ffi::{c_char, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// # Safety
/// `pointer` is null or came from `Arc::into_raw` of this type, and Envoy has not destroyed it.
unsafe fn lend<Value>(pointer: *const Value) -> Option<Arc<Value>> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: by this function's own condition the count is at least one; the clone keeps the value if Envoy destroys its own
    // in the meantime, as it does when an entry resets the exchange.
    unsafe {
        Arc::increment_strong_count(pointer);
        Some(Arc::from_raw(pointer))
    }
}

/// The answer of an entry that can do nothing: nothing passes.
const STOP: u32 = 1;

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_program_init() -> *const c_char {
    abi::start_logging();
    if !abi::tells_how_exchanges_end() {
        // Then a call that its upstream broke off could not be told from one whose client left.
        log::error!(
            "the module is not loaded: it needs Envoy 1.39 or 1.40; with an older one take the wasm filter, envoy/envoy.yaml"
        );
        return ptr::null();
    }
    c"v0.1.0".as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_config_new(
    config: *mut c_void,
    _name: Bytes,
    text: Bytes,
) -> *const Attached {
    let Some(config) = NonNull::new(config).map(EnvoyConfig) else { return ptr::null() };
    // SAFETY: Envoy lends the text for this entry.
    let text = unsafe { text.read() }.to_vec();
    match caught(|| runtime::attach(config, text)) {
        Some(Ok(attached)) => Arc::into_raw(attached),
        Some(Err(fault)) => {
            log::error!("{fault}");
            ptr::null()
        }
        None => ptr::null(),
    }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_config_destroy(attached: *const Attached) {
    if !attached.is_null() {
        // SAFETY: this takes back the count that `config_new` gave to Envoy.
        let attached = unsafe { Arc::from_raw(attached) };
        caught(|| attached.detach());
    }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_per_route_config_new(
    _name: Bytes,
    _text: Bytes,
) -> *const c_void {
    log::error!(
        "the filter has no configuration per route; set `disabled: true` for routes without the gate"
    );
    ptr::null()
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_per_route_config_destroy(_config: *const c_void) {}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_config_scheduled(
    config: *mut c_void,
    attached: *const Attached,
    event: u64,
) {
    // SAFETY: Envoy passes what `config_new` returned, and has not destroyed it.
    let attached = unsafe { lend(attached) };
    if let (Some(config), Some(attached)) = (NonNull::new(config), attached) {
        caught(|| attached.scheduled(EnvoyConfig(config), event));
    }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_config_http_callout_done(
    config: *mut c_void,
    attached: *const Attached,
    id: u64,
    result: u32,
    headers: *const Pair,
    header_count: usize,
    chunks: *const Bytes,
    chunk_count: usize,
) {
    // SAFETY: Envoy passes what `config_new` returned, and lends headers and chunks for this entry; both may be null.
    let (attached, headers, chunks) = unsafe {
        (
            lend(attached),
            if headers.is_null() { &[] } else { std::slice::from_raw_parts(headers, header_count) },
            if chunks.is_null() { &[] } else { std::slice::from_raw_parts(chunks, chunk_count) },
        )
    };
    let (Some(config), Some(attached)) = (NonNull::new(config), attached) else { return };
    let mut answer = gate::Answer::default();
    if result == OK {
        for pair in headers {
            // SAFETY: as above.
            let (name, value) = unsafe { pair.read() };
            if name == b":status" {
                answer.status = gate::read_status(value).unwrap_or(0);
            }
        }
        for chunk in chunks {
            // SAFETY: as above.
            answer.body.extend_from_slice(unsafe { chunk.read() });
        }
    }
    caught(|| attached.answered(EnvoyConfig(config), id, answer));
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_new(
    attached: *const Attached,
    exchange: *mut c_void,
) -> *const Exchange {
    // SAFETY: Envoy passes what `config_new` returned, and has not destroyed it.
    let attached = unsafe { lend(attached) };
    let (Some(attached), Some(envoy)) = (attached, NonNull::new(exchange)) else { return ptr::null() };
    // If this returns null, Envoy closes the stream.
    caught(|| Exchange::new(&attached, EnvoyExchange(envoy)))
        .flatten()
        .map_or(ptr::null(), |exchange| Arc::into_raw(Arc::new(exchange)))
}

/// # Safety
/// As for [`lend`].
unsafe fn enter(
    envoy: *mut c_void,
    exchange: *const Exchange,
    work: impl FnOnce(&Exchange, EnvoyExchange) -> u32,
) -> u32 {
    // SAFETY: by this function's own condition.
    let exchange = unsafe { lend(exchange) };
    match (NonNull::new(envoy), exchange) {
        (Some(envoy), Some(exchange)) => caught(|| work(&exchange, EnvoyExchange(envoy))).unwrap_or(STOP),
        _ => STOP,
    }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_request_headers(
    envoy: *mut c_void,
    exchange: *const Exchange,
    ends: bool,
) -> u32 {
    // SAFETY: Envoy passes what `filter_new` returned, and has not destroyed it.
    unsafe { enter(envoy, exchange, |exchange, envoy| exchange.request_headers(envoy, ends)) }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_request_body(
    envoy: *mut c_void,
    exchange: *const Exchange,
    ends: bool,
) -> u32 {
    // SAFETY: as above.
    unsafe { enter(envoy, exchange, |exchange, envoy| exchange.request_body(envoy, ends)) }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_request_trailers(
    envoy: *mut c_void,
    exchange: *const Exchange,
) -> u32 {
    // SAFETY: as above.
    unsafe { enter(envoy, exchange, Exchange::request_trailers) }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_response_headers(
    envoy: *mut c_void,
    exchange: *const Exchange,
    ends: bool,
) -> u32 {
    // SAFETY: as above.
    unsafe { enter(envoy, exchange, |exchange, envoy| exchange.response_headers(envoy, ends)) }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_response_body(
    envoy: *mut c_void,
    exchange: *const Exchange,
    ends: bool,
) -> u32 {
    // SAFETY: as above.
    unsafe { enter(envoy, exchange, |exchange, envoy| exchange.response_body(envoy, ends)) }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_response_trailers(
    envoy: *mut c_void,
    exchange: *const Exchange,
) -> u32 {
    // SAFETY: as above.
    unsafe { enter(envoy, exchange, Exchange::response_trailers) }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_scheduled(
    envoy: *mut c_void,
    exchange: *const Exchange,
    _event: u64,
) {
    // SAFETY: as above.
    unsafe { enter(envoy, exchange, Exchange::scheduled) };
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_stream_complete(
    envoy: *mut c_void,
    exchange: *const Exchange,
) {
    // SAFETY: as above.
    unsafe { enter(envoy, exchange, Exchange::complete) };
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_local_reply(
    envoy: *mut c_void,
    exchange: *const Exchange,
    _status: u32,
    details: Bytes,
    _reset_imminent: bool,
) -> u32 {
    // SAFETY: Envoy lends the details for this entry.
    let details = unsafe { details.read() }.to_vec();
    // SAFETY: as above.
    unsafe { enter(envoy, exchange, |exchange, _| exchange.local_reply(details)) };
    0
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_destroy(exchange: *const Exchange) {
    if !exchange.is_null() {
        // SAFETY: this takes back the count that `filter_new` gave to Envoy.
        let exchange = unsafe { Arc::from_raw(exchange) };
        caught(|| exchange.destroy());
    }
}

/// Entries that Envoy looks up and never calls here, because the module starts no such streams and is not terminal.
macro_rules! unused {
    ($($name:ident)*) => { $(#[unsafe(no_mangle)] extern "C" fn $name() {})* };
}

unused! {
    envoy_dynamic_module_on_http_filter_http_callout_done
    envoy_dynamic_module_on_http_filter_http_stream_headers
    envoy_dynamic_module_on_http_filter_http_stream_data
    envoy_dynamic_module_on_http_filter_http_stream_trailers
    envoy_dynamic_module_on_http_filter_http_stream_complete
    envoy_dynamic_module_on_http_filter_http_stream_reset
    envoy_dynamic_module_on_http_filter_config_http_stream_headers
    envoy_dynamic_module_on_http_filter_config_http_stream_data
    envoy_dynamic_module_on_http_filter_config_http_stream_trailers
    envoy_dynamic_module_on_http_filter_config_http_stream_complete
    envoy_dynamic_module_on_http_filter_config_http_stream_reset
    envoy_dynamic_module_on_http_filter_downstream_above_write_buffer_high_watermark
    envoy_dynamic_module_on_http_filter_downstream_below_write_buffer_low_watermark
}

#[cfg(test)]
mod tests;
