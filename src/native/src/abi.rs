//! Envoy's dynamic-module ABI: what Envoy offers, as functions that can't be misused, and the entries that Envoy calls.
//! The only file with `unsafe`.
//!
//! Written for the ABI of Envoy 1.38 to 1.40, whose names and layouts for HTTP filters are the same. A pointer of
//! Envoy's is valid as long as its type here says. Bytes that Envoy lends are copied before anything else is called,
//! because a later call may free them.
#![allow(unsafe_code)]

use crate::exchange::Exchange;
use crate::runtime::{self, Attached};
use gate::{Body, Map, MetricKind, Request};
use policy::exchange::Reply;
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes in the memory of one side.
#[repr(C)]
#[derive(Clone, Copy)]
struct Bytes {
    start: *const u8,
    length: usize,
}

/// A header in the memory of one side.
#[repr(C)]
#[derive(Clone, Copy)]
struct Pair {
    name: *const u8,
    name_length: usize,
    value: *const u8,
    value_length: usize,
}

const NOTHING: Bytes = Bytes { start: ptr::null(), length: 0 };

impl Bytes {
    fn of(bytes: &[u8]) -> Bytes {
        Bytes { start: bytes.as_ptr(), length: bytes.len() }
    }

    /// # Safety
    /// Envoy has filled this in during the current entry, and nothing that may free it was called since.
    unsafe fn read<'e>(self) -> &'e [u8] {
        if self.start.is_null() {
            return &[];
        }
        // SAFETY: a pointer that is not null has `length` bytes behind it.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
}

impl Pair {
    fn of(name: &str, value: &str) -> Pair {
        Pair {
            name: name.as_ptr(),
            name_length: name.len(),
            value: value.as_ptr(),
            value_length: value.len(),
        }
    }

    /// # Safety
    /// As for [`Bytes::read`].
    unsafe fn read<'e>(&self) -> (&'e [u8], &'e [u8]) {
        let name = Bytes { start: self.name, length: self.name_length };
        let value = Bytes { start: self.value, length: self.value_length };
        // SAFETY: by this function's own condition.
        unsafe { (name.read(), value.read()) }
    }
}

mod raw {
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
        pub fn envoy_dynamic_module_callback_http_get_body_chunks_size(
            exchange: *mut c_void,
            body: u32,
        ) -> usize;
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
        pub fn envoy_dynamic_module_callback_http_filter_config_scheduler_new(
            config: *mut c_void,
        ) -> *mut c_void;
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
        pub fn envoy_dynamic_module_callback_http_filter_increment_counter(
            exchange: *mut c_void,
            id: usize,
            labels: *const Bytes,
            count: usize,
            value: u64,
        ) -> u32;
        pub fn envoy_dynamic_module_callback_http_filter_increment_gauge(
            exchange: *mut c_void,
            id: usize,
            labels: *const Bytes,
            count: usize,
            value: u64,
        ) -> u32;
        pub fn envoy_dynamic_module_callback_http_filter_decrement_gauge(
            exchange: *mut c_void,
            id: usize,
            labels: *const Bytes,
            count: usize,
            value: u64,
        ) -> u32;
        pub fn envoy_dynamic_module_callback_http_filter_record_histogram_value(
            exchange: *mut c_void,
            id: usize,
            labels: *const Bytes,
            count: usize,
            value: u64,
        ) -> u32;
    }
}

const OK: u32 = 0;
const LOCAL_RESET: u32 = 0;

/// Numbers of attributes, as `abi.h` lists them.
#[derive(Debug, Clone, Copy)]
pub enum Attribute {
    /// Why Envoy answered as it did.
    ResponseCodeDetails = 16,
    /// Envoy's own address on the connection to the upstream.
    UpstreamLocalAddress = 51,
}

/// Envoy's filter of one exchange. Valid in each entry that gets it, on that thread; `current` lends it to the code that
/// runs there, and takes it back before the entry ends.
#[derive(Debug, Clone, Copy)]
pub struct EnvoyExchange(NonNull<c_void>);

