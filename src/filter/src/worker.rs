//! State that all exchanges of one Envoy worker share: policy, keys, ledger calls and the outbox.
//!
//! Ledger calls run in the root context, so that their answers are handled even if the stream that asked has ended:
//! a resolved key is still cached, and an unused reservation is released.

mod changes;
mod leases;
mod revoked;

pub use leases::Shares;

use crate::calls::{self, Answer, Call, NotCalled, Purpose};
use crate::config::Config;
use crate::feed::Feed;
use crate::host;
use crate::in_progress::InProgress;
use crate::metrics::Metrics;
use crate::reach::{Ended, Reach};
use crate::report::Outbox;
use crate::windows;
use policy::exchange::{
    AdmissionAnswered, AdmissionRequest, Exchange, Finished, KeyNotFound, Now, ReserveAnswered, Step,
};
use policy::key_table::KeyTable;
use policy::window::Monotonic;
use policy::{Key, Policy};
use protocol::api_key::KeyHash;
use protocol::filter::{Action, IssueRequest, ReportAnswer, ReserveRequest, Settlement};
use protocol::uuid::Uuid;
use protocol::{ReservationId, Timestamp};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

/// Maximum number of cached key records; the least recently used are evicted first.
const KEYS_MAX: usize = 100_000;
/// How many streams may wait for key lookups at once, and how many lookups may be in flight. Beyond these bounds a
/// flood of invented keys gets 503, while cached keys are still served.
const WAITING_MAX: usize = 1024;
const LOOKUPS_MAX: usize = 256;
/// Maximum lookups of one worker per second.
const LOOKUPS_PER_SECOND: u32 = 1000;
/// Bytes of request headers and bodies that one key may hold on one worker while its requests are being decided.
const HELD_BYTES_MAX: u64 = 8 << 20;
/// Requests up to this size share `HELD_BYTES_SMALL` of extra room above `HELD_BYTES_MAX`: the first request on a
/// connection is small, and if it is refused, clients conclude that the server is down.
const SMALL_BYTES_MAX: u64 = 32 << 10;
const HELD_BYTES_SMALL: u64 = 2 << 20;
const POLICY_RETRY_MS: u64 = 250;

/// The state that all callbacks of one VM share.
pub struct Worker {
    root_id: u32,
    metrics: OnceCell<Metrics>,
    config: RefCell<Rc<Config>>,
    node: RefCell<Rc<str>>,
    policy: RefCell<Option<Arc<Policy>>>,
    policy_tag: RefCell<Option<String>>,
    policy_call: Cell<PolicyCall>,
    keys: RefCell<KeyTable>,
    feed: RefCell<Feed>,
    changes_applied: Cell<u64>,
    outbox: RefCell<Outbox>,
    reach: Reach,
    streams: RefCell<HashMap<u32, Weak<dyn Waiting>>>,
    calls: RefCell<HashMap<u32, Purpose>>,
    waiting: RefCell<HashMap<KeyHash, Vec<u32>>>,
    lookups: Cell<(u64, u32)>,
    held: RefCell<HashMap<u64, u64>>,
    in_progress: RefCell<InProgress>,
    /// Credentials of exchanges in progress whose records are being fetched again, and since when.
    rechecks: RefCell<HashMap<KeyHash, Monotonic>>,
    /// Streams that wait for more permits of a key's global limits, by the key's fingerprint.
    awaiting_shares: RefCell<HashMap<u64, Vec<u32>>>,
    leases_checked_ms: Cell<u64>,
    id_state: Cell<u64>,
    /// The wall-clock time, and the monotonic time at which it was read.
    date: Cell<Option<(Timestamp, Monotonic)>>,
    /// A call that a stream's callback passes to the root context, and the result of starting it.
    call_for_root: RefCell<Option<Call>>,
    call_result: Cell<Result<(), NotCalled>>,
    in_root: Cell<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PolicyCall {
    /// No call is needed.
    Settled,
    /// Call at or after this time.
    Due {
        at_ms: u64,
    },
    InFlight,
}

/// A stream that waits for an answer.
pub trait Waiting {
    /// Handles the answer, given as an event for the exchange. The active context is the stream's.
    fn resume(&self, worker: &Worker, stream_id: u32, event: Event<'_>);
}

/// Passes the answer to the exchange that waited for it.
pub type Event<'a> = Box<dyn FnOnce(&mut Exchange) -> Step + 'a>;

/// The result of a key lookup.
pub enum Lookup {
    /// The key record.
    Found(Arc<Key>),
    /// There is no record, or it can't be fetched.
    NotFound(KeyNotFound),
    /// The stream is woken when the answer arrives.
    Waiting,
}

impl Worker {
    /// Creates a worker without a configuration.
    pub fn new(root_id: u32) -> Worker {
        Worker {
            root_id,
            metrics: OnceCell::new(),
            config: RefCell::default(),
            node: RefCell::new(Rc::from("envoy")),
            policy: RefCell::new(None),
            policy_tag: RefCell::default(),
            policy_call: Cell::new(PolicyCall::Due { at_ms: 0 }),
            keys: RefCell::new(KeyTable::new(KEYS_MAX)),
            feed: RefCell::new(Feed::new()),
            changes_applied: Cell::new(0),
            outbox: RefCell::default(),
            reach: Reach::default(),
            streams: RefCell::default(),
            calls: RefCell::default(),
            waiting: RefCell::default(),
            lookups: Cell::new((0, 0)),
            held: RefCell::default(),
            in_progress: RefCell::default(),
            rechecks: RefCell::default(),
            awaiting_shares: RefCell::default(),
            leases_checked_ms: Cell::new(0),
            id_state: Cell::new(u64::from_le_bytes(host::random())),
            date: Cell::new(None),
            call_for_root: RefCell::new(None),
            call_result: Cell::new(Ok(())),
            in_root: Cell::new(false),
        }
    }

