//! One HTTP exchange: handles its Envoy callbacks and runs the steps of its state machine.
//!
//! Until the exchange is decided, every request callback must return Pause, because a single Continue sends the held
//! headers upstream (see `allow_on_headers_stop_iteration`). A request is either forwarded or answered, never both.

use crate::host::{Action, Body, Headers, Host, Map, read_status};
use crate::lock::Locked;
use crate::windows;
use crate::worker::{Event, Lookup, Shares, Waiting, Worker};
use policy::exchange::{self, BodyPlan, End, Exchange, Finished, IssueAnswered, Now, ReserveAnswered, Step};
use protocol::EventId;
use std::sync::Arc;

/// How long a request's body may take to arrive; equals `request_timeout` in envoy.yaml. A key that holds too many
/// bytes is told to retry after this time, because all its held requests are decided by then.
const BODY_SECONDS_MAX: u64 = 30;

/// Memory that Envoy uses for a stream besides its headers and body (measured, approximate).
const STREAM_BYTES: u64 = 8 << 10;

/// The context of one stream.
pub struct Stream<H: Host> {
    id: u32,
    worker: Arc<Worker<H>>,
    state: Arc<Locked<State>>,
}

/// The state of one stream.
#[derive(Default)]
struct State {
    exchange: Option<Exchange>,
    gate: Gate,
    /// Memory that Envoy uses for the stream and its request headers while the request waits.
    head_bytes: u64,
    body_bytes: u64,
    body_ended: bool,
    /// The maximum body size; set only while the body is held for a decision.
    reading: Option<u32>,
    /// Bytes counted against the key.
    held: u64,
    response: Response,
    /// For [`Response::Replace`], the replacement body; for [`Response::Hold`], the body received so far.
    body: Vec<u8>,
    response_ended: bool,
}

/// Whether the request may go upstream.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// Not decided yet: the request is held.
    #[default]
    Held,
    /// Allowed: everything passes.
    Released,
    /// Answered by the filter: nothing passes.
    Answered,
}

/// What the filter does with the response body.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Response {
    #[default]
    Pass,
    Watch,
    Hold,
    Rewrite,
    Replace,
    /// The filter sent another answer instead and drops the rest of this one.
    Refused,
}

impl<H: Host> Stream<H> {
    /// Creates the context of a stream that Envoy has just opened.
    pub fn new(id: u32, worker: Arc<Worker<H>>) -> Stream<H> {
        Stream { id, worker, state: Arc::default() }
    }

    /// Processes the request body received so far and returns the action for the callback.
    fn body_arrived(&self, state: &mut State) -> Action {
        if state.gate == Gate::Held {
            let now = self.worker.now();
            if let Some(step) = read_body(&self.worker, state, now) {
                advance(&self.worker, self.id, state, step, now);
            }
        }
        Stream::<H>::action(state)
    }

    /// The action that a request callback returns.
    fn action(state: &State) -> Action {
        match state.gate {
            Gate::Released => Action::Continue,
            Gate::Held | Gate::Answered => Action::Pause,
        }
    }

    /// The headers of the request have arrived. `ends` means that nothing follows.
    pub fn request_headers(&self, ends: bool) -> Action {
        let map = H::headers(Map::RequestHeaders);
        let headers = map.pairs();
        for (name, _) in headers.iter().filter(|(name, _)| exchange::is_reserved_header(name)) {
            H::remove_header(Map::RequestHeaders, name);
        }
        let mut state = self.state.lock();
        state.body_ended = ends;
        let head: usize = headers.iter().map(|(name, value)| name.len().saturating_add(value.len())).sum();
        state.head_bytes = STREAM_BYTES.saturating_add(u64::try_from(head).unwrap_or(u64::MAX));
        let now = self.worker.now();
        let id: EventId = self.worker.new_id(now.wall);
        // The id that Envoy made is replaced, so that the access log, the upstream, the client and the audit trail have one.
        H::set_header(Map::RequestHeaders, exchange::REQUEST_ID, &id.text());
        let Some(policy) = self.worker.policy() else {
            state.gate = Gate::Answered;
            H::reply(exchange::not_ready(id));
            return Action::Pause;
        };
        let (exchange, step) = Exchange::begin(policy, id, &headers, ends, now);
        state.exchange = Some(exchange);
        advance(&self.worker, self.id, &mut state, step, now);
        if state.gate == Gate::Held {
            // Register the stream, so that a later ledger answer can wake it.
            let waiting = Arc::downgrade(&self.state);
            self.worker.enter(self.id, waiting);
        }
        Stream::<H>::action(&state)
    }

    /// A part of the request's body has arrived. `bytes` counts what is held, with this part.
    pub fn request_body(&self, bytes: usize, ends: bool) -> Action {
        let mut state = self.state.lock();
        state.body_ended |= ends;
        if state.gate == Gate::Held {
            state.body_bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        }
        self.body_arrived(&mut state)
    }

