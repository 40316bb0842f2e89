//! One HTTP exchange as a state machine: events in, [`Step`]s out.
//!
//! The filter calls one method for each event and carries out the step that it returns. The filter itself decides
//! nothing. Refusals are checked in this order: 401, 429 (key), 400, 404, 403 (scope, then tier), 429 (tool), 402, 503.
//!
//! All checks that need no window come first. Then all windows are asked at once, so that a decision costs one
//! compare-and-swap and the `retry-after` of a refusal takes every window into account.

mod admission;
mod batch;
mod charge;
mod classify;
mod fields;
mod gate_tools;
mod ids;
mod limits;
mod quota;
mod refusal;
mod request;
mod response;
mod session;

pub use admission::{AdmissionAnswered, AdmissionRequest, CallId, Work};
pub use charge::{Refund, Spending};
pub use fields::Fields;
pub use gate_tools::IssueAnswered;
pub use limits::SharesAnswered;
pub use refusal::Reply;
pub use request::{is_reserved_header, is_reserved_trailer};
pub use response::{BodyPlan, End, Finished, HELD_BYTES_MAX, ResponsePlan};

use crate::authorize::Denial;
use crate::credential::{Carrier, Headers};
use crate::document::{OnLedgerOutage, Refusals};
use crate::ids_in_use::Use;
use crate::key::Key;
use crate::limit::LimitRule;
use crate::mcp::list::Page;
use crate::rules::{Help, Policy, Service, ServiceKind};
use crate::window::slot::{Ask, Stage};
use crate::window::{Fleet, Monotonic, Verdict};
use batch::Batch;
use charge::Charge;
use classify::Classified;
use gate_tools::GateCall;
use limits::Rounds;
use protocol::api_key::KeyHash;
use protocol::audit::Outcome;
use protocol::filter::{IssueRequest, ReserveRequest};
use protocol::reason::{Reason, Shortfall};
use protocol::{Credits, EventId, LeaseId, ReservationId, Timestamp};
use quota::Quota;
use refusal::Refusal;
use request::Request;
use session::Session;
use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;

/// The two clocks, read once for each event.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// The date, for expiries and audit. It may jump when the clock is set.
    pub wall: Timestamp,
    /// For windows and durations. It never jumps.
    pub monotonic: Monotonic,
}

/// What the filter must do next.
#[derive(Debug)]
pub enum Step {
    /// Find the key record with this hash, then call [`Exchange::key_found`] or [`Exchange::key_not_found`].
    FindKey(KeyHash),
    /// Buffer the body up to `bytes_max`, then call [`Exchange::body`] or [`Exchange::body_too_large`].
    ReadBody {
        /// The most bytes to buffer.
        bytes_max: u32,
    },
    /// Ask the worker whether it admits the request, then call [`Exchange::admission_answered`].
    Admit(AdmissionRequest),
    /// Ask all windows of the key at once, then call [`Exchange::windows_asked`] or [`Exchange::windows_failed`].
    AskWindows {
        /// The asks, one for each limit.
        asks: Vec<Ask>,
        /// The ledger did not answer an ask for shares just now.
        is_unavailable: bool,
    },
    /// Ask the ledger for a larger share of these global limits, then call [`Exchange::shares_answered`].
    AskShares {
        /// The limits whose shares are used up.
        rules: Vec<LimitRule>,
    },
    /// Pay from one of the tenant's leases, then call [`Exchange::spent`].
    Spend(Spending),
    /// Ask the ledger for a reservation, then call [`Exchange::reserve_answered`].
    Reserve(ReserveRequest),
    /// Ask the ledger to issue a key, then call [`Exchange::issue_answered`].
    Issue(IssueRequest),
    /// Remove [`Exchange::headers_to_remove`], set [`Exchange::headers_to_set`], and send the request upstream.
    Forward {
        /// The body to send instead of the client's; `None` keeps it.
        body: Option<Vec<u8>>,
    },
    /// Send this reply to the client; nothing goes upstream.
    Refuse(Reply),
}

/// Why there is no key record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyNotFound {
    /// The ledger does not know the hash.
    Unknown,
    /// The filter had to ask the ledger, and the ledger did not answer.
    Unavailable,
}