/// Which of the bodies that Envoy tells apart.
#[derive(Debug, Clone, Copy)]
enum Part {
    ReceivedRequest = 0,
    BufferedRequest = 1,
    ReceivedResponse = 2,
    BufferedResponse = 3,
}

fn parts(of: Body) -> [Part; 2] {
    match of {
        Body::Request => [Part::BufferedRequest, Part::ReceivedRequest],
        Body::Response => [Part::BufferedResponse, Part::ReceivedResponse],
    }
}

fn map_type(map: Map) -> u32 {
    match map {
        Map::RequestHeaders => 0,
        Map::RequestTrailers => 1,
        Map::ResponseHeaders => 2,
    }
}

impl EnvoyExchange {
    fn pointer(self) -> *mut c_void {
        self.0.as_ptr()
    }

    /// Calls `each` with every header or trailer, in order.
    pub fn headers(self, map: Map, mut each: impl FnMut(&[u8], &[u8])) {
        let map = map_type(map);
        // SAFETY: the exchange is valid in this entry; the vector has room for as many pairs as Envoy has just counted,
        // and Envoy fills in all of them if it returns true. `each` gets bytes that it can't keep and calls nothing of Envoy's.
        unsafe {
            let count = raw::envoy_dynamic_module_callback_http_get_headers_size(self.pointer(), map);
            let mut pairs: Vec<Pair> = Vec::with_capacity(count);
            if count > 0
                && raw::envoy_dynamic_module_callback_http_get_headers(
                    self.pointer(),
                    map,
                    pairs.as_mut_ptr(),
                )
            {
                pairs.set_len(count);
            }
            for pair in &pairs {
                let (name, value) = pair.read();
                each(name, value);
            }
        }
    }

    /// Reads the first value of a header.
    pub fn header<Answer>(self, map: Map, name: &str, read: impl FnOnce(&[u8]) -> Answer) -> Answer {
        let mut value = NOTHING;
        // SAFETY: the exchange is valid in this entry; Envoy fills in `value`, which is read before anything else is called.
        unsafe {
            raw::envoy_dynamic_module_callback_http_get_header(
                self.pointer(),
                map_type(map),
                Bytes::of(name.as_bytes()),
                &raw mut value,
                0,
                ptr::null_mut(),
            );
            read(value.read())
        }
    }

    /// Sets a header and replaces all its existing values, or removes it.
    pub fn set_header(self, map: Map, name: &[u8], value: Option<&str>) {
        let value = value.map_or(NOTHING, |value| Bytes::of(value.as_bytes()));
        // SAFETY: the exchange is valid in this entry; Envoy copies name and value.
        unsafe {
            raw::envoy_dynamic_module_callback_http_set_header(
                self.pointer(),
                map_type(map),
                Bytes::of(name),
                value,
            )
        };
    }

    /// How many bytes of a body Envoy holds or has just received.
    pub fn body_size(self, of: Body) -> usize {
        let sizes = parts(of).map(|part| {
            // SAFETY: the exchange is valid in this entry.
            unsafe { raw::envoy_dynamic_module_callback_http_get_body_size(self.pointer(), part as u32) }
        });
        sizes.into_iter().fold(0, usize::saturating_add)
    }