    /// Applies a configuration and makes the first ledger call.
    pub fn configure(&self, config: Config) {
        self.config.replace(Rc::new(config));
        if let Some(node) =
            host::property(&["xds", "node", "id"]).and_then(|bytes| String::from_utf8(bytes).ok())
            && !node.is_empty()
        {
            self.node.replace(Rc::from(node));
        }
        self.fetch_policy(host::monotonic_clock());
    }

    /// Envoy stats of the filter.
    pub fn metrics(&self) -> &Metrics {
        self.metrics.get_or_init(Metrics::define)
    }

    /// The policy in force.
    pub fn policy(&self) -> Option<Arc<Policy>> {
        self.policy.borrow().clone()
    }

    /// Both clocks. The wall clock is read once per tick; between ticks it advances with the monotonic clock.
    pub fn now(&self) -> Now {
        self.at(host::monotonic_clock())
    }

    fn at(&self, monotonic: Monotonic) -> Now {
        let (wall, at) = self.date.get().unwrap_or_else(|| self.read_date(monotonic));
        Now { wall: wall.plus_millis(monotonic.0.saturating_sub(at.0)), monotonic }
    }

    fn read_date(&self, now: Monotonic) -> (Timestamp, Monotonic) {
        let date = (host::wall_clock(), now);
        self.date.set(Some(date));
        date
    }

    /// Registers a stream, so that answers can reach it.
    pub fn enter(&self, stream_id: u32, stream: Weak<dyn Waiting>) {
        self.streams.borrow_mut().insert(stream_id, stream);
    }

    /// Admits an exchange if its key is within its concurrency bounds.
    pub fn admit(&self, stream_id: u32, key: &Arc<Key>, request: AdmissionRequest) -> AdmissionAnswered {
        self.in_progress.borrow_mut().admit(stream_id, key, request)
    }

    /// Removes a stream.
    pub fn leave(&self, stream_id: u32) {
        self.in_progress.borrow_mut().remove(stream_id);
        let mut streams = self.streams.borrow_mut();
        if !streams.is_empty() {
            streams.remove(&stream_id);
        }
    }

    /// Looks up a key by its hash. Concurrent lookups of the same hash share one ledger call.
    pub fn look_up(&self, hash: KeyHash, stream_id: u32, now: Monotonic) -> Lookup {
        if let Some(key) = self.known(&hash, now) {
            return Lookup::Found(key);
        }
        if windows::is_unknown(&hash, now) {
            return Lookup::NotFound(KeyNotFound::Unknown);
        }
        if self.waiting.borrow().values().map(Vec::len).sum::<usize>() >= WAITING_MAX {
            return Lookup::NotFound(KeyNotFound::Unavailable);
        }
        if let Some(streams) = self.waiting.borrow_mut().get_mut(&hash) {
            streams.push(stream_id);
            self.metrics().lookups_joined.add(1);
            return Lookup::Waiting;
        }
        if !self.may_look_up(now.0) {
            return Lookup::NotFound(KeyNotFound::Unavailable);
        }
        match self.call(self.resolve(hash), stream_id) {
            Ok(()) => {
                self.waiting.borrow_mut().insert(hash, vec![stream_id]);
                Lookup::Waiting
            }
            Err(NotCalled) => Lookup::NotFound(KeyNotFound::Unavailable),
        }
    }