/// How the ledger answered a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReserveAnswered {
    /// The credits are reserved.
    Reserved,
    /// There are not enough credits; with what is left, if the ledger said so.
    QuotaExceeded(Option<Shortfall>),
    /// The key is no longer active.
    KeyInactive,
    /// There was no valid answer. It is unknown whether credits are reserved.
    Unavailable,
}

/// One HTTP exchange: a request and its response.
#[derive(Debug)]
pub struct Exchange {
    policy: Arc<Policy>,
    id: EventId,
    began: Now,
    request: Request,
    key: Option<Arc<Key>>,
    carrier: Option<Carrier>,
    credential: Option<KeyHash>,
    service: Option<usize>,
    session: Session,
    /// The JSON-RPC id exactly as the client wrote it; answers echo it.
    message_id: Option<String>,
    /// The use of this id, if the request is in a session.
    used: Option<Use>,
    /// Another request may have used the id, so what the upstream sends proves nothing.
    is_doubted: bool,
    subject: Subject,
    quotas: Vec<Quota>,
    would_deny: RefCell<Option<Box<Refusal>>>,
    /// The rule that refused the request, until the exchange is finished.
    reason: RefCell<Option<Box<Reason>>>,
    phase: Phase,
    response: response::Progress,
    /// Set if the body is a batch: each of its messages is an exchange of its own.
    batch: Option<Box<Batch>>,
    /// This exchange is one message of a batch, so its answer becomes part of the batch's answer.
    is_batch_message: bool,
}

/// What the request is about.
#[derive(Debug, Default)]
enum Subject {
    /// Not recognised, or not classified yet.
    #[default]
    Unknown,
    /// A tool that the policy lists or covers by its rule for unlisted tools.
    Tool(ToolCall),
    /// One of the gate's own tools.
    Gate(GateCall),
    /// A message, stream or session of the protocol, by name.
    Protocol { name: String, lists: Option<Lists> },
}

/// What kind of list the answer contains, if the gate must filter it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lists {
    /// Tools. The page says whether the gate adds its own tools.
    Tools(Page),
    /// Prompts, resources, or a page of tools to which the gate adds none of its own.
    Others,
}

#[derive(Debug)]
struct ToolCall {
    name: String,
    price: Credits,
    on_ledger_outage: OnLedgerOutage,
    /// The call is paid from a lease if there is one.
    is_leased: bool,
    /// The tool is an HTTP route, so the HTTP status tells whether the call failed.
    is_http: bool,
    /// The credits are refunded if it is unknown whether the call succeeded.
    refunds_unknown: bool,
    /// The highest cost that the upstream may report; `None` if its report is ignored.
    cost_max: Option<Credits>,
}

#[derive(Debug)]
enum Phase {
    FindingKey,
    ReadingBody,
    /// Waiting for the windows. `refusal` applies only if the key's own windows admit the request.
    AskingWindows {
        asks: Vec<Ask>,
        /// Verdicts of the first asks. These have already taken their permits and are not asked again.
        verdicts: Vec<Verdict>,
        refusal: Option<Refusal>,
        rounds: Rounds,
        /// The ledger did not answer an ask for shares.
        is_unavailable: bool,
    },
    Reserving,
    Issuing,
    Forwarded(Charge),
    Refused(Outcome),
}

/// Holds the request's id, in requests to upstreams and in every response.
pub const REQUEST_ID: &str = "x-request-id";

/// The answer before the gate has a policy: from its start until it first reaches the ledger.
pub fn not_ready(id: EventId) -> Reply {
    let mut reply = Refusal::ledger_unavailable().reply(Refusals::Http, None, false, id, &Help::default());
    quota::add_headers(&mut reply.headers, &[], false);
    reply.headers.push(REQUEST_ID, &id.text());
    reply
}