    /// What Envoy holds of a body, and what it has just received.
    pub fn body(self, of: Body) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.body_size(of));
        for part in parts(of) {
            // SAFETY: as in `headers`; the chunks are copied before anything else is called.
            unsafe {
                let count =
                    raw::envoy_dynamic_module_callback_http_get_body_chunks_size(self.pointer(), part as u32);
                let mut chunks: Vec<Bytes> = Vec::with_capacity(count);
                if count > 0
                    && raw::envoy_dynamic_module_callback_http_get_body_chunks(
                        self.pointer(),
                        part as u32,
                        chunks.as_mut_ptr(),
                    )
                {
                    chunks.set_len(count);
                }
                for chunk in chunks {
                    body.extend_from_slice(chunk.read());
                }
            }
        }
        body
    }

    /// Replaces what [`EnvoyExchange::body`] returns. `is_arriving` means that this is the entry for a part of that body.
    pub fn replace_body(self, of: Body, bytes: &[u8], is_arriving: bool) -> bool {
        let [buffered, received] = parts(of);
        for part in [buffered, received] {
            // SAFETY: the exchange is valid in this entry.
            unsafe {
                raw::envoy_dynamic_module_callback_http_drain_body(self.pointer(), part as u32, usize::MAX)
            };
        }
        if bytes.is_empty() {
            return self.body_size(of) == 0;
        }
        let part = if is_arriving { received } else { buffered };
        // SAFETY: the exchange is valid in this entry; Envoy copies the bytes.
        let is_appended = unsafe {
            raw::envoy_dynamic_module_callback_http_append_body(self.pointer(), part as u32, Bytes::of(bytes))
        };
        is_appended && self.body_size(of) == bytes.len()
    }

    /// Reads an attribute.
    pub fn attribute(self, attribute: Attribute) -> Option<Vec<u8>> {
        let mut value = NOTHING;
        // SAFETY: the exchange is valid in this entry; Envoy fills in `value`, which is copied before anything else is called.
        unsafe {
            let is_there = raw::envoy_dynamic_module_callback_http_filter_get_attribute_string(
                self.pointer(),
                attribute as u32,
                &raw mut value,
            );
            is_there.then(|| value.read().to_vec())
        }
    }

    /// Sets a value that access logs read.
    pub fn set_filter_state(self, name: &str, value: &str) {
        let (name, value) = (Bytes::of(name.as_bytes()), Bytes::of(value.as_bytes()));
        // SAFETY: the exchange is valid in this entry; Envoy copies name and value.
        unsafe {
            raw::envoy_dynamic_module_callback_http_set_filter_state_bytes(self.pointer(), name, value)
        };
    }

    /// Answers the request. May enter this module again.
    pub fn reply(self, reply: &Reply) {
        let headers: Vec<Pair> = reply.headers.iter().map(|(name, value)| Pair::of(name, value)).collect();
        // SAFETY: the exchange is valid in this entry; Envoy copies all that it is given.
        unsafe {
            raw::envoy_dynamic_module_callback_http_send_response(
                self.pointer(),
                u32::from(reply.status),
                headers.as_ptr(),
                headers.len(),
                Bytes::of(&reply.body),
                Bytes::of(reply.details.as_bytes()),
            )
        };
    }

    /// Lets the held request go on. May enter this module again.
    pub fn resume(self) {
        // SAFETY: the exchange is valid in this entry.
        unsafe { raw::envoy_dynamic_module_callback_http_filter_continue_decoding(self.pointer()) };
    }

    /// Resets the exchange. Enters this module again, and ends the exchange.
    pub fn reset(self) {
        let details = Bytes::of(b"agentrelay.reset");
        // SAFETY: the exchange is valid in this entry, and not used after this.
        unsafe {
            raw::envoy_dynamic_module_callback_http_filter_reset_stream(self.pointer(), LOCAL_RESET, details)
        };
    }

    /// The number of the worker whose exchange this is.
    pub fn worker_index(self) -> usize {
        // SAFETY: the exchange is valid in this entry.
        let index =
            unsafe { raw::envoy_dynamic_module_callback_http_filter_get_worker_index(self.pointer()) };
        usize::try_from(index).unwrap_or(0)
    }

    /// What runs code for this exchange later.
    pub fn scheduler(self) -> Option<ExchangeScheduler> {
        // SAFETY: the exchange is valid in this entry; the scheduler belongs to the module from here on.
        let scheduler =
            unsafe { raw::envoy_dynamic_module_callback_http_filter_scheduler_new(self.pointer()) };
        NonNull::new(scheduler).map(ExchangeScheduler)
    }

    /// Adds to a metric.
    pub fn add(self, kind: MetricKind, id: usize, labels: &[String], offset: i64) {
        let labels: Vec<Bytes> = labels.iter().map(|label| Bytes::of(label.as_bytes())).collect();
        let call = match (kind, offset < 0) {
            (MetricKind::Gauge, true) => raw::envoy_dynamic_module_callback_http_filter_decrement_gauge,
            (MetricKind::Gauge, false) => raw::envoy_dynamic_module_callback_http_filter_increment_gauge,
            (MetricKind::Counter, _) => raw::envoy_dynamic_module_callback_http_filter_increment_counter,
            (MetricKind::Histogram, _) => {
                raw::envoy_dynamic_module_callback_http_filter_record_histogram_value
            }
        };
        // SAFETY: the exchange is valid in this entry; Envoy copies the labels.
        unsafe { call(self.pointer(), id, labels.as_ptr(), labels.len(), offset.unsigned_abs()) };
    }
}

