//! The functions that Envoy offers to modules, as its `abi.h` declares them. Each takes the pointer of an exchange or of a
//! configuration first, and is called by the thread to which that belongs.

use super::{Bytes, Pair};
use std::ffi::c_void;

unsafe extern "C" {
    pub fn envoy_dynamic_module_callback_log(level: u32, message: Bytes);
    pub fn envoy_dynamic_module_callback_get_concurrency() -> u32;
    pub fn envoy_dynamic_module_callback_http_get_headers_size(exchange: *mut c_void, map: u32) -> usize;
    pub fn envoy_dynamic_module_callback_http_get_headers(
        exchange: *mut c_void,
        map: u32,
        out: *mut Pair,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_http_get_header(
        exchange: *mut c_void,
        map: u32,
        name: Bytes,
        out: *mut Bytes,
        index: usize,
        count: *mut usize,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_http_set_header(
        exchange: *mut c_void,
        map: u32,
        name: Bytes,
        value: Bytes,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_http_get_body_size(exchange: *mut c_void, body: u32) -> usize;
    pub fn envoy_dynamic_module_callback_http_get_body_chunks_size(exchange: *mut c_void, body: u32)
    -> usize;
    pub fn envoy_dynamic_module_callback_http_get_body_chunks(
        exchange: *mut c_void,
        body: u32,
        out: *mut Bytes,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_http_drain_body(
        exchange: *mut c_void,
        body: u32,
        length: usize,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_http_append_body(
        exchange: *mut c_void,
        body: u32,
        bytes: Bytes,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_http_filter_get_attribute_string(
        exchange: *mut c_void,
        attribute: u32,
        out: *mut Bytes,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_http_set_filter_state_bytes(
        exchange: *mut c_void,
        name: Bytes,
        value: Bytes,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_http_send_response(
        exchange: *mut c_void,
        status: u32,
        headers: *const Pair,
        count: usize,
        body: Bytes,
        details: Bytes,
    );
    pub fn envoy_dynamic_module_callback_http_filter_continue_decoding(exchange: *mut c_void);
    pub fn envoy_dynamic_module_callback_http_filter_reset_stream(
        exchange: *mut c_void,
        reason: u32,
        details: Bytes,
    );
    pub fn envoy_dynamic_module_callback_http_filter_get_worker_index(exchange: *mut c_void) -> u32;
    pub fn envoy_dynamic_module_callback_http_filter_scheduler_new(exchange: *mut c_void) -> *mut c_void;
    pub fn envoy_dynamic_module_callback_http_filter_scheduler_commit(scheduler: *mut c_void, event: u64);
    pub fn envoy_dynamic_module_callback_http_filter_scheduler_delete(scheduler: *mut c_void);
    pub fn envoy_dynamic_module_callback_http_filter_config_scheduler_new(config: *mut c_void)
    -> *mut c_void;
    pub fn envoy_dynamic_module_callback_http_filter_config_scheduler_commit(
        scheduler: *mut c_void,
        event: u64,
    );
    pub fn envoy_dynamic_module_callback_http_filter_config_scheduler_delete(scheduler: *mut c_void);
    pub fn envoy_dynamic_module_callback_http_filter_config_http_callout(
        config: *mut c_void,
        id: *mut u64,
        cluster: Bytes,
        headers: *const Pair,
        count: usize,
        body: Bytes,
        timeout_ms: u64,
    ) -> u32;
    pub fn envoy_dynamic_module_callback_http_filter_config_define_counter(
        config: *mut c_void,
        name: Bytes,
        labels: *const Bytes,
        count: usize,
        id: *mut usize,
    ) -> u32;
    pub fn envoy_dynamic_module_callback_http_filter_config_define_gauge(
        config: *mut c_void,
        name: Bytes,
        labels: *const Bytes,
        count: usize,
        id: *mut usize,
    ) -> u32;
    pub fn envoy_dynamic_module_callback_http_filter_config_define_histogram(
        config: *mut c_void,
        name: Bytes,
        labels: *const Bytes,
        count: usize,
        id: *mut usize,
    ) -> u32;
    pub fn envoy_dynamic_module_callback_http_filter_record_histogram_value(
        exchange: *mut c_void,
        id: usize,
        labels: *const Bytes,
        count: usize,
        value: u64,
    ) -> u32;
}
