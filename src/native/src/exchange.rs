//! One HTTP exchange, as Envoy calls it.
//!
//! Until the exchange is decided, every request entry stops the iteration. A panic ends the exchange: the request is
//! answered with 503, or the response is reset, and nothing passes any more.

use crate::abi::{self, EnvoyExchange};
use crate::current::{self, Current, Deferred};
use crate::envoy::Envoy;
use crate::inbox::Inbox;
use crate::runtime::{Attached, Runtime};
use gate::{Action, Body, Host, Locked, Worker};
use policy::exchange::{Reply, not_ready};
use protocol::EventId;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// What an entry returns to Envoy.
const CONTINUE: u32 = 0;
const STOP: u32 = 1;
const STOP_AND_DROP: u32 = 3;

/// Where the gate's code is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    RequestHeaders,
    RequestBody,
    RequestTrailers,
    ResponseHeaders,
    ResponseBody,
    ResponseTrailers,
    Scheduled,
}

impl Place {
    fn arriving(self) -> Option<Body> {
        match self {
            Place::RequestBody => Some(Body::Request),
            Place::ResponseBody => Some(Body::Response),
            _ => None,
        }
    }

    #[cfg(feature = "faults")]
    fn name(self) -> &'static str {
        match self {
            Place::RequestHeaders => "request headers",
            Place::RequestBody => "request body",
            Place::RequestTrailers => "request trailers",
            Place::ResponseHeaders => "response headers",
            Place::ResponseBody => "response body",
            Place::ResponseTrailers => "response trailers",
            Place::Scheduled => "scheduled",
        }
    }
}

/// One exchange.
pub struct Exchange {
    id: u32,
    gate: gate::Stream<Envoy>,
    runtime: Arc<Runtime>,
    worker: Arc<Worker<Envoy>>,
    inbox: Option<Arc<Inbox>>,
    /// The gate has answered, so nothing of the request passes.
    is_answered: AtomicBool,
    is_broken: AtomicBool,
    has_ended: AtomicBool,
    /// Why Envoy itself has answered.
    details: Locked<Option<Vec<u8>>>,
}

impl Exchange {
    /// Begins an exchange. `None` if its worker is not known.
    pub fn new(attached: &Attached, envoy: EnvoyExchange) -> Option<Exchange> {
        static IDS: AtomicU32 = AtomicU32::new(0);
        let runtime = attached.runtime.clone();
        let worker = runtime.worker(envoy.worker_index())?;
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        let inbox = envoy.scheduler().map(|scheduler| Inbox::open(worker.id(), id, scheduler));
        Some(Exchange {
            id,
            gate: gate::Stream::new(id, worker.clone()),
            runtime,
            worker,
            inbox,
            is_answered: AtomicBool::new(false),
            is_broken: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            details: Locked::new(None),
        })
    }

    /// Runs the gate's code, then does what it has asked for. `None` after a panic, now or before.
    fn run<Answer>(
        &self,
        envoy: EnvoyExchange,
        place: Place,
        work: impl FnOnce(&gate::Stream<Envoy>) -> Answer,
    ) -> Option<Answer> {
        if self.is_broken.load(Ordering::Relaxed) {
            return None;
        }
        let current = Some(Current { envoy, arriving: place.arriving() });
        let details = self.details.lock().clone();
        let (answer, deferred) = current::run(current, details, || {
            abi::caught(|| {
                #[cfg(feature = "faults")]
                crate::faults::at(place.name());
                work(&self.gate)
            })
        });
        if answer.is_none() {
            self.is_broken.store(true, Ordering::Relaxed);
        }
        for deferred in deferred {
            match deferred {
                Deferred::Call(_) => self.runtime.put_off(deferred),
                // What a panic has interrupted is not done: the request is refused. After a reset there is nothing left to do it with.
                _ if answer.is_none() || self.has_ended.load(Ordering::Relaxed) => {}
                Deferred::Reply(reply) => self.reply(envoy, &reply),
                Deferred::Resume => envoy.resume(),
                Deferred::Reset => envoy.reset(),
            }
        }
        answer
    }

    fn reply(&self, envoy: EnvoyExchange, reply: &Reply) {
        self.is_answered.store(true, Ordering::Relaxed);
        envoy.reply(reply);
    }

