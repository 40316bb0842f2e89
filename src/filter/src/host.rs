//! Envoy as proxy-wasm shows it: all hostcalls of the filter. The only file with `unsafe`.
//!
//! The SDK's own wrappers panic on an unexpected status and on header bytes that aren't UTF-8, and a panic kills the
//! worker's VM. This module imports the same host functions and returns every status to the caller.
#![allow(unsafe_code)]

use crate::context::{self, Context};
use gate::{
    Answer, Body, Host, Map, MetricKind, NotCalled, Refused, Request, Shared, Work, name_with_labels,
    read_status,
};
use policy::window::Monotonic;
use protocol::Timestamp;
use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, MapType, MetricType, StreamType};
use std::ptr;
use std::time::Duration;

mod raw {
    #[link(wasm_import_module = "env")]
    unsafe extern "C" {
        pub fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
        pub fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
        pub fn proxy_get_buffer_bytes(
            kind: u32,
            start: usize,
            max: usize,
            data: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
        pub fn proxy_set_buffer_bytes(
            kind: u32,
            start: usize,
            size: usize,
            data: *const u8,
            length: usize,
        ) -> u32;
        pub fn proxy_get_header_map_value(
            kind: u32,
            name: *const u8,
            name_size: usize,
            data: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
        pub fn proxy_get_header_map_pairs(kind: u32, data: *mut *mut u8, size: *mut usize) -> u32;
        pub fn proxy_replace_header_map_value(
            kind: u32,
            name: *const u8,
            name_size: usize,
            value: *const u8,
            value_size: usize,
        ) -> u32;
        pub fn proxy_remove_header_map_value(kind: u32, name: *const u8, name_size: usize) -> u32;
        pub fn proxy_get_property(
            path: *const u8,
            path_size: usize,
            data: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
        pub fn proxy_set_property(
            path: *const u8,
            path_size: usize,
            value: *const u8,
            value_size: usize,
        ) -> u32;
        pub fn proxy_get_shared_data(
            name: *const u8,
            name_size: usize,
            data: *mut *mut u8,
            size: *mut usize,
            cas: *mut u32,
        ) -> u32;
        pub fn proxy_set_shared_data(
            name: *const u8,
            name_size: usize,
            value: *const u8,
            value_size: usize,
            cas: u32,
        ) -> u32;
        pub fn proxy_continue_stream(kind: u32) -> u32;
        pub fn proxy_close_stream(kind: u32) -> u32;
        pub fn proxy_send_local_response(
            status: u32,
            details: *const u8,
            details_size: usize,
            body: *const u8,
            body_size: usize,
            headers: *const u8,
            headers_size: usize,
            grpc_status: i32,
        ) -> u32;
        pub fn proxy_set_effective_context(context_id: u32) -> u32;
        pub fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, id: *mut u32) -> u32;
        pub fn proxy_increment_metric(id: u32, offset: i64) -> u32;
        pub fn proxy_record_metric(id: u32, value: u64) -> u32;
    }

    #[link(wasm_import_module = "wasi_snapshot_preview1")]
    unsafe extern "C" {
        pub fn clock_time_get(clock: u32, precision: u64, time: *mut u64) -> u16;
        pub fn random_get(buffer: *mut u8, size: usize) -> u16;
    }

    unsafe extern "C" {
        // The SDK exports this function for the host; `enter_root` calls it too.
        pub fn proxy_on_queue_ready(context_id: u32, queue_id: u32);
    }
}

const OK: u32 = 0;
const CAS_MISMATCH: u32 = 8;
const MONOTONIC_CLOCK: u32 = 1;
const NANOS_PER_MILLI: u64 = 1_000_000;

fn done(status: u32) -> Result<(), Refused> {
    if status == OK { Ok(()) } else { Err(Refused(status)) }
}

/// Takes ownership of bytes that the host placed in this VM's memory.
///
/// # Safety
/// `data` and `size` were filled in by a host function that returned OK, and are not used again.
unsafe fn adopt(data: *mut u8, size: usize) -> Vec<u8> {
    if data.is_null() {
        return Vec::new();
    }
    // SAFETY: the host allocates with `proxy_on_memory_allocate`, which is this module's allocator, with capacity
    // equal to size; ownership passes to the callee.
    unsafe { Vec::from_raw_parts(data, size, size) }
}

fn adopted(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Result<Vec<u8>, Refused> {
    let mut data = ptr::null_mut();
    let mut size = 0;
    done(call(&raw mut data, &raw mut size))?;
    // SAFETY: both were just filled in by a host function that returned OK.
    Ok(unsafe { adopt(data, size) })
}

/// Envoy, by proxy-wasm.
#[derive(Debug)]
pub enum Envoy {}

impl Host for Envoy {
    type Metric = Option<u32>;
    type Headers = HeaderMap;

    /// Zero if the host can't tell it, which does not happen in practice.
    fn wall_clock() -> Timestamp {
        let mut nanos = 0;
        // SAFETY: the pointer is to a local that outlives the call.
        unsafe { raw::proxy_get_current_time_nanoseconds(&raw mut nanos) };
        Timestamp::from_millis(nanos / NANOS_PER_MILLI)
    }

    fn monotonic_clock() -> Monotonic {
        let mut nanos = 0;
        // SAFETY: the pointer is to a local that outlives the call.
        unsafe { raw::clock_time_get(MONOTONIC_CLOCK, 0, &raw mut nanos) };
        Monotonic(nanos / NANOS_PER_MILLI)
    }

    fn random() -> [u8; 8] {
        let mut bytes = [0; 8];
        // SAFETY: the buffer is a local of the stated size.
        unsafe { raw::random_get(bytes.as_mut_ptr(), 8) };
        bytes
    }

    /// Reads all in one hostcall, which costs less than reading two headers by name.
    fn headers(map: Map) -> HeaderMap {
        let kind = map_type(map) as u32;
        // SAFETY: the pointers are to locals of `adopted`.
        let bytes = adopted(|data, size| unsafe { raw::proxy_get_header_map_pairs(kind, data, size) });
        HeaderMap(bytes.unwrap_or_default())
    }

    fn status() -> Option<u16> {
        status(MapType::HttpResponseHeaders)
    }

    fn set_header(map: Map, name: &str, value: &str) {
        // SAFETY: each pointer and length belong to one of two live slices.
        unsafe {
            raw::proxy_replace_header_map_value(
                map_type(map) as u32,
                name.as_ptr(),
                name.len(),
                value.as_ptr(),
                value.len(),
            )
        };
    }

    fn remove_header(map: Map, name: &[u8]) {
        // SAFETY: pointer and length belong to the same live slice.
        unsafe { raw::proxy_remove_header_map_value(map_type(map) as u32, name.as_ptr(), name.len()) };
    }

    fn body(of: Body) -> Vec<u8> {
        buffer(buffer_type(of))
    }

    fn replace_body(of: Body, bytes: &[u8]) -> Result<(), Refused> {
        let kind = buffer_type(of) as u32;
        // SAFETY: pointer and length belong to the same live slice.
        done(unsafe { raw::proxy_set_buffer_bytes(kind, 0, usize::MAX, bytes.as_ptr(), bytes.len()) })
    }

    fn code_details() -> Option<Vec<u8>> {
        property(&["response", "code_details"])
    }

    fn has_upstream_connection() -> bool {
        property(&["upstream", "local_address"]).is_some()
    }

    fn set_log_field(name: &str, value: &str) {
        // SAFETY: each pointer and length belong to one of two live slices.
        unsafe { raw::proxy_set_property(name.as_ptr(), name.len(), value.as_ptr(), value.len()) };
    }

    /// The SDK's own function can't pass response code details.
    fn reply(reply: policy::exchange::Reply) {
        let headers: Vec<(&[u8], &[u8])> =
            reply.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        let headers = serialise(&headers);
        // SAFETY: each pointer and length belong to one of three live slices.
        unsafe {
            raw::proxy_send_local_response(
                u32::from(reply.status),
                reply.details.as_ptr(),
                reply.details.len(),
                reply.body.as_ptr(),
                reply.body.len(),
                headers.as_ptr(),
                headers.len(),
                -1,
            )
        };
    }

    fn resume_request() {
        // SAFETY: the call passes no pointers.
        unsafe { raw::proxy_continue_stream(StreamType::HttpRequest as u32) };
    }

    fn reset_response() {
        // SAFETY: the call passes no pointers.
        unsafe { raw::proxy_close_stream(StreamType::HttpResponse as u32) };
    }

    fn in_stream(root_id: u32, stream_id: u32, work: Work) -> bool {
        context::enter(Context::StreamOfRoot(stream_id));
        set_context(stream_id);
        let is_there = work();
        context::enter(Context::Root);
        set_context(root_id);
        is_there
    }

    /// The SDK delivers the answer of a call to the context that was active at dispatch, and drops it if that context no
    /// longer exists. So each call starts in the root context.
    fn dispatch(root_id: u32, request: Request, stream_id: Option<u32>) -> Result<u32, NotCalled> {
        match (context::active(), stream_id) {
            (Context::Root, _) | (_, None) => send(&request),
            (Context::StreamOfRoot(_), Some(stream_id)) => {
                set_context(root_id);
                let sent = send(&request);
                set_context(stream_id);
                sent
            }
            (Context::Stream, Some(stream_id)) => context::pass(request, || enter_root(root_id, stream_id)),
        }
    }

    fn shared(name: &str) -> Shared {
        let mut revision = 0;
        // SAFETY: pointer and length belong to the same live slice; the other pointers are to locals.
        let bytes = adopted(|data, size| unsafe {
            raw::proxy_get_shared_data(name.as_ptr(), name.len(), data, size, &raw mut revision)
        });
        match bytes {
            Ok(bytes) => Shared { bytes, revision },
            // The value is absent. A compare value that never matches makes the first write create-only; zero would overwrite.
            Err(_) if revision == 0 => Shared { bytes: Vec::new(), revision: u32::MAX },
            Err(_) => Shared { bytes: Vec::new(), revision },
        }
    }

    fn swap_shared(name: &str, read: &Shared, bytes: &[u8]) -> Result<bool, Refused> {
        // SAFETY: each pointer and length belong to one of two live slices.
        match unsafe {
            raw::proxy_set_shared_data(name.as_ptr(), name.len(), bytes.as_ptr(), bytes.len(), read.revision)
        } {
            OK => Ok(true),
            CAS_MISMATCH => Ok(false),
            status => Err(Refused(status)),
        }
    }

    fn metric(kind: MetricKind, name: &str, labels: &[(&'static str, &str)]) -> Option<u32> {
        let name = name_with_labels(name, labels);
        let kind = match kind {
            MetricKind::Counter => MetricType::Counter,
            MetricKind::Gauge => MetricType::Gauge,
            MetricKind::Histogram => MetricType::Histogram,
        };
        let mut id = 0;
        // SAFETY: pointer and length belong to the same live slice; the other pointer is to a local.
        let status = unsafe { raw::proxy_define_metric(kind as u32, name.as_ptr(), name.len(), &raw mut id) };
        (status == OK).then_some(id)
    }

    fn add(metric: Option<u32>, offset: i64) {
        if let Some(id) = metric {
            // SAFETY: the call passes no pointers.
            unsafe { raw::proxy_increment_metric(id, offset) };
        }
    }

    fn record(metric: Option<u32>, value: u64) {
        if let Some(id) = metric {
            // SAFETY: the call passes no pointers.
            unsafe { raw::proxy_record_metric(id, value) };
        }
    }
}

fn map_type(map: Map) -> MapType {
    match map {
        Map::RequestHeaders => MapType::HttpRequestHeaders,
        Map::RequestTrailers => MapType::HttpRequestTrailers,
        Map::ResponseHeaders => MapType::HttpResponseHeaders,
    }
}

fn buffer_type(of: Body) -> BufferType {
    match of {
        Body::Request => BufferType::HttpRequestBody,
        Body::Response => BufferType::HttpResponseBody,
    }
}

/// Asks Envoy to call `on_tick` every `period_ms`.
pub fn set_tick_period(period_ms: u32) {
    // SAFETY: the call passes no pointers.
    unsafe { raw::proxy_set_tick_period_milliseconds(period_ms) };
}

/// The plugin's configuration.
pub fn configuration() -> Vec<u8> {
    buffer(BufferType::PluginConfiguration)
}

/// The id of this Envoy's node.
pub fn node() -> Option<String> {
    property(&["xds", "node", "id"]).and_then(|bytes| String::from_utf8(bytes).ok())
}

/// Reads the answer that has just arrived. If the call failed or was reset, the answer has no headers.
pub fn answer(header_count: usize, body_bytes: usize) -> Answer {
    let status = (header_count > 0).then(|| status(MapType::HttpCallResponseHeaders));
    let Some(status) = status.flatten() else { return Answer::default() };
    let body = if body_bytes > 0 { buffer(BufferType::HttpCallResponseBody) } else { Vec::new() };
    Answer { status, body }
}

/// The whole content of a buffer; empty if there is no buffer.
fn buffer(kind: BufferType) -> Vec<u8> {
    // SAFETY: the pointers are to locals of `adopted`.
    adopted(|data, size| unsafe { raw::proxy_get_buffer_bytes(kind as u32, 0, usize::MAX, data, size) })
        .unwrap_or_default()
}

fn status(kind: MapType) -> Option<u16> {
    const STATUS: &str = ":status";
    // SAFETY: pointer and length belong to the same live slice; the other pointers are to locals of `adopted`.
    let value = adopted(|data, size| unsafe {
        raw::proxy_get_header_map_value(kind as u32, STATUS.as_ptr(), STATUS.len(), data, size)
    });
    read_status(&value.ok()?)
}

/// Reads a property of the stream, such as `["response", "code_details"]`.
fn property(path: &[&str]) -> Option<Vec<u8>> {
    let path = path.join("\0");
    // SAFETY: pointer and length belong to the same live slice; the other pointers are to locals of `adopted`.
    adopted(|data, size| unsafe { raw::proxy_get_property(path.as_ptr(), path.len(), data, size) }).ok()
}

/// Sends a call in the SDK's active context, which must be the root.
pub fn send(request: &Request) -> Result<u32, NotCalled> {
    let timeout = Duration::from_millis(request.timeout_ms());
    hostcalls::dispatch_http_call(request.cluster(), request.headers(), request.body(), vec![], timeout)
        .map_err(|_| NotCalled)
}

/// A header map as the host serialised it: one hostcall, and no copy per header.
pub struct HeaderMap(Vec<u8>);

impl gate::Headers for HeaderMap {
    /// Stops at the first truncated pair.
    fn pairs(&self) -> Vec<(&[u8], &[u8])> {
        // Format: u32 count, then count times (u32 name size, u32 value size), then each name and value, zero-terminated.
        let mut sizes = self.0.as_slice();
        let count = read_u32(&mut sizes).unwrap_or(0);
        let mut rest = count.checked_mul(8).and_then(|bytes| sizes.get(bytes..)).unwrap_or_default();
        let mut pairs = Vec::with_capacity(count.min(1024));
        for _ in 0..count {
            let pair = (|| {
                let (name_size, value_size) = (read_u32(&mut sizes)?, read_u32(&mut sizes)?);
                Some((take_text(&mut rest, name_size)?, take_text(&mut rest, value_size)?))
            })();
            match pair {
                Some(pair) => pairs.push(pair),
                None => break,
            }
        }
        pairs
    }
}

fn read_u32(bytes: &mut &[u8]) -> Option<usize> {
    let (chunk, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    usize::try_from(u32::from_le_bytes(*chunk)).ok()
}

fn take_text<'b>(bytes: &mut &'b [u8], size: usize) -> Option<&'b [u8]> {
    let (text, rest) = bytes.split_at_checked(size)?;
    *bytes = rest.get(1..)?;
    Some(text)
}

fn serialise(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
    let size = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(0).to_le_bytes();
    let texts = || pairs.iter().flat_map(|(name, value)| [*name, *value]);
    let length = texts().fold(4, |length: usize, text| length.saturating_add(text.len()).saturating_add(5));
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(&u32::try_from(pairs.len()).unwrap_or(0).to_le_bytes());
    for (name, value) in pairs {
        bytes.extend_from_slice(&size(name));
        bytes.extend_from_slice(&size(value));
    }
    for text in texts() {
        bytes.extend_from_slice(text);
        bytes.push(0);
    }
    bytes
}

/// Makes this context the target of the hostcalls that follow.
pub fn set_context(context_id: u32) {
    // SAFETY: the call passes no pointers.
    unsafe { raw::proxy_set_effective_context(context_id) };
}

/// Runs the root context's `on_queue_ready` from within a stream's callback.
///
/// The SDK delivers the answer of a ledger call to the context that was active at dispatch, and drops it if that
/// context no longer exists. A call must outlive the stream that asked for it: other streams may wait for the same key,
/// and a reservation that no stream uses must be released. The SDK activates a context only when the host calls in, so
/// this function calls the same entry point as the host.
pub fn enter_root(root_id: u32, stream_id: u32) {
    // SAFETY: the SDK's function takes two numbers and borrows only its table of root contexts, which is free while a
    // stream's callback runs.
    unsafe { raw::proxy_on_queue_ready(root_id, 0) };
    set_context(stream_id);
}
