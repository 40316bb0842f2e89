//! One HTTP exchange: handles its Envoy callbacks and runs the steps of its state machine.
//!
//! Until the exchange is decided, every request callback must return Pause, because a single Continue sends the held
//! headers upstream (see `allow_on_headers_stop_iteration`). A request is either forwarded or answered, never both.

use crate::host;
use crate::windows;
use crate::worker::{Event, Lookup, Shares, Waiting, Worker};
use policy::exchange::{self, BodyPlan, End, Exchange, Finished, IssueAnswered, Now, ReserveAnswered, Step};
use protocol::EventId;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, BufferType, MapType};
use std::cell::RefCell;
use std::rc::Rc;

/// How long a request's body may take to arrive; equals `request_timeout` in envoy.yaml. A key that holds too many
/// bytes is told to retry after this time, because all its held requests are decided by then.
const BODY_SECONDS_MAX: u64 = 30;

/// Memory that Envoy uses for a stream besides its headers and body (measured, approximate).
const STREAM_BYTES: u64 = 8 << 10;

/// The context of one stream.
pub struct Stream {
    id: u32,
    worker: Rc<Worker>,
    state: Rc<RefCell<State>>,
}

/// The state of one stream.
#[derive(Default)]
pub struct State {
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
    /// The filter's own reply already has its rate limit headers, so the response callback adds nothing.
    is_answered_whole: bool,
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

impl Stream {
    /// Creates the context of a stream that Envoy has just opened.
    pub fn new(id: u32, worker: Rc<Worker>) -> Stream {
        Stream { id, worker, state: Rc::default() }
    }

    /// Processes the request body received so far and returns the action for the callback.
    fn body_arrived(&self, state: &mut State) -> Action {
        if state.gate == Gate::Held {
            let now = self.worker.now();
            if let Some(step) = read_body(&self.worker, state, now) {
                advance(&self.worker, self.id, state, step, now);
            }
        }
        Stream::action(state)
    }

    /// The action that a request callback returns.
    fn action(state: &State) -> Action {
        match state.gate {
            Gate::Released => Action::Continue,
            Gate::Held | Gate::Answered => Action::Pause,
        }
    }
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _count: usize, ends: bool) -> Action {
        let map = host::header_map(MapType::HttpRequestHeaders);
        let headers = map.pairs();
        for (name, _) in headers.iter().filter(|(name, _)| exchange::is_reserved_header(name)) {
            host::remove_header(MapType::HttpRequestHeaders, name);
        }
        let mut state = self.state.borrow_mut();
        state.body_ended = ends;
        let head: usize = headers.iter().map(|(name, value)| name.len().saturating_add(value.len())).sum();
        state.head_bytes = STREAM_BYTES.saturating_add(u64::try_from(head).unwrap_or(u64::MAX));
        let now = self.worker.now();
        let id: EventId = self.worker.new_id(now.wall);
        // The id that Envoy made is replaced, so that the access log, the upstream, the client and the audit trail have one.
        host::set_header(MapType::HttpRequestHeaders, exchange::REQUEST_ID, &id.text());
        let Some(policy) = self.worker.policy() else {
            state.gate = Gate::Answered;
            host::reply(&exchange::not_ready(id));
            return Action::Pause;
        };
        let (exchange, step) = Exchange::begin(policy, id, &headers, ends, now);
        state.exchange = Some(exchange);
        advance(&self.worker, self.id, &mut state, step, now);
        if state.gate == Gate::Held {
            // Register the stream, so that a later ledger answer can wake it.
            let waiting = Rc::downgrade(&self.state);
            self.worker.enter(self.id, waiting);
        }
        Stream::action(&state)
    }

    fn on_http_request_body(&mut self, bytes: usize, ends: bool) -> Action {
        let mut state = self.state.borrow_mut();
        state.body_ended |= ends;
        if state.gate == Gate::Held {
            state.body_bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        }
        self.body_arrived(&mut state)
    }

    fn on_http_request_trailers(&mut self, _count: usize) -> Action {
        let map = host::header_map(MapType::HttpRequestTrailers);
        for (name, _) in map.pairs().iter().filter(|(name, _)| exchange::is_reserved_trailer(name)) {
            host::remove_header(MapType::HttpRequestTrailers, name);
        }
        let mut state = self.state.borrow_mut();
        // If the request has trailers, the body callback never gets the end of the stream.
        state.body_ended = true;
        self.body_arrived(&mut state)
    }

