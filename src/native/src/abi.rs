//! Envoy's dynamic-module ABI: what Envoy offers, as functions that can't be misused. Only this room and
//! `entry`, with the entries that Envoy calls, have `unsafe`.
//!
//! Written for the ABI of Envoy 1.39 and 1.40, whose names and layouts for HTTP filters are the same. A pointer of
//! Envoy's is valid as long as its type here says. Bytes that Envoy lends are copied before anything else is called,
//! because a later call may free them.
#![allow(unsafe_code)]

mod config;
mod exchange;
mod raw;

pub use config::{ConfigScheduler, EnvoyConfig, tells_how_exchanges_end};
pub use exchange::{Attribute, EnvoyExchange, ExchangeScheduler};

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes in the memory of one side.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Bytes {
    start: *const u8,
    length: usize,
}

/// A header in the memory of one side.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Pair {
    name: *const u8,
    name_length: usize,
    value: *const u8,
    value_length: usize,
}

pub const NOTHING: Bytes = Bytes { start: ptr::null(), length: 0 };

impl Bytes {
    pub fn of(bytes: &[u8]) -> Bytes {
        Bytes { start: bytes.as_ptr(), length: bytes.len() }
    }

    /// Each of these texts, which must outlive what is returned.
    pub fn list(texts: &[impl AsRef<str>]) -> Vec<Bytes> {
        texts.iter().map(|text| Bytes::of(text.as_ref().as_bytes())).collect()
    }

    /// # Safety
    /// Envoy has filled this in during the current entry, and nothing that may free it was called since.
    pub unsafe fn read<'e>(self) -> &'e [u8] {
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
    pub unsafe fn read<'e>(&self) -> (&'e [u8], &'e [u8]) {
        let name = Bytes { start: self.name, length: self.name_length };
        let value = Bytes { start: self.value, length: self.value_length };
        // SAFETY: by this function's own condition.
        unsafe { (name.read(), value.read()) }
    }
}

/// The status of a call that has worked.
pub const OK: u32 = 0;

/// How many workers Envoy has. Only on the main thread.
pub fn concurrency() -> usize {
    // SAFETY: the call passes no pointers.
    usize::try_from(unsafe { raw::envoy_dynamic_module_callback_get_concurrency() }).unwrap_or(1).max(1)
}

/// What the `log` crate writes to: Envoy's own log.
struct Logger;

/// Sends what this module logs to Envoy's log.
pub fn start_logging() {
    static LOGGER: Logger = Logger;
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}

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
        log::error!("a panic was caught: the request is refused, or its answer broken off");
    }
    answer
}