/// Runs code for an exchange on its worker's thread. Owned by the module; may be used on any thread, also when the
/// exchange has ended: then nothing happens.
#[derive(Debug)]
pub struct ExchangeScheduler(NonNull<c_void>);

// SAFETY: Envoy allows commits from any thread, and the module deletes the scheduler once.
unsafe impl Send for ExchangeScheduler {}
// SAFETY: as above.
unsafe impl Sync for ExchangeScheduler {}

impl ExchangeScheduler {
    /// Asks for [`Exchange::scheduled`].
    pub fn commit(&self) {
        // SAFETY: the scheduler lives until it is dropped.
        unsafe { raw::envoy_dynamic_module_callback_http_filter_scheduler_commit(self.0.as_ptr(), 0) };
    }
}

impl Drop for ExchangeScheduler {
    fn drop(&mut self) {
        // SAFETY: nobody uses the scheduler any more.
        unsafe { raw::envoy_dynamic_module_callback_http_filter_scheduler_delete(self.0.as_ptr()) };
    }
}

/// Envoy's side of a configuration. Valid in each entry that gets it, on Envoy's main thread.
#[derive(Debug, Clone, Copy)]
pub struct EnvoyConfig(NonNull<c_void>);

type ConfigMetric = unsafe extern "C" fn(*mut c_void, usize, *const Bytes, usize, u64) -> u32;

impl EnvoyConfig {
    fn pointer(self) -> *mut c_void {
        self.0.as_ptr()
    }

    /// Tells this configuration from others that exist at the same time.
    pub fn id(self) -> usize {
        self.pointer().addr()
    }

    /// What runs code on Envoy's main thread.
    pub fn scheduler(self) -> Option<ConfigScheduler> {
        // SAFETY: the configuration is valid in this entry; the scheduler belongs to the module from here on.
        let scheduler =
            unsafe { raw::envoy_dynamic_module_callback_http_filter_config_scheduler_new(self.pointer()) };
        NonNull::new(scheduler).map(ConfigScheduler)
    }

    /// Sends a request, and returns the number that its answer carries. `None` if Envoy can't send it.
    pub fn call(self, request: &Request) -> Option<u64> {
        // Envoy's own names: it knows `host`, not `:authority`, in such a list.
        let headers: Vec<Pair> = request
            .headers()
            .into_iter()
            .map(|(name, value)| Pair::of(if name == ":authority" { "host" } else { name }, value))
            .collect();
        let mut id = 0;
        // SAFETY: the configuration is valid in this entry; Envoy copies all that it is given.
        let result = unsafe {
            raw::envoy_dynamic_module_callback_http_filter_config_http_callout(
                self.pointer(),
                &raw mut id,
                Bytes::of(request.cluster().as_bytes()),
                headers.as_ptr(),
                headers.len(),
                request.body().map_or(NOTHING, Bytes::of),
                request.timeout_ms(),
            )
        };
        (result == OK).then_some(id)
    }

    /// Defines a metric and returns its number.
    pub fn define(self, kind: MetricKind, name: &str, labels: &[&str]) -> Option<usize> {
        let labels: Vec<Bytes> = labels.iter().map(|label| Bytes::of(label.as_bytes())).collect();
        let call = match kind {
            MetricKind::Counter => raw::envoy_dynamic_module_callback_http_filter_config_define_counter,
            MetricKind::Gauge => raw::envoy_dynamic_module_callback_http_filter_config_define_gauge,
            MetricKind::Histogram => raw::envoy_dynamic_module_callback_http_filter_config_define_histogram,
        };
        let (name, mut id) = (Bytes::of(name.as_bytes()), 0);
        // SAFETY: the configuration is valid in this entry; Envoy copies name and labels.
        let result = unsafe { call(self.pointer(), name, labels.as_ptr(), labels.len(), &raw mut id) };
        (result == OK).then_some(id)
    }

