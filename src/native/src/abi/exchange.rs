//! What Envoy offers for one exchange.

use super::{Bytes, NOTHING, Pair, raw};
use gate::{Body, Map};
use policy::exchange::Reply;
use std::ffi::c_void;
use std::ptr::{self, NonNull};

/// Why [`EnvoyExchange::reset`] resets, as Envoy numbers it.
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
pub struct EnvoyExchange(pub NonNull<c_void>);

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

    /// Adds a value to a histogram.
    pub fn record(self, id: usize, labels: &[String], value: u64) {
        let labels = Bytes::list(labels);
        // SAFETY: the exchange is valid in this entry; Envoy copies the labels.
        unsafe {
            raw::envoy_dynamic_module_callback_http_filter_record_histogram_value(
                self.pointer(),
                id,
                labels.as_ptr(),
                labels.len(),
                value,
            )
        };
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