    /// The trailers of the request have arrived.
    pub fn request_trailers(&self) -> Action {
        let map = H::headers(Map::RequestTrailers);
        for (name, _) in map.pairs().iter().filter(|(name, _)| exchange::is_reserved_trailer(name)) {
            H::remove_header(Map::RequestTrailers, name);
        }
        let mut state = self.state.lock();
        // If the request has trailers, the body callback never gets the end of the stream.
        state.body_ended = true;
        self.body_arrived(&mut state)
    }

    /// The headers of the response have arrived. `ends` means that nothing follows.
    pub fn response_headers(&self, ends: bool) -> Action {
        let state = &mut *self.state.lock();
        state.response_ended = ends;
        let Some(exchange) = &mut state.exchange else { return Action::Continue };
        if state.gate == Gate::Answered {
            // If a body was held, Envoy may have refused the request itself before the gate's answer was sent.
            let is_envoys = |status| exchange.is_answered_by_envoy(status, is_from_upstream::<H>);
            if state.body_bytes == 0 || !H::status().is_some_and(is_envoys) {
                return Action::Continue;
            }
        }
        read_windows(&self.worker, exchange);
        const KIND: Map = Map::ResponseHeaders;
        let map = exchange.reads_response_headers().then(|| H::headers(KIND));
        let headers = map.as_ref().map(H::Headers::pairs).unwrap_or_default();
        let status = match headers.iter().find(|(name, _)| *name == b":status") {
            Some((_, status)) => read_status(status),
            None => H::status(),
        };
        let (status, now) = (status.unwrap_or(0), self.worker.now());
        let plan = if exchange.is_answered_by_envoy(status, is_from_upstream::<H>) {
            exchange.answered_by_envoy(status, state.body_ended, ends, now)
        } else {
            exchange.response_headers(status, &headers, ends, now)
        };
        for (name, value) in plan.set.iter() {
            match value {
                "" => H::remove_header(Map::ResponseHeaders, name.as_bytes()),
                _ => H::set_header(Map::ResponseHeaders, name, value),
            }
        }
        let (response, action) = match plan.body {
            BodyPlan::Pass => (Response::Pass, Action::Continue),
            BodyPlan::Watch => (Response::Watch, Action::Continue),
            BodyPlan::Hold => (Response::Hold, Action::Pause),
            BodyPlan::Rewrite => (Response::Rewrite, Action::Continue),
            BodyPlan::Replace(bytes) => {
                state.body = bytes;
                (Response::Replace, Action::Continue)
            }
            BodyPlan::Refuse(reply) => {
                H::reply(reply);
                state.response_ended = true;
                (Response::Pass, Action::Pause)
            }
        };
        if matches!(response, Response::Hold | Response::Rewrite) {
            // The body length changes; with the old value the client would wait for bytes that never come.
            H::remove_header(Map::ResponseHeaders, b"content-length");
        }
        state.response = response;
        action
    }

    /// A part of the response's body has arrived, of `bytes` bytes.
    pub fn response_body(&self, bytes: usize, ends: bool) -> Action {
        let state = &mut *self.state.lock();
        state.response_ended |= ends;
        let response = state.response;
        if response == Response::Replace {
            let bytes = std::mem::take(&mut state.body);
            // If the replacement fails, the client gets Envoy's own text, which contains no secret.
            let _ = H::replace_body(Body::Response, &bytes);
        }
        let Some(exchange) = &mut state.exchange else { return Action::Continue };
        if bytes > 0 {
            exchange.body_arrived();
        }
        match response {
            Response::Pass | Response::Replace => {}
            Response::Refused => {
                // Drop what still arrives: if Envoy's buffer fills up, Envoy sends its own answer instead of the filter's.
                let _ = H::replace_body(Body::Response, b"");
                return Action::Pause;
            }
            Response::Watch if bytes > 0 => exchange.watch(&H::body(Body::Response)),
            Response::Watch => {}
            Response::Hold => {
                if bytes > 0 {
                    // Keep the body here, not in Envoy's buffer: when that is full, Envoy sends its own answer and tells no filter.
                    state.body.extend_from_slice(&H::body(Body::Response));
                    let _ = H::replace_body(Body::Response, b"");
                }
                if ends || state.body.len() > exchange::HELD_BYTES_MAX {
                    let action = filter_held(&self.worker, exchange, &std::mem::take(&mut state.body));
                    if action == Action::Pause {
                        state.response = Response::Refused;
                    }
                    return action;
                }
                return Action::Pause;
            }
            Response::Rewrite => {
                let chunk = if bytes > 0 { H::body(Body::Response) } else { Vec::new() };
                exchange.watch(&chunk);
                match exchange.filter_chunk(&chunk, ends, self.worker.now()) {
                    Ok(passed) if passed == chunk => {}
                    Ok(passed) if H::replace_body(Body::Response, &passed).is_ok() => {}
                    // A chunk that can't be filtered must not reach the client.
                    Ok(_) | Err(_) => {
                        let _ = H::replace_body(Body::Response, b"");
                        H::reset_response();
                        return Action::Pause;
                    }
                }
            }
        }
        Action::Continue
    }