    /// Runs a request entry.
    fn request(
        &self,
        envoy: EnvoyExchange,
        place: Place,
        work: impl FnOnce(&gate::Stream<Envoy>) -> Action,
    ) -> u32 {
        match self.run(envoy, place, work) {
            Some(Action::Continue) => CONTINUE,
            Some(Action::Pause) => STOP,
            None => {
                if !self.is_answered.load(Ordering::Relaxed) && !self.has_ended.load(Ordering::Relaxed) {
                    let id: EventId = self.worker.new_id(Envoy::wall_clock());
                    self.reply(envoy, &not_ready(id));
                }
                STOP
            }
        }
    }

    /// Runs a response entry.
    fn response(
        &self,
        envoy: EnvoyExchange,
        place: Place,
        work: impl FnOnce(&gate::Stream<Envoy>) -> Action,
    ) -> u32 {
        // The answer to a request that a panic has ended is the module's own.
        if self.is_broken.load(Ordering::Relaxed) && self.is_answered.load(Ordering::Relaxed) {
            return CONTINUE;
        }
        match self.run(envoy, place, work) {
            Some(Action::Continue) => CONTINUE,
            Some(Action::Pause) => STOP,
            None => {
                if !self.has_ended.load(Ordering::Relaxed) {
                    envoy.reset();
                }
                STOP
            }
        }
    }

    /// The headers of the request have arrived.
    pub fn request_headers(&self, envoy: EnvoyExchange, ends: bool) -> u32 {
        self.request(envoy, Place::RequestHeaders, |gate| gate.request_headers(ends))
    }

    /// A part of the request's body has arrived.
    pub fn request_body(&self, envoy: EnvoyExchange, ends: bool) -> u32 {
        let bytes = envoy.body_size(Body::Request);
        let stop = self.request(envoy, Place::RequestBody, |gate| gate.request_body(bytes, ends));
        if stop == STOP && self.is_answered.load(Ordering::Relaxed) { STOP_AND_DROP } else { stop }
    }

    /// The trailers of the request have arrived.
    pub fn request_trailers(&self, envoy: EnvoyExchange) -> u32 {
        self.request(envoy, Place::RequestTrailers, gate::Stream::request_trailers)
    }

    /// The headers of the response have arrived.
    pub fn response_headers(&self, envoy: EnvoyExchange, ends: bool) -> u32 {
        self.response(envoy, Place::ResponseHeaders, |gate| gate.response_headers(ends))
    }

    /// A part of the response's body has arrived.
    pub fn response_body(&self, envoy: EnvoyExchange, ends: bool) -> u32 {
        let bytes = envoy.body_size(Body::Response);
        self.response(envoy, Place::ResponseBody, |gate| gate.response_body(bytes, ends))
    }

    /// The trailers of the response have arrived.
    pub fn response_trailers(&self, envoy: EnvoyExchange) -> u32 {
        self.response(envoy, Place::ResponseTrailers, gate::Stream::response_trailers)
    }

    /// Envoy itself answers, for this reason.
    pub fn local_reply(&self, details: Vec<u8>) -> u32 {
        self.details.lock().replace(details);
        CONTINUE
    }

    /// Does the work that others left.
    pub fn scheduled(&self, envoy: EnvoyExchange) -> u32 {
        if self.is_broken.load(Ordering::Relaxed) {
            // What was left is done when the exchange ends.
            return STOP;
        }
        let work = self.inbox.as_ref().map(|inbox| inbox.take());
        self.request(envoy, Place::Scheduled, |_| {
            for work in work.unwrap_or_default() {
                work();
            }
            Action::Pause
        })
    }

    /// The exchange is over, and its access log is about to be written.
    pub fn complete(&self, envoy: EnvoyExchange) -> u32 {
        self.end(Some(envoy));
        CONTINUE
    }

    /// Envoy destroys the exchange.
    pub fn destroy(&self) {
        self.end(None);
    }

    /// Ends the exchange once: does what others left for it, then lets the gate record it. What that asks of Envoy comes too
    /// late, but for calls to the ledger.
    fn end(&self, envoy: Option<EnvoyExchange>) {
        if self.has_ended.swap(true, Ordering::Relaxed) {
            return;
        }
        let work = self.inbox.as_ref().map(|inbox| inbox.close(self.worker.id(), self.id));
        let current = envoy.map(|envoy| Current { envoy, arriving: None });
        let details = self.details.lock().clone();
        let (_, deferred) = current::run(current, details, || {
            abi::caught(|| {
                for work in work.unwrap_or_default() {
                    work();
                }
            });
            let ended = abi::caught(|| {
                #[cfg(feature = "faults")]
                crate::faults::at("end");
                self.gate.ended();
            });
            if ended.is_none() {
                self.worker.leave(self.id);
            }
        });
        deferred.into_iter().for_each(|deferred| self.runtime.put_off(deferred));
    }
}