    fn resolve(&self, hash: KeyHash) -> Call {
        Call::resolve(&self.config.borrow(), hash, self.changes_applied.get())
    }

    /// The cached record of a hash, if it is fresh enough.
    fn known(&self, hash: &KeyHash, now: Monotonic) -> Option<Arc<Key>> {
        let confirmed = self.feed.borrow().confirmed();
        self.keys.borrow_mut().find(hash, now, confirmed, self.stale_ms())
    }

    fn stale_ms(&self) -> u64 {
        self.policy
            .borrow()
            .as_ref()
            .map_or(0, |policy| u64::from(policy.key_stale_seconds).saturating_mul(1000))
    }

    fn may_look_up(&self, now_ms: u64) -> bool {
        let (second, count) = self.lookups.get();
        let this_second = now_ms / 1000;
        let count = if second == this_second { count } else { 0 };
        if count >= LOOKUPS_PER_SECOND || self.waiting.borrow().len() >= LOOKUPS_MAX {
            return false;
        }
        self.lookups.set((this_second, count.saturating_add(1)));
        true
    }

    /// Asks the ledger for a reservation for a stream. The stream is woken with the answer.
    pub fn reserve(&self, request: &ReserveRequest, stream_id: u32) -> Result<(), NotCalled> {
        let call = Call::reserve(&self.config.borrow(), stream_id, request);
        self.call(call, stream_id)
    }

    /// Asks the ledger to issue a key for an agent's stream. The stream is woken with the answer.
    pub fn issue(&self, request: &IssueRequest, stream_id: u32) -> Result<(), NotCalled> {
        let call = Call::issue(&self.config.borrow(), stream_id, request);
        self.call(call, stream_id)
    }

    /// Changes the number of bytes that one of the key's requests holds from `before` to `after`. Returns false, and
    /// changes nothing, if the key would then hold too much.
    pub fn hold(&self, fingerprint: u64, before: u64, after: u64) -> bool {
        let mut held = self.held.borrow_mut();
        let others = held.get(&fingerprint).copied().unwrap_or(0).saturating_sub(before);
        let sum = others.saturating_add(after);
        let more = if after <= SMALL_BYTES_MAX { HELD_BYTES_SMALL } else { 0 };
        if sum > HELD_BYTES_MAX.saturating_add(more) && after > before {
            return false;
        }
        if sum == 0 {
            held.remove(&fingerprint);
        } else {
            held.insert(fingerprint, sum);
        }
        true
    }

    /// Renews the reservation of a request that was forwarded, until it is settled.
    pub fn watch_reservation(&self, reservation_id: ReservationId, ttl_seconds: u32) {
        self.outbox.borrow_mut().watch(reservation_id, ttl_seconds, host::monotonic_clock());
    }

    /// Queues what the ledger must know about a finished exchange.
    pub fn finished(&self, finished: Finished, now: Now) {
        if finished.decision.would_deny.is_some() {
            self.metrics().would_deny.add(1);
        }
        self.metrics().served.count(&finished.decision);
        if let Some(settlement) = finished.settlement {
            self.outbox.borrow_mut().settle(settlement, self.metrics());
        }
        if let Some(refund) = &finished.refund {
            self.refund(refund);
        }
        self.outbox.borrow_mut().record(finished.decision, now, self.metrics());
    }

    /// A new UUIDv7. The host seeds a SplitMix64 generator once: ids must be unique, but they need not be
    /// unpredictable.
    pub fn new_id<Id: From<Uuid>>(&self, now: Timestamp) -> Id {
        let next = || {
            let state = self.id_state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
            self.id_state.set(state);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            u128::from(mixed ^ (mixed >> 31))
        };
        Uuid::v7(now, (next() << 64) | next()).into()
    }

    /// This Envoy's node id, as used in reports.
    pub fn node(&self) -> Rc<str> {
        self.node.borrow().clone()
    }