    fn on_http_response_headers(&mut self, _count: usize, ends: bool) -> Action {
        let state = &mut *self.state.borrow_mut();
        state.response_ended = ends;
        // If a body was held, Envoy may have refused the request itself before the filter's answer was sent.
        if state.gate == Gate::Answered && state.is_answered_whole && state.body_bytes == 0 {
            return Action::Continue;
        }
        let Some(exchange) = &mut state.exchange else { return Action::Continue };
        if let Some(asks) = exchange.windows_to_read()
            && let Ok(verdicts) = windows::peek(&asks, &self.worker.fleet(false), self.worker.metrics())
        {
            exchange.windows_read(&asks, &verdicts);
        }
        const KIND: MapType = MapType::HttpResponseHeaders;
        let map = exchange.reads_response_headers().then(|| host::header_map(KIND));
        let headers = map.as_ref().map(host::HeaderMap::pairs).unwrap_or_default();
        let status = match headers.iter().find(|(name, _)| *name == b":status") {
            Some((_, status)) => host::read_status(status),
            None => host::status(KIND),
        };
        let (status, now) = (status.unwrap_or(0), self.worker.now());
        let plan = if exchange.is_answered_by_envoy(status, is_from_upstream) {
            exchange.answered_by_envoy(status, state.body_ended, ends, now)
        } else {
            exchange.response_headers(status, &headers, ends, now)
        };
        for (name, value) in plan.set.iter() {
            match value {
                "" => host::remove_header(MapType::HttpResponseHeaders, name.as_bytes()),
                _ => host::set_header(MapType::HttpResponseHeaders, name, value),
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
                host::reply(&reply);
                state.response_ended = true;
                (Response::Pass, Action::Pause)
            }
        };
        if matches!(response, Response::Hold | Response::Rewrite) {
            // The body length changes; with the old value the client would wait for bytes that never come.
            host::remove_header(MapType::HttpResponseHeaders, b"content-length");
        }
        state.response = response;
        action
    }

    fn on_http_response_body(&mut self, bytes: usize, ends: bool) -> Action {
        let state = &mut *self.state.borrow_mut();
        state.response_ended |= ends;
        let response = state.response;
        if response == Response::Replace {
            let bytes = std::mem::take(&mut state.body);
            // If the replacement fails, the client gets Envoy's own text, which contains no secret.
            let _ = host::replace_buffer(BufferType::HttpResponseBody, &bytes);
        }
        let Some(exchange) = &mut state.exchange else { return Action::Continue };
        if bytes > 0 {
            exchange.body_arrived();
        }
        match response {
            Response::Pass | Response::Replace => {}
            Response::Refused => {
                // Drop what still arrives: if Envoy's buffer fills up, Envoy sends its own answer instead of the filter's.
                let _ = host::replace_buffer(BufferType::HttpResponseBody, b"");
                return Action::Pause;
            }
            Response::Watch if bytes > 0 => exchange.watch(&host::buffer(BufferType::HttpResponseBody)),
            Response::Watch => {}
            Response::Hold => {
                if bytes > 0 {
                    // Keep the body here, not in Envoy's buffer: when that is full, Envoy sends its own answer and tells no filter.
                    state.body.extend_from_slice(&host::buffer(BufferType::HttpResponseBody));
                    let _ = host::replace_buffer(BufferType::HttpResponseBody, b"");
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
                let chunk = if bytes > 0 { host::buffer(BufferType::HttpResponseBody) } else { Vec::new() };
                exchange.watch(&chunk);
                match exchange.filter_chunk(&chunk, ends, self.worker.now()) {
                    Ok(passed) if passed == chunk => {}
                    Ok(passed) if host::replace_buffer(BufferType::HttpResponseBody, &passed).is_ok() => {}
                    // A chunk that can't be filtered must not reach the client.
                    Ok(_) | Err(_) => {
                        let _ = host::replace_buffer(BufferType::HttpResponseBody, b"");
                        host::reset_response();
                        return Action::Pause;
                    }
                }
            }
        }
        Action::Continue
    }

    fn on_http_response_trailers(&mut self, _count: usize) -> Action {
        let state = &mut *self.state.borrow_mut();
        state.response_ended = true;
        match &mut state.exchange {
            Some(exchange) if state.response == Response::Hold => {
                filter_held(&self.worker, exchange, &std::mem::take(&mut state.body))
            }
            _ => Action::Continue,
        }
    }

    fn on_log(&mut self) {
        let mut state = self.state.borrow_mut();
        release_held_bytes(&self.worker, &mut state);
        let Some(mut exchange) = state.exchange.take() else { return };
        let end = end_of(&exchange, state.response_ended);
        self.worker.leave(self.id);
        let now = self.worker.now();
        self.worker.end_uses(&mut exchange, end, now.monotonic);
        let finished = exchange.finish_all(end, &self.worker.node(), now);
        for finished in finished.into_iter().rev() {
            self.record(finished, now);
        }
    }
}

impl Stream {
    /// Records a finished exchange. For a batch, the access log shows the first message.
    fn record(&self, finished: Finished, now: Now) {
        let decision = &finished.decision;
        host::set_property("agentrelay_outcome", decision.outcome.as_str());
        if let Some(key_id) = &decision.key_id {
            host::set_property("agentrelay_key_id", key_id.as_str());
        }
        if let Some(tool) = &decision.tool {
            host::set_property("agentrelay_tool", tool);
        }
        self.worker.metrics().decision(decision.outcome);
        self.worker.finished(finished, now);
    }
}

impl Waiting for RefCell<State> {
    /// All callbacks have returned Pause so far, so Envoy must be told to resume if the request is now allowed.
    fn resume(&self, worker: &Worker, stream_id: u32, event: Event<'_>) {
        let state = &mut *self.borrow_mut();
        let Some(exchange) = &mut state.exchange else { return };
        let step = event(exchange);
        if state.gate == Gate::Held {
            advance(worker, stream_id, state, step, worker.now());
            if state.gate == Gate::Released {
                host::resume_request();
            }
        }
    }
}

/// Runs steps until the exchange is decided or must wait.
fn advance(worker: &Worker, id: u32, state: &mut State, mut step: Step, now: Now) {
    while let Some(next) = carry_out(worker, id, state, step, now) {
        step = next;
    }
    if state.gate != Gate::Held {
        release_held_bytes(worker, state);
    }
}

/// Runs one step and returns the next; `None` if there is nothing more to do for now.
fn carry_out(worker: &Worker, id: u32, state: &mut State, step: Step, now: Now) -> Option<Step> {
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
                host::remove_header(MapType::HttpRequestHeaders, name.as_bytes());
            }
            for (name, value) in exchange.headers_to_set() {
                host::set_header(MapType::HttpRequestHeaders, name, &value);
            }
            for (reservation_id, ttl_seconds) in exchange.reservations() {
                worker.watch_reservation(reservation_id, ttl_seconds);
            }
            worker.begin_uses(exchange, now.monotonic);
            if let Some(body) = body {
                if host::replace_buffer(BufferType::HttpRequestBody, &body).is_err() {
                    // Otherwise the original body, with its refused messages, would go upstream.
                    state.gate = Gate::Answered;
                    host::reply(&exchange::not_ready(exchange.id()));
                    return None;
                }
                host::set_header(MapType::HttpRequestHeaders, "content-length", &body.len().to_string());
            }
            state.gate = Gate::Released;
            None
        }
        Step::Refuse(reply) => {
            state.gate = Gate::Answered;
            state.is_answered_whole = reply.has_rate_headers;
            host::reply(&reply);
            None
        }
    }
}

