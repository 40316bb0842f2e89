//! What Envoy offers for a configuration, on its main thread.

use super::{Bytes, NOTHING, OK, Pair, raw};
use gate::{MetricKind, Request};
use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

/// Envoy's side of a configuration. Valid in each entry that gets it, on Envoy's main thread.
#[derive(Debug, Clone, Copy)]
pub struct EnvoyConfig(pub NonNull<c_void>);

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
        let labels = Bytes::list(labels);
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

    /// Adds to a metric.
    pub fn add(self, kind: MetricKind, id: usize, labels: &[String], offset: i64) {
        let name = match (kind, offset < 0) {
            (MetricKind::Gauge, true) => c"envoy_dynamic_module_callback_http_filter_config_decrement_gauge",
            (MetricKind::Gauge, false) => c"envoy_dynamic_module_callback_http_filter_config_increment_gauge",
            _ => c"envoy_dynamic_module_callback_http_filter_config_increment_counter",
        };
        let Some(call) = optional(name) else { return };
        let labels = Bytes::list(labels);
        // SAFETY: Envoy's function of this name has this type; the configuration is valid in this entry.
        unsafe { call(self.pointer(), id, labels.as_ptr(), labels.len(), offset.unsigned_abs()) };
    }
}

/// True if this Envoy tells modules how an exchange ended, as 1.39 and later do. It is known by a function that came
/// with that: Envoy does not say its version.
pub fn tells_how_exchanges_end() -> bool {
    optional(c"envoy_dynamic_module_callback_http_filter_config_increment_counter").is_some()
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