    /// Adds to a metric. False if this Envoy can't do so outside of an exchange: 1.38.
    pub fn add(self, kind: MetricKind, id: usize, labels: &[String], offset: i64) -> bool {
        let name = match (kind, offset < 0) {
            (MetricKind::Gauge, true) => c"envoy_dynamic_module_callback_http_filter_config_decrement_gauge",
            (MetricKind::Gauge, false) => c"envoy_dynamic_module_callback_http_filter_config_increment_gauge",
            _ => c"envoy_dynamic_module_callback_http_filter_config_increment_counter",
        };
        let Some(call) = optional(name) else { return false };
        let labels: Vec<Bytes> = labels.iter().map(|label| Bytes::of(label.as_bytes())).collect();
        // SAFETY: Envoy's function of this name has this type; the configuration is valid in this entry.
        unsafe { call(self.pointer(), id, labels.as_ptr(), labels.len(), offset.unsigned_abs()) };
        true
    }
}

/// A function that not every Envoy has.
fn optional(name: &CStr) -> Option<ConfigMetric> {
    // SAFETY: the name ends in zero; if there is such a symbol, it is Envoy's function of this type.
    unsafe {
        let symbol = libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr());
        (!symbol.is_null()).then(|| std::mem::transmute::<*mut c_void, ConfigMetric>(symbol))
    }
}

/// Runs code on Envoy's main thread. Owned by the module; may be used on any thread.
#[derive(Debug)]
pub struct ConfigScheduler(NonNull<c_void>);

// SAFETY: Envoy allows commits from any thread, and the module deletes the scheduler once.
unsafe impl Send for ConfigScheduler {}
// SAFETY: as above.
unsafe impl Sync for ConfigScheduler {}

impl ConfigScheduler {
    /// Asks for [`Attached::scheduled`] with this event.
    pub fn commit(&self, event: u64) {
        let scheduler = self.0.as_ptr();
        // SAFETY: the scheduler lives until it is dropped.
        unsafe { raw::envoy_dynamic_module_callback_http_filter_config_scheduler_commit(scheduler, event) };
    }
}

impl Drop for ConfigScheduler {
    fn drop(&mut self) {
        // SAFETY: nobody uses the scheduler any more.
        unsafe { raw::envoy_dynamic_module_callback_http_filter_config_scheduler_delete(self.0.as_ptr()) };
    }
}

/// How many workers Envoy has. Only on the main thread.
pub fn concurrency() -> usize {
    // SAFETY: the call passes no pointers.
    usize::try_from(unsafe { raw::envoy_dynamic_module_callback_get_concurrency() }).unwrap_or(1).max(1)
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Info
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let level = match record.level() {
                log::Level::Error => 4,
                log::Level::Warn => 3,
                log::Level::Info => 2,
                log::Level::Debug => 1,
                log::Level::Trace => 0,
            };
            let message = record.args().to_string();
            // SAFETY: Envoy copies the message.
            unsafe { raw::envoy_dynamic_module_callback_log(level, Bytes::of(message.as_bytes())) };
        }
    }

    fn flush(&self) {}
}

/// Panics that an entry has caught.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// How many panics were caught so far.
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Runs an entry's work. A panic must not unwind into Envoy: it is counted, and the entry returns `None`.
pub fn caught<Answer>(work: impl FnOnce() -> Answer) -> Option<Answer> {
    let answer = catch_unwind(AssertUnwindSafe(work)).ok();
    if answer.is_none() {
        PANICS.fetch_add(1, Ordering::Relaxed);
        log::error!("the gate has panicked; the request is refused");
    }
    answer
}

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
    static LOGGER: Logger = Logger;
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
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
