//! What the gate asks of Envoy, in whichever way it runs there.

use crate::calls::{NotCalled, Request};
use policy::exchange::Reply;
use policy::window::Monotonic;
use protocol::Timestamp;

/// Envoy, as the gate sees it. All functions are of the thread that calls: what concerns an exchange concerns the one
/// whose callback runs, or the one in whose context [`Host::in_stream`] runs.
pub trait Host: Sized + Send + Sync + 'static {
    /// A counter, gauge or histogram.
    type Metric: Copy + Send + Sync;
    /// The headers or trailers of a message.
    type Headers: Headers;

    /// The wall-clock time.
    fn wall_clock() -> Timestamp;

    /// A clock that never jumps and that all workers of this Envoy share. Windows use it, because a change of the wall
    /// clock must not free their permits.
    fn monotonic_clock() -> Monotonic;

    /// Random bytes for ids.
    fn random() -> [u8; 8];

    /// All headers or trailers.
    fn headers(map: Map) -> Self::Headers;

    /// The status of the response; `None` if it has none. Most responses need no other header.
    fn status() -> Option<u16>;

    /// Sets a header and replaces all its existing values.
    fn set_header(map: Map, name: &str, value: &str);

    /// Removes a header with all its values.
    fn remove_header(map: Map, name: &[u8]);

    /// The whole body that Envoy holds, or the part of it that has just arrived; empty if there is none.
    fn body(of: Body) -> Vec<u8>;

    /// Replaces what [`Host::body`] returns.
    fn replace_body(of: Body, bytes: &[u8]) -> Result<(), Refused>;

    /// Why Envoy answered as it did: `via_upstream`, or a reason of its own. `None` if it can't be told.
    fn code_details() -> Option<Vec<u8>>;

    /// True if Envoy had a connection on which to send the request.
    fn has_upstream_connection() -> bool;

    /// Sets a field of the access log, which formats read as `%FILTER_STATE(wasm.<name>:PLAIN)%`.
    fn set_log_field(name: &str, value: &str);

    /// Answers the request. The answer passes no callback that must add to it.
    fn reply(reply: Reply);

    /// Lets the held request go upstream, in answer to an event that was no callback of the exchange.
    fn resume_request();

    /// Resets the exchange towards the client.
    fn reset_response();

    /// Runs `work` in the context of an exchange of this worker, at once or soon. False if the exchange has ended; else what
    /// `work` returns, or true if it has not run yet.
    fn in_stream(worker_id: u32, stream_id: u32, work: Work) -> bool;

    /// Sends a call to the ledger, and returns the id that its answer will carry. The answer comes to
    /// [`crate::Worker::answered`] after this callback, also if the exchange that asked has ended.
    /// `stream_id` is the exchange whose context is active, if one is.
    fn dispatch(worker_id: u32, request: Request, stream_id: Option<u32>) -> Result<u32, NotCalled>;

    /// Reads a value that all workers of this Envoy share.
    fn shared(name: &str) -> Shared;

    /// Writes a shared value if it is unchanged since `read`. Returns false if it has changed.
    fn swap_shared(name: &str, read: &Shared, bytes: &[u8]) -> Result<bool, Refused>;

    /// Defines a metric, or finds it if another worker has defined it. The labels become part of its name.
    fn metric(kind: MetricKind, name: &str, labels: &[(&'static str, &str)]) -> Self::Metric;

    /// Adds `offset` to a counter or gauge; negative only for gauges.
    fn add(metric: Self::Metric, offset: i64);

    /// Adds a value to a histogram.
    fn record(metric: Self::Metric, value: u64);
}

/// What is done in the context of an exchange. Returns false if the exchange has ended.
pub type Work = Box<dyn FnOnce() -> bool + Send>;

/// The headers or trailers of a message, as they were when they were read.
pub trait Headers {
    /// Names and values, in order, including duplicates.
    fn pairs(&self) -> Vec<(&[u8], &[u8])>;
}

/// Which headers or trailers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Map {
    /// Of the request.
    RequestHeaders,
    /// Of the request, behind its body.
    RequestTrailers,
    /// Of the response.
    ResponseHeaders,
}

/// Which body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// Of the request, as far as it is held.
    Request,
    /// Of the response: what has just arrived, or what was held until its end.
    Response,
}

/// Which kind of metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Grows and falls.
    Gauge,
    /// Counts values by size.
    Histogram,
}

/// What Envoy does after a callback of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Passes on what has arrived.
    Continue,
    /// Holds it.
    Pause,
}

/// A value that workers share, with the number that a compare-and-swap needs.
#[derive(Debug, Default, Clone)]
pub struct Shared {
    /// The bytes; empty if the value was never written.
    pub bytes: Vec<u8>,
    /// Changes with every write of the value.
    pub revision: u32,
}

/// Envoy refused a call, with its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused(pub u32);

/// The name of a metric with its labels, for stats that have only names.
pub fn name_with_labels(name: &str, labels: &[(&'static str, &str)]) -> String {
    let mut name = name.to_owned();
    for (label, value) in labels {
        name.extend([".", label, "=", value]);
    }
    name
}

/// Parses the value of a `:status` header.
pub fn read_status(value: &[u8]) -> Option<u16> {
    std::str::from_utf8(value).ok()?.parse().ok()
}
