//! Envoy as the dynamic-module ABI shows it.

use crate::abi::Attribute;
use crate::current::{Call, Deferred, current, defer, details};
use crate::inbox;
use crate::shared;
use crate::stats::{self, Stat};
use gate::{Body, Host, Map, MetricKind, NotCalled, Refused, Request, Shared, Work, read_status};
use policy::exchange::Reply;
use policy::window::Monotonic;
use protocol::Timestamp;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Where the monotonic clock starts. Times before it exist, because rules subtract.
const CLOCK_START_MS: u64 = 1_000_000_000;

/// Envoy, by its dynamic-module ABI.
#[derive(Debug)]
pub enum Envoy {}

/// Headers, copied from Envoy one after another.
pub struct Headers {
    text: Vec<u8>,
    /// Where each name and each value ends.
    ends: Vec<(usize, usize)>,
}

impl gate::Headers for Headers {
    fn pairs(&self) -> Vec<(&[u8], &[u8])> {
        let mut from = 0;
        let pair = |(name_end, value_end): &(usize, usize)| {
            let name = self.text.get(from..*name_end).unwrap_or_default();
            let value = self.text.get(*name_end..*value_end).unwrap_or_default();
            from = *value_end;
            (name, value)
        };
        self.ends.iter().map(pair).collect()
    }
}

impl Host for Envoy {
    type Metric = &'static Stat;
    type Headers = Headers;

    fn wall_clock() -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn monotonic_clock() -> Monotonic {
        static START: OnceLock<Instant> = OnceLock::new();
        let since = START.get_or_init(Instant::now).elapsed();
        Monotonic(u64::try_from(since.as_millis()).unwrap_or(u64::MAX).saturating_add(CLOCK_START_MS))
    }

    /// The seeds of the standard library's hash maps are random.
    fn random() -> [u8; 8] {
        RandomState::new().build_hasher().finish().to_le_bytes()
    }

    fn headers(map: Map) -> Headers {
        let mut headers = Headers { text: Vec::with_capacity(1024), ends: Vec::with_capacity(24) };
        if let Some(current) = current() {
            current.envoy.headers(map, |name, value| {
                headers.text.extend_from_slice(name);
                let name_end = headers.text.len();
                headers.text.extend_from_slice(value);
                headers.ends.push((name_end, headers.text.len()));
            });
        }
        headers
    }

    fn status() -> Option<u16> {
        current()?.envoy.header(Map::ResponseHeaders, ":status", read_status)
    }

    fn set_header(map: Map, name: &str, value: &str) {
        if let Some(current) = current() {
            current.envoy.set_header(map, name.as_bytes(), Some(value));
        }
    }

    fn remove_header(map: Map, name: &[u8]) {
        if let Some(current) = current() {
            current.envoy.set_header(map, name, None);
        }
    }

    fn body(of: Body) -> Vec<u8> {
        current().map(|current| current.envoy.body(of)).unwrap_or_default()
    }

    fn replace_body(of: Body, bytes: &[u8]) -> Result<(), Refused> {
        let current = current().ok_or(Refused(0))?;
        let is_arriving = current.arriving == Some(of);
        if current.envoy.replace_body(of, bytes, is_arriving) { Ok(()) } else { Err(Refused(0)) }
    }

    fn code_details() -> Option<Vec<u8>> {
        details().or_else(|| current()?.envoy.attribute(Attribute::ResponseCodeDetails))
    }

    /// True too if Envoy does not say: then nothing proves that the request was not sent.
    fn has_upstream_connection() -> bool {
        current().is_none_or(|current| current.envoy.attribute(Attribute::UpstreamLocalAddress).is_some())
    }

    fn set_log_field(name: &str, value: &str) {
        if let Some(current) = current() {
            current.envoy.set_filter_state(&format!("wasm.{name}"), value);
        }
    }

    fn reply(reply: Reply) {
        defer(Deferred::Reply(reply));
    }

    fn resume_request() {
        defer(Deferred::Resume);
    }

    fn reset_response() {
        defer(Deferred::Reset);
    }

    fn in_stream(worker_id: u32, stream_id: u32, work: Work) -> bool {
        inbox::post(worker_id, stream_id, work)
    }

    fn dispatch(worker_id: u32, request: Request, _stream_id: Option<u32>) -> Result<u32, NotCalled> {
        static CALLS: AtomicU32 = AtomicU32::new(0);
        let call_id = CALLS.fetch_add(1, Ordering::Relaxed);
        defer(Deferred::Call(Call { worker_id, call_id, request }));
        Ok(call_id)
    }

    fn shared(name: &str) -> Shared {
        shared::read(name)
    }

    fn swap_shared(name: &str, read: &Shared, bytes: &[u8]) -> Result<bool, Refused> {
        Ok(shared::swap(name, read.revision, bytes))
    }

    fn metric(kind: MetricKind, name: &str, labels: &[(&'static str, &str)]) -> &'static Stat {
        stats::find(kind, name, labels)
    }

    fn add(metric: &'static Stat, offset: i64) {
        metric.add(offset);
    }

    fn record(metric: &'static Stat, value: u64) {
        if let Some(current) = current() {
            metric.record(current.envoy, value);
        }
    }
}