impl Exchange {
    /// The request headers have arrived. `headers` includes the pseudo headers; `ends` means that no body follows.
    pub fn begin(
        policy: Arc<Policy>,
        id: EventId,
        headers: &Headers<'_>,
        ends: bool,
        now: Now,
    ) -> (Exchange, Step) {
        let (request, credentials) = Request::read(headers, ends);
        let service = policy.service_for(&request.host, request.path());
        let mut exchange = Exchange {
            policy,
            id,
            began: now,
            request,
            key: None,
            carrier: None,
            credential: None,
            service,
            session: Session::None,
            message_id: None,
            used: None,
            is_doubted: false,
            subject: Subject::Unknown,
            quotas: Vec::new(),
            would_deny: RefCell::default(),
            reason: RefCell::default(),
            phase: Phase::FindingKey,
            response: response::Progress::default(),
            batch: None,
            is_batch_message: false,
        };
        if exchange.request.method == b"GET"
            && let Some(metadata) = exchange.asked_metadata()
        {
            exchange.phase = Phase::Refused(Outcome::Allowed);
            return (exchange, Step::Refuse(refusal::metadata(&metadata)));
        }
        let step = match credentials.find() {
            Ok((hash, carrier)) => {
                exchange.carrier = Some(carrier);
                exchange.credential = Some(hash);
                Step::FindKey(hash)
            }
            Err(fault) => exchange.refuse(Refusal::credential(fault)),
        };
        (exchange, step)
    }

    /// The key record was found.
    pub fn key_found(&mut self, key: Arc<Key>, now: Now) -> Step {
        let is_active = key.is_active(now.wall);
        self.key = Some(key);
        if !is_active {
            return self.refuse(Refusal::invalid_key());
        }
        self.session = self.find_session();
        match self.body_bytes_max() {
            Some(bytes_max) => {
                self.phase = Phase::ReadingBody;
                Step::ReadBody { bytes_max }
            }
            None => self.classify(&[], now),
        }
    }

    /// No key record was found.
    pub fn key_not_found(&mut self, why: KeyNotFound, fleet: &Fleet, now: Now) -> Step {
        match (why, self.policy.unverified.clone()) {
            (KeyNotFound::Unknown, _) => self.refuse(Refusal::invalid_key()),
            // A ledger that is only busy, or a gate with too many lookups, is no outage.
            (KeyNotFound::Unavailable, Some(caller)) if fleet.is_lost(now.monotonic) => {
                self.key_found(caller, now)
            }
            (KeyNotFound::Unavailable, _) => self.refuse(Refusal::ledger_unavailable()),
        }
    }

    /// The whole body has arrived.
    pub fn body(&mut self, bytes: &[u8], now: Now) -> Step {
        self.begin_batch(bytes, now).unwrap_or_else(|| self.classify(bytes, now))
    }

    /// The body is larger than the gate may buffer.
    pub fn body_too_large(&mut self, bytes_max: u32) -> Step {
        self.refuse(match bytes_max {
            0 => Refusal::body_not_allowed(),
            bytes_max => Refusal::body_too_large(bytes_max),
        })
    }

    /// Other requests of the key already hold so much of the buffer that this body does not fit.
    pub fn too_many_bytes_held(&mut self, wait_seconds: u64) -> Step {
        self.refuse(Refusal::too_many_bytes_held(wait_seconds))
    }

    /// The attempt to pay from a lease is over; `lease` is the lease that paid, if any.
    pub fn spent(&mut self, lease: Option<LeaseId>) -> Step {
        if let Some(step) = self.in_batch(|element| element.spent(lease)) {
            return step;
        }
        match (&self.subject, lease) {
            (Subject::Tool(call), Some(lease)) => self.forward(Charge::Leased(call.price, lease)),
            _ => self.reserve(),
        }
    }

    /// The ledger answered the reservation, or the call to it failed.
    pub fn reserve_answered(&mut self, answer: ReserveAnswered) -> Step {
        let is_unavailable = answer == ReserveAnswered::Unavailable;
        if let Some(step) = self.answered_in_batch(is_unavailable, |element| element.reserve_answered(answer))
        {
            return step;
        }
        let Subject::Tool(call) = &self.subject else { return self.refuse(Refusal::ledger_unavailable()) };
        let price = call.price;
        match answer {
            ReserveAnswered::Reserved => self.forward(Charge::Reserved(price)),
            ReserveAnswered::QuotaExceeded(left) => self.refuse(Refusal::quota_exceeded(price, left)),
            ReserveAnswered::KeyInactive => self.refuse(Refusal::invalid_key()),
            ReserveAnswered::Unavailable if call.on_ledger_outage == OnLedgerOutage::Allow => {
                self.forward(Charge::None)
            }
            ReserveAnswered::Unavailable => self.refuse(Refusal::ledger_unavailable()),
        }
    }

    /// The request's id.
    pub fn id(&self) -> EventId {
        self.id
    }

