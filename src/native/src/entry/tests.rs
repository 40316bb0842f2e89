//! The entries under an Envoy that hands in what it must not, and whose ledger is away. What Envoy offers is played here by
//! functions that do nothing but note answers.

use super::*;
use crate::abi::NOTHING;
use std::cell::{Cell, RefCell};

thread_local! {
    static REPLIES: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

/// Functions of Envoy's that answer with zero, false or null.
macro_rules! nothing {
    ($($name:ident($($argument:ty),*) -> $answer:ty = $value:expr;)*) => {
        $(#[unsafe(no_mangle)] extern "C" fn $name($(_: $argument),*) -> $answer { $value })*
    };
}

type P = *mut c_void;

nothing! {
    envoy_dynamic_module_callback_log(u32, Bytes) -> () = ();
    envoy_dynamic_module_callback_get_concurrency() -> u32 = 2;
    envoy_dynamic_module_callback_http_get_headers_size(P, u32) -> usize = 0;
    envoy_dynamic_module_callback_http_get_headers(P, u32, *mut Pair) -> bool = false;
    envoy_dynamic_module_callback_http_get_header(P, u32, Bytes, *mut Bytes, usize, *mut usize) -> bool = false;
    envoy_dynamic_module_callback_http_set_header(P, u32, Bytes, Bytes) -> bool = true;
    envoy_dynamic_module_callback_http_get_body_size(P, u32) -> usize = 0;
    envoy_dynamic_module_callback_http_get_body_chunks_size(P, u32) -> usize = 0;
    envoy_dynamic_module_callback_http_get_body_chunks(P, u32, *mut Bytes) -> bool = false;
    envoy_dynamic_module_callback_http_drain_body(P, u32, usize) -> bool = false;
    envoy_dynamic_module_callback_http_append_body(P, u32, Bytes) -> bool = false;
    envoy_dynamic_module_callback_http_filter_get_attribute_string(P, u32, *mut Bytes) -> bool = false;
    envoy_dynamic_module_callback_http_set_filter_state_bytes(P, Bytes, Bytes) -> bool = true;
    envoy_dynamic_module_callback_http_filter_continue_decoding(P) -> () = panic!("nothing may go on");
    envoy_dynamic_module_callback_http_filter_reset_stream(P, u32, Bytes) -> () = ();
    envoy_dynamic_module_callback_http_filter_get_worker_index(P) -> u32 = 0;
    envoy_dynamic_module_callback_http_filter_scheduler_new(P) -> P = ptr::dangling_mut();
    envoy_dynamic_module_callback_http_filter_scheduler_commit(P, u64) -> () = ();
    envoy_dynamic_module_callback_http_filter_scheduler_delete(P) -> () = ();
    envoy_dynamic_module_callback_http_filter_config_scheduler_new(P) -> P = ptr::dangling_mut();
    envoy_dynamic_module_callback_http_filter_config_scheduler_commit(P, u64) -> () = ();
    envoy_dynamic_module_callback_http_filter_config_scheduler_delete(P) -> () = ();
    envoy_dynamic_module_callback_http_filter_config_define_counter(P, Bytes, *const Bytes, usize, *mut usize) -> u32 = 0;
    envoy_dynamic_module_callback_http_filter_config_define_gauge(P, Bytes, *const Bytes, usize, *mut usize) -> u32 = 0;
    envoy_dynamic_module_callback_http_filter_config_define_histogram(P, Bytes, *const Bytes, usize, *mut usize) -> u32 = 0;
    envoy_dynamic_module_callback_http_filter_record_histogram_value(P, usize, *const Bytes, usize, u64) -> u32 = 0;
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_send_response(
    _: P,
    status: u32,
    _: *const Pair,
    _: usize,
    _: Bytes,
    _: Bytes,
) {
    REPLIES.with_borrow_mut(|replies| replies.push(status));
}

/// The ledger is away: no call can be sent.
#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_config_http_callout(
    _: P,
    _: *mut u64,
    _: Bytes,
    _: *const Pair,
    _: usize,
    _: Bytes,
    _: u64,
) -> u32 {
    CALLS.set(CALLS.get().saturating_add(1));
    4
}

#[test]
fn nothing_passes_if_envoy_hands_in_no_pointer() {
    let none = ptr::null_mut();
    let somewhere = ptr::dangling_mut();
    let unknown: *const Exchange = ptr::null();
    for envoy in [none, somewhere] {
        assert_eq!(envoy_dynamic_module_on_http_filter_request_headers(envoy, unknown, true), STOP);
        assert_eq!(envoy_dynamic_module_on_http_filter_request_body(envoy, unknown, true), STOP);
        assert_eq!(envoy_dynamic_module_on_http_filter_request_trailers(envoy, unknown), STOP);
        assert_eq!(envoy_dynamic_module_on_http_filter_response_headers(envoy, unknown, true), STOP);
        assert_eq!(envoy_dynamic_module_on_http_filter_response_body(envoy, unknown, true), STOP);
        assert_eq!(envoy_dynamic_module_on_http_filter_response_trailers(envoy, unknown), STOP);
        envoy_dynamic_module_on_http_filter_scheduled(envoy, unknown, 0);
        envoy_dynamic_module_on_http_filter_stream_complete(envoy, unknown);
        envoy_dynamic_module_on_http_filter_config_scheduled(envoy, ptr::null(), 1);
        let done = envoy_dynamic_module_on_http_filter_config_http_callout_done;
        done(envoy, ptr::null(), 1, 0, ptr::null(), 7, ptr::null(), 7);
        // Envoy closes the stream of a filter that can't be made, and refuses a configuration that can't be read.
        assert!(envoy_dynamic_module_on_http_filter_new(ptr::null(), envoy).is_null());
    }
    assert!(envoy_dynamic_module_on_http_filter_config_new(none, NOTHING, NOTHING).is_null());
    envoy_dynamic_module_on_http_filter_destroy(ptr::null());
    envoy_dynamic_module_on_http_filter_config_destroy(ptr::null());
}

#[test]
fn a_configuration_that_can_not_be_read_is_refused() {
    let somewhere = ptr::dangling_mut();
    for text in ["nonsense", "{\"ledger_timeout_ms\": 1}", "{\"unknown\": 1}"] {
        let text = Bytes::of(text.as_bytes());
        assert!(envoy_dynamic_module_on_http_filter_config_new(somewhere, NOTHING, text).is_null());
    }
    assert!(envoy_dynamic_module_on_http_filter_per_route_config_new(NOTHING, NOTHING).is_null());
}

#[test]
fn with_the_ledger_away_each_request_is_refused_and_calls_are_repeated() {
    let somewhere = ptr::dangling_mut();
    let attached =
        runtime::attach_with(EnvoyConfig(NonNull::dangling()), b"{}".to_vec(), gate::Config::default());
    let attached = Arc::into_raw(attached.unwrap());
    for round in 1..=3 {
        envoy_dynamic_module_on_http_filter_config_scheduled(somewhere, attached, 1);
        let exchange = envoy_dynamic_module_on_http_filter_new(attached, somewhere);
        assert!(!exchange.is_null());
        assert_eq!(envoy_dynamic_module_on_http_filter_request_headers(somewhere, exchange, false), STOP);
        assert_eq!(envoy_dynamic_module_on_http_filter_request_body(somewhere, exchange, true), 3);
        assert_eq!(REPLIES.with_borrow(|replies| replies.clone()), vec![503; round]);
        envoy_dynamic_module_on_http_filter_stream_complete(somewhere, exchange);
        envoy_dynamic_module_on_http_filter_destroy(exchange);
    }
    assert!(CALLS.get() >= 2, "each of the two workers has asked for the policy");
    envoy_dynamic_module_on_http_filter_config_destroy(attached);
}