/// Checks a body that is held for a decision: rejects it if it is too large, passes it on once it is complete.
fn read_body(worker: &Worker, state: &mut State, now: Now) -> Option<Step> {
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
    let body = if state.body_bytes > 0 { host::buffer(BufferType::HttpRequestBody) } else { Vec::new() };
    Some(exchange.body(&body, now))
}

/// Releases the bytes that the stream counted against its key.
fn release_held_bytes(worker: &Worker, state: &mut State) {
    if let Some(key) = state.exchange.as_ref().and_then(Exchange::key).filter(|_| state.held > 0) {
        worker.hold(key.fingerprint, state.held, 0);
        state.held = 0;
    }
}

/// Forwards the part of a held response that the key may see.
fn filter_held(worker: &Worker, exchange: &mut Exchange, body: &[u8]) -> Action {
    match exchange.filter_whole(body, worker.now()) {
        Ok(filtered) => {
            let seen = filtered.as_deref().unwrap_or(body);
            if host::replace_buffer(BufferType::HttpResponseBody, seen).is_err() {
                host::reset_response();
                return Action::Pause;
            }
            host::set_header(MapType::HttpResponseHeaders, "content-length", &seen.len().to_string());
            Action::Continue
        }
        Err(reply) => {
            host::reply(&reply);
            Action::Pause
        }
    }
}

/// True if the response came from the upstream, false if Envoy generated it.
fn is_from_upstream() -> bool {
    host::property(&["response", "code_details"]).is_none_or(|details| details == b"via_upstream")
}

/// How an exchange ended. An interrupted response counts as an upstream failure only if Envoy reports one: a client
/// that disconnects, or one of Envoy's own limits, must not make the call free.
fn end_of(exchange: &Exchange, response_ended: bool) -> End {
    // Envoy sets this address as soon as it has a connection on which to send the request.
    if exchange.may_not_be_sent() && host::property(&["upstream", "local_address"]).is_none() {
        return End::NotSent;
    }
    if response_ended {
        return End::Complete;
    }
    let details = host::property(&["response", "code_details"]).unwrap_or_default();
    if details.starts_with(b"upstream_reset") { End::UpstreamFailed } else { End::ClientDisconnected }
}