    /// The trailers of the response have arrived.
    pub fn response_trailers(&self) -> Action {
        let state = &mut *self.state.lock();
        state.response_ended = true;
        match &mut state.exchange {
            Some(exchange) if state.response == Response::Hold => {
                filter_held(&self.worker, exchange, &std::mem::take(&mut state.body))
            }
            _ => Action::Continue,
        }
    }

    /// The exchange is over, and its access log is about to be written.
    pub fn ended(&self) {
        let mut state = self.state.lock();
        release_held_bytes(&self.worker, &mut state);
        let Some(mut exchange) = state.exchange.take() else { return };
        let end = end_of::<H>(&exchange, state.response_ended);
        self.worker.leave(self.id);
        let now = self.worker.now();
        self.worker.end_uses(&mut exchange, end, now.monotonic);
        let finished = exchange.finish_all(end, &self.worker.node(), now);
        for finished in finished.into_iter().rev() {
            self.record(finished, now);
        }
    }
}

impl<H: Host> Stream<H> {
    /// Records a finished exchange. For a batch, the access log shows the first message.
    fn record(&self, finished: Finished, now: Now) {
        let decision = &finished.decision;
        H::set_log_field("agentrelay_outcome", decision.outcome.as_str());
        if let Some(key_id) = &decision.key_id {
            H::set_log_field("agentrelay_key_id", key_id.as_str());
        }
        if let Some(tool) = &decision.tool {
            H::set_log_field("agentrelay_tool", tool);
        }
        self.worker.metrics().decision(decision.outcome);
        self.worker.finished(finished, now);
    }
}

impl<H: Host> Waiting<H> for Locked<State> {
    /// All callbacks have returned Pause so far, so Envoy must be told to resume if the request is now allowed.
    fn resume(&self, worker: &Worker<H>, stream_id: u32, event: Event<H>) {
        let state = &mut *self.lock();
        let Some(exchange) = &mut state.exchange else { return };
        let step = event(exchange, worker);
        if state.gate == Gate::Held {
            advance(worker, stream_id, state, step, worker.now());
            if state.gate == Gate::Released {
                H::resume_request();
            }
        }
    }
}

/// Runs steps until the exchange is decided or must wait.
fn advance<H: Host>(worker: &Worker<H>, id: u32, state: &mut State, mut step: Step, now: Now) {
    while let Some(next) = carry_out(worker, id, state, step, now) {
        step = next;
    }
    if state.gate != Gate::Held {
        release_held_bytes(worker, state);
    }
}

/// Runs one step and returns the next; `None` if there is nothing more to do for now.
fn carry_out<H: Host>(worker: &Worker<H>, id: u32, state: &mut State, step: Step, now: Now) -> Option<Step> {
    let exchange = state.exchange.as_mut()?;
    match step {
        Step::FindKey(hash) => match worker.look_up(hash, id, now.monotonic) {
            Lookup::Found(key) => Some(exchange.key_found(key, now)),
            Lookup::NotFound(why) => Some(exchange.key_not_found(why, &worker.fleet(false), now)),
            Lookup::Waiting => None,
        },
        Step::ReadBody { bytes_max } => {
            state.reading = Some(bytes_max);
            read_body(worker, state, now)
        }
        Step::Admit(request) => {
            let key = exchange.key()?.clone();
            Some(exchange.admission_answered(worker.admit(id, &key, request)))
        }
        Step::AskWindows { asks, is_unavailable } => {
            let fleet = worker.fleet(is_unavailable);
            Some(match windows::ask(&asks, &fleet, now.monotonic, worker.metrics()) {
                Ok(verdicts) => {
                    let expiring = windows::expiring_shares(&asks, &verdicts);
                    if let (false, Some(key)) = (expiring.is_empty(), exchange.key()) {
                        worker.renew_shares(key, &expiring, id);
                    }
                    exchange.windows_asked(&verdicts)
                }
                Err(windows::Unavailable) => exchange.windows_failed(),
            })
        }
        Step::AskShares { rules } => match worker.ask_shares(&exchange.key()?.clone(), &rules, id) {
            Shares::Waiting => None,
            Shares::Answered(answer) => Some(exchange.shares_answered(answer)),
        },
        Step::Spend(spending) => {
            let lease = worker.spend(&exchange.key()?.clone(), &spending, id, now.monotonic);
            Some(exchange.spent(lease))
        }
        Step::Reserve(request) => match worker.reserve(&request, id) {
            Ok(()) => None,
            Err(_) => Some(exchange.reserve_answered(ReserveAnswered::Unavailable)),
        },
        Step::Issue(request) => match worker.issue(&request, id) {
            Ok(()) => None,
            Err(_) => Some(exchange.issue_answered(IssueAnswered::Unavailable)),
        },
        Step::Forward { body } => {
            for name in exchange.headers_to_remove() {
                H::remove_header(Map::RequestHeaders, name.as_bytes());
            }
            for (name, value) in exchange.headers_to_set() {
                H::set_header(Map::RequestHeaders, name, &value);
            }
            for (reservation_id, ttl_seconds) in exchange.reservations() {
                worker.watch_reservation(reservation_id, ttl_seconds);
            }
            worker.begin_uses(exchange, now.monotonic);
            if let Some(body) = body {
                if H::replace_body(Body::Request, &body).is_err() {
                    // Otherwise the original body, with its refused messages, would go upstream.
                    state.gate = Gate::Answered;
                    H::reply(exchange::not_ready(exchange.id()));
                    return None;
                }
                H::set_header(Map::RequestHeaders, "content-length", &body.len().to_string());
            }
            state.gate = Gate::Released;
            None
        }
        Step::Refuse(mut reply) => {
            state.gate = Gate::Answered;
            state.response_ended = true;
            if !reply.has_rate_headers {
                read_windows(worker, exchange);
                exchange.complete(&mut reply);
            }
            H::reply(reply);
            None
        }
    }
}