    /// Does the periodic work; Envoy calls it about every 100 ms.
    pub fn tick(&self) {
        let now = host::monotonic_clock();
        self.read_date(now);
        self.metrics().flush();
        self.outbox.borrow_mut().update_queue_depth(self.metrics());
        self.in_root(|| {
            self.apply_changes(now);
            if matches!(self.policy_call.get(), PolicyCall::Due { at_ms } if at_ms <= now.0) {
                self.fetch_policy(now);
            }
            self.listen(now);
            self.end_revoked(now);
            self.account(now);
            self.outbox.borrow_mut().renew(now, self.metrics());
            self.deliver(now);
        });
    }

    /// Handles the answer to a ledger call, in the root context.
    pub fn answered(&self, call_id: u32, header_count: usize, body_bytes: usize) {
        let Some(purpose) = self.calls.borrow_mut().remove(&call_id) else { return };
        let answer = calls::read_answer(header_count, body_bytes);
        let how = match (answer.status, &purpose) {
            (0 | 500.., _) => Ended::Unanswered,
            (401, _) | (403, Purpose::Policy | Purpose::Changes | Purpose::Report) => Ended::Refused,
            _ => Ended::Answered,
        };
        self.ended(how, &answer.body);
        let now = host::monotonic_clock();
        self.in_root(|| match purpose {
            Purpose::Policy => self.policy_answered(&answer, now),
            Purpose::Changes => self.changes_answered(&answer, now),
            Purpose::Resolve { hash, changes_applied } => {
                self.resolve_answered(hash, changes_applied, calls::resolved(&answer), now);
            }
            Purpose::Reserve { stream_id, reservation_id } => {
                let answered = calls::reserved(&answer, reservation_id);
                self.reserve_answered(stream_id, reservation_id, answered);
            }
            Purpose::Round(asked) => self.round_answered(asked, &answer),
            Purpose::Issue { stream_id } => {
                let issued = calls::issued(&answer);
                self.wake(stream_id, Box::new(|exchange| exchange.issue_answered(issued)));
            }
            Purpose::Report => {
                let is_durable = answer.read::<ReportAnswer>(&[200]).is_some();
                if calls::is_refused(&answer) {
                    self.outbox.borrow_mut().refused(answer.status, now, self.metrics());
                } else {
                    self.outbox.borrow_mut().delivered(is_durable, now, self.metrics());
                }
                self.deliver(now);
            }
        });
    }

    /// Starts, in the root context, the call that a stream passed on.
    pub fn dispatch_passed_call(&self) {
        host::set_context(self.root_id);
        if let Some(call) = self.call_for_root.borrow_mut().take() {
            self.call_result.set(self.dispatch(call));
        }
    }

    fn in_root(&self, work: impl FnOnce()) {
        self.in_root.set(true);
        host::set_context(self.root_id);
        work();
        self.in_root.set(false);
    }

    /// Starts a call in the root context, whichever context is active now.
    fn call(&self, call: Call, stream_id: u32) -> Result<(), NotCalled> {
        if self.in_root.get() {
            host::set_context(self.root_id);
            let outcome = self.dispatch(call);
            host::set_context(stream_id);
            return outcome;
        }
        self.call_for_root.replace(Some(call));
        self.call_result.set(Err(NotCalled));
        host::enter_root(self.root_id, stream_id);
        self.call_result.get()
    }

    fn dispatch(&self, call: Call) -> Result<(), NotCalled> {
        let outcome = call.dispatch(&self.config.borrow());
        match outcome {
            Ok(call_id) => {
                if let Some(metric) = self.metrics().callouts.get(call.kind()) {
                    metric.add(1);
                }
                self.calls.borrow_mut().insert(call_id, call.purpose);
                Ok(())
            }
            Err(NotCalled) => {
                self.ended(Ended::Unanswered, &[]);
                Err(NotCalled)
            }
        }
    }

    /// Counts how a call to the ledger ended, and says in the log what an operator must know.
    fn ended(&self, how: Ended, answer: &[u8]) {
        if how == Ended::Unanswered {
            self.metrics().callouts_failed.add(1);
        }
        let cluster = &self.config.borrow().ledger_cluster;
        self.reach.ended(how, cluster, answer, self.metrics());
    }