    /// The key, once it is known.
    pub fn key(&self) -> Option<&Arc<Key>> {
        self.key.as_ref()
    }

    /// The policy's name of the tool, or the protocol's name of the message, once it is known.
    pub fn subject(&self) -> Option<&str> {
        match &self.subject {
            Subject::Unknown => None,
            Subject::Tool(call) => Some(&call.name),
            Subject::Gate(call) => Some(call.kind.name()),
            Subject::Protocol { name, .. } => Some(name),
        }
    }

    /// True once the request is forwarded or refused.
    pub fn is_decided(&self) -> bool {
        matches!(self.phase, Phase::Forwarded(_) | Phase::Refused(_))
    }

    /// True once the request is forwarded.
    pub fn is_forwarded(&self) -> bool {
        matches!(self.phase, Phase::Forwarded(_))
    }

    /// The reservations that the exchange holds, each with its lifetime in seconds.
    pub fn reservations(&self) -> Vec<(ReservationId, u32)> {
        match &self.batch {
            Some(batch) => batch.exchanges().filter_map(Exchange::reservation).collect(),
            None => self.reservation().into_iter().collect(),
        }
    }

    fn reservation(&self) -> Option<(ReservationId, u32)> {
        match self.phase {
            Phase::Forwarded(Charge::Reserved(_)) => {
                Some((self.id.into(), self.policy.reservation_ttl_seconds))
            }
            _ => None,
        }
    }

    /// The RFC 9728 document, if the request asks for it. It is public: clients read it before they have a credential.
    fn asked_metadata(&self) -> Option<String> {
        self.policy
            .metadata_for(&self.request.host, self.request.path())
            .map(|metadata| metadata.document.clone())
    }

    fn rules(&self) -> Option<&Service> {
        self.policy.services().get(self.service?)
    }

    /// How much body the gate must buffer to decide; `None` if the headers are enough.
    fn body_bytes_max(&self) -> Option<u32> {
        let service = self.rules()?;
        if self.request.is_upgrade || self.request.ends_with_headers {
            return None;
        }
        if let ServiceKind::Http(router) = &service.kind {
            return self.has_deciding_body(service, router).then_some(service.body_bytes_max);
        }
        match self.request.method.as_slice() {
            b"POST" => Some(service.body_bytes_max),
            // A body is not allowed here: a server that reads the body before the method could find a call in it.
            b"GET" | b"DELETE" => Some(0),
            _ => None,
        }
    }

    fn classify(&mut self, body: &[u8], now: Now) -> Step {
        let policy = self.policy.clone();
        let Some(key) = self.key.clone() else { return self.refuse(Refusal::invalid_key()) };
        let Some(tier) = policy.tier(&key.record.tier) else {
            return self.refuse(Refusal::denied(&Denial::UnknownTier, &key.record));
        };
        let Classified { message_id, tool, subject, work, authorization, refusal } =
            self.recognise(&policy, &key, body, now.wall);
        self.message_id = message_id;
        self.subject = subject;
        let shadow = authorization.would_deny.as_ref().map(|denial| Refusal::denied(denial, &key.record));
        self.would_deny = RefCell::new(shadow.map(Box::new));
        let refusal = refusal
            .or_else(|| authorization.denial.as_ref().map(|denial| Refusal::denied(denial, &key.record)));

        let ask = |rule: &LimitRule, stage: Stage| Ask {
            rule: *rule,
            owner: key.owner(rule.per),
            stage,
            enforced: !rule.shadow,
        };
        let of_key = tier.limits.iter().chain(&key.limits).map(|rule| ask(rule, Stage::Key));
        let of_tool = tool.iter().flat_map(|tool| &tool.limits).map(|rule| ask(rule, Stage::Tool));
        // A request that is refused anyway counts against the key's limits only. It must not use up the tool's window.
        let asks: Vec<Ask> = match (&refusal, work) {
            (Some(_), _) => of_key.collect(),
            (None, Work::Opening) => vec![ask(&tier.openings, Stage::Opening)],
            (None, Work::Resumption | Work::Nothing) => Vec::new(),
            (None, Work::Call | Work::Stream) => of_key.chain(of_tool).collect(),
        };
        let rounds = Rounds::default();
        self.phase =
            Phase::AskingWindows { asks, verdicts: Vec::new(), refusal, rounds, is_unavailable: false };
        self.request_admission(work)
    }