/// Reads the windows that the rate headers tell of, if no step has done so.
fn read_windows<H: Host>(worker: &Worker<H>, exchange: &mut Exchange) {
    if let Some(asks) = exchange.windows_to_read()
        && let Ok(verdicts) = windows::peek(&asks, &worker.fleet(false), worker.metrics())
    {
        exchange.windows_read(&asks, &verdicts);
    }
}

/// Checks a body that is held for a decision: rejects it if it is too large, passes it on once it is complete.
fn read_body<H: Host>(worker: &Worker<H>, state: &mut State, now: Now) -> Option<Step> {
    let bytes_max = state.reading?;
    let exchange = state.exchange.as_mut()?;
    if state.body_bytes > u64::from(bytes_max) {
        return Some(exchange.body_too_large(bytes_max));
    }
    let fingerprint = exchange.key()?.fingerprint;
    let holds = state.head_bytes.saturating_add(state.body_bytes);
    if !worker.hold(fingerprint, state.held, holds) {
        return Some(exchange.too_many_bytes_held(BODY_SECONDS_MAX));
    }
    state.held = holds;
    if !state.body_ended {
        return None;
    }
    state.reading = None;
    let body = if state.body_bytes > 0 { H::body(Body::Request) } else { Vec::new() };
    Some(exchange.body(&body, now))
}

/// Releases the bytes that the stream counted against its key.
fn release_held_bytes<H: Host>(worker: &Worker<H>, state: &mut State) {
    if let Some(key) = state.exchange.as_ref().and_then(Exchange::key).filter(|_| state.held > 0) {
        worker.hold(key.fingerprint, state.held, 0);
        state.held = 0;
    }
}

/// Forwards the part of a held response that the key may see.
fn filter_held<H: Host>(worker: &Worker<H>, exchange: &mut Exchange, body: &[u8]) -> Action {
    match exchange.filter_whole(body, worker.now()) {
        Ok(filtered) => {
            let seen = filtered.as_deref().unwrap_or(body);
            if H::replace_body(Body::Response, seen).is_err() {
                H::reset_response();
                return Action::Pause;
            }
            H::set_header(Map::ResponseHeaders, "content-length", &seen.len().to_string());
            Action::Continue
        }
        Err(reply) => {
            H::reply(reply);
            Action::Pause
        }
    }
}

/// True if the response came from the upstream, false if Envoy generated it.
fn is_from_upstream<H: Host>() -> bool {
    H::code_details().is_none_or(|details| details == b"via_upstream")
}

/// How an exchange ended. An interrupted response counts as an upstream failure only if Envoy reports one: a client
/// that disconnects, or one of Envoy's own limits, must not make the call free.
fn end_of<H: Host>(exchange: &Exchange, response_ended: bool) -> End {
    // Envoy sets this address as soon as it has a connection on which to send the request.
    if exchange.may_not_be_sent() && !H::has_upstream_connection() {
        return End::NotSent;
    }
    if response_ended {
        return End::Complete;
    }
    let details = H::code_details().unwrap_or_default();
    if details.starts_with(b"upstream_reset") { End::UpstreamFailed } else { End::ClientDisconnected }
}