    fn fetch_policy(&self, now: Monotonic) {
        let call = Call::policy(&self.config.borrow(), self.policy_tag.borrow().as_deref());
        self.policy_call.set(match self.dispatch(call) {
            Ok(()) => PolicyCall::InFlight,
            Err(NotCalled) => PolicyCall::Due { at_ms: now.0.saturating_add(POLICY_RETRY_MS) },
        });
    }

    fn policy_answered(&self, answer: &Answer, now: Monotonic) {
        let next = match answer.status {
            304 => PolicyCall::Settled,
            200 => match Policy::of_answer(&answer.body) {
                Ok((policy, tag)) => {
                    log::info!("policy {} is in force", policy.version());
                    self.policy_tag.replace(Some(tag));
                    if self.policy.replace(Some(Arc::new(policy))).is_none() {
                        self.metrics().policy_loaded.add(1);
                    }
                    PolicyCall::Settled
                }
                Err(invalid) => {
                    log::error!(
                        "the ledger's policy is invalid, and the previous one stays in force: {invalid}"
                    );
                    PolicyCall::Settled
                }
            },
            401 | 403 => PolicyCall::Due { at_ms: now.0.saturating_add(POLICY_RETRY_MS.saturating_mul(20)) },
            _ => PolicyCall::Due { at_ms: now.0.saturating_add(POLICY_RETRY_MS) },
        };
        self.policy_call.set(next);
    }

    fn deliver(&self, now: Monotonic) {
        let node = self.node();
        let mut outbox = self.outbox.borrow_mut();
        let batch_id = || self.new_id(host::wall_clock());
        let Some(batch) = outbox.next_batch(&node, batch_id, self.at(now)) else { return };
        let call = Call::report(&self.config.borrow(), batch);
        if self.dispatch(call).is_err() {
            outbox.delivered(false, now, self.metrics());
        }
    }

    fn resolve_answered(
        &self,
        hash: KeyHash,
        changes_applied: u64,
        resolved: Result<Option<protocol::key::KeyRecord>, NotCalled>,
        now: Monotonic,
    ) {
        let found = match resolved {
            Ok(Some(record)) => {
                let key = Arc::new(Key::new(record));
                // If a change arrived while the call was in flight, the record may be outdated: use it once, don't cache it.
                if self.changes_applied.get() == changes_applied {
                    self.metrics().keys.add(self.keys.borrow_mut().insert(hash, key.clone(), now));
                }
                Ok(key)
            }
            Ok(None) => {
                windows::remember_unknown(&hash, now);
                Err(KeyNotFound::Unknown)
            }
            Err(NotCalled) => Err(KeyNotFound::Unavailable),
        };
        let streams = self.waiting.borrow_mut().remove(&hash).unwrap_or_default();
        for stream_id in streams {
            let found = found.clone();
            let event = |exchange: &mut Exchange| match found {
                Ok(key) => exchange.key_found(key, self.now()),
                Err(why) => exchange.key_not_found(why, &self.fleet(false), self.now()),
            };
            self.wake(stream_id, Box::new(event));
        }
    }

    fn reserve_answered(&self, stream_id: u32, reservation_id: ReservationId, answered: ReserveAnswered) {
        let is_delivered =
            self.wake(stream_id, Box::new(move |exchange| exchange.reserve_answered(answered)));
        let may_be_reserved = match answered {
            // The client disconnected during the call, so nobody will spend these credits.
            ReserveAnswered::Reserved => !is_delivered,
            // The request was refused, or allowed free of charge. If the ledger did reserve credits, release them.
            ReserveAnswered::Unavailable => true,
            ReserveAnswered::KeyInactive | ReserveAnswered::QuotaExceeded(_) => false,
        };
        if may_be_reserved {
            let settlement = Settlement { reservation_id, action: Action::Void };
            self.outbox.borrow_mut().settle(settlement, self.metrics());
        }
    }

    /// Passes an event to a waiting stream. Returns false if the stream has ended.
    fn wake(&self, stream_id: u32, event: Event<'_>) -> bool {
        let stream = self.streams.borrow().get(&stream_id).and_then(Weak::upgrade);
        let Some(stream) = stream else { return false };
        self.in_stream(stream_id, || stream.resume(self, stream_id, event));
        true
    }

    /// Runs `work` in a stream's context, then returns to the root context.
    fn in_stream(&self, stream_id: u32, work: impl FnOnce()) {
        host::set_context(stream_id);
        work();
        host::set_context(self.root_id);
    }
}