    /// Pays from a lease if the tool allows it and the key has no budget to check; otherwise by a reservation.
    fn pay(&mut self) -> Step {
        match (&self.key, &self.subject) {
            (Some(key), Subject::Tool(call)) if call.is_leased && !key.record.has_budget => {
                Step::Spend(Spending { tenant: key.tenant, price: call.price, request: self.id })
            }
            _ => self.reserve(),
        }
    }

    fn reserve(&mut self) -> Step {
        let request = match (&self.key, self.rules(), &self.subject) {
            (Some(key), Some(service), Subject::Tool(call)) => ReserveRequest {
                reservation_id: self.id.into(),
                key_id: key.record.key_id.clone(),
                service: service.name.clone(),
                tool: call.name.clone(),
                credits: call.price,
                overrun_credits_max: call
                    .cost_max
                    .and_then(|most| most.checked_sub(call.price))
                    .unwrap_or_default(),
                ttl_seconds: self.policy.reservation_ttl_seconds,
                policy_version: self.policy.version().clone(),
            },
            _ => return self.refuse(Refusal::ledger_unavailable()),
        };
        self.phase = Phase::Reserving;
        Step::Reserve(request)
    }

    fn forward(&mut self, charge: Charge) -> Step {
        self.phase = Phase::Forwarded(charge);
        Step::Forward { body: None }
    }

    /// The request headers that must not reach the upstream.
    pub fn headers_to_remove(&self) -> impl Iterator<Item = &'static str> {
        let keeps_credential = self.rules().is_some_and(|service| service.forward_credential);
        let credential = self.carrier.filter(|_| !keeps_credential).map(Carrier::header);
        let claims = self.policy.selects_by_host().then_some(request::HOST_OVERRIDES).into_iter().flatten();
        credential.into_iter().chain(self.session.header_to_remove()).chain(claims)
    }

    /// The headers to set on the forwarded request. Each replaces all headers of the same name.
    pub fn headers_to_set(&self) -> impl Iterator<Item = (&'static str, Cow<'_, str>)> {
        // The gate must read the answers, so they must not be compressed. MCP answers are also read to settle and to filter.
        let is_read = self.rules().is_some_and(|service| service.usage_tokens);
        let own = [
            is_read.then_some(("accept-encoding", Cow::Borrowed("identity"))),
            self.subject().map(|subject| ("x-agentrelay-tool", fields::escaped(subject))),
            Some(("x-agentrelay-request-id", Cow::Owned(self.id.to_string()))),
            self.session.header_to_set().map(|(name, id)| (name, Cow::Borrowed(id))),
        ];
        let identity = self.key.iter().flat_map(|key| key.identity());
        own.into_iter().flatten().chain(identity.map(|(name, value)| (name, Cow::Borrowed(value))))
    }

    fn refuse(&mut self, mut refusal: Refusal) -> Step {
        self.phase = Phase::Refused(refusal.outcome);
        // What has no key is only counted.
        self.reason = RefCell::new(self.key.as_ref().map(|_| refusal.reason()));
        let oauth = self.rules().and_then(|service| service.oauth.as_ref());
        let refusal = refusal.with_metadata(oauth);
        let refusal = if self.session().is_some() { refusal.within_session() } else { refusal };
        let form = match self.rules().map_or(Refusals::Http, |service| service.refusals) {
            // A JSON-RPC batch can't contain a problem document.
            Refusals::Http if self.is_batch_message => Refusals::McpHttp,
            form => form,
        };
        let is_tool_call = matches!(self.subject, Subject::Tool(_) | Subject::Gate(_));
        let mut reply =
            refusal.reply(form, self.message_id.as_deref(), is_tool_call, self.id, &self.policy.help);
        // The reply is complete now, unless the key's windows are still to be asked.
        if !self.is_batch_message && (self.key.is_none() || !self.quotas.is_empty()) {
            self.complete(&mut reply);
        }
        Step::Refuse(reply)
    }

    /// Adds to a refusal the rate headers that it lacks, after [`Exchange::windows_read`].
    pub fn complete(&mut self, reply: &mut Reply) {
        self.response.answered(reply.status);
        self.add_headers(&mut reply.headers);
        reply.has_rate_headers = true;
    }
}

#[cfg(test)]
mod tests;
