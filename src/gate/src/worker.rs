//! State that all exchanges of one Envoy worker share: policy, keys, ledger calls and the outbox.
//!
//! Answers of the ledger are handled even if the stream that asked has ended: a resolved key is still cached, and an
//! unused reservation is released.

mod changes;
mod leases;
mod revoked;

pub use leases::Shares;

use crate::calls::{self, Answer, Call, NotCalled, Purpose};
use crate::config::Config;
use crate::feed::Feed;
use crate::host::Host;
use crate::ids_in_use::IdsInUse;
use crate::in_progress::InProgress;
use crate::lock::Locked;
use crate::metrics::Metrics;
use crate::reach::{Ended, Reach};
use crate::report::Outbox;
use crate::windows;
use policy::exchange::{
    AdmissionAnswered, AdmissionRequest, End, Exchange, Finished, KeyNotFound, Now, ReserveAnswered, Step,
};
use policy::ids_in_use::Use;
use policy::key_table::KeyTable;
use policy::window::Monotonic;
use policy::{Key, Policy};
use protocol::api_key::KeyHash;
use protocol::filter::{Action, IssueRequest, ReportAnswer, ReserveRequest, Settlement};
use protocol::uuid::Uuid;
use protocol::{ReservationId, Timestamp};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

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
pub struct Worker<H: Host> {
    me: Weak<Worker<H>>,
    id: u32,
    metrics: OnceLock<Metrics<H>>,
    config: Locked<Arc<Config>>,
    node: Locked<Arc<str>>,
    policy: Locked<Option<Arc<Policy>>>,
    policy_tag: Locked<Option<String>>,
    policy_call: Locked<PolicyCall>,
    keys: Locked<KeyTable>,
    feed: Locked<Feed<H>>,
    changes_applied: AtomicU64,
    outbox: Locked<Outbox>,
    reach: Reach,
    streams: Locked<HashMap<u32, Weak<dyn Waiting<H>>>>,
    calls: Locked<HashMap<u32, Purpose>>,
    waiting: Locked<HashMap<KeyHash, Vec<u32>>>,
    lookups: Locked<(u64, u32)>,
    held: Locked<HashMap<u64, u64>>,
    in_progress: Locked<InProgress>,
    ids_in_use: IdsInUse,
    /// Credentials of exchanges in progress whose records are being fetched again, and since when.
    rechecks: Locked<HashMap<KeyHash, Monotonic>>,
    /// Streams that wait for more permits of a key's global limits, by the key's fingerprint.
    awaiting_shares: Locked<HashMap<u64, Vec<u32>>>,
    leases_checked_ms: Locked<u64>,
    id_state: AtomicU64,
    /// The wall-clock time, and the monotonic time at which it was read.
    date: Locked<Option<(Timestamp, Monotonic)>>,
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
pub trait Waiting<H: Host>: Send + Sync {
    /// Handles the answer, given as an event for the exchange. The active context is the stream's.
    fn resume(&self, worker: &Worker<H>, stream_id: u32, event: Event<H>);
}

/// Passes the answer to the exchange that waited for it.
pub type Event<H> = Box<dyn FnOnce(&mut Exchange, &Worker<H>) -> Step + Send>;

/// The result of a key lookup.
pub enum Lookup {
    /// The key record.
    Found(Arc<Key>),
    /// There is no record, or it can't be fetched.
    NotFound(KeyNotFound),
    /// The stream is woken when the answer arrives.
    Waiting,
}

impl<H: Host> Worker<H> {
    /// Creates a worker without a configuration.
    pub fn new(id: u32) -> Arc<Worker<H>> {
        Arc::new_cyclic(|me| Worker {
            me: me.clone(),
            id,
            metrics: OnceLock::new(),
            config: Locked::default(),
            node: Locked::new(Arc::from("envoy")),
            policy: Locked::new(None),
            policy_tag: Locked::default(),
            policy_call: Locked::new(PolicyCall::Due { at_ms: 0 }),
            keys: Locked::new(KeyTable::new(KEYS_MAX)),
            feed: Locked::new(Feed::new()),
            changes_applied: AtomicU64::new(0),
            outbox: Locked::default(),
            reach: Reach::default(),
            streams: Locked::default(),
            calls: Locked::default(),
            waiting: Locked::default(),
            lookups: Locked::new((0, 0)),
            held: Locked::default(),
            in_progress: Locked::default(),
            ids_in_use: IdsInUse::default(),
            rechecks: Locked::default(),
            awaiting_shares: Locked::default(),
            leases_checked_ms: Locked::new(0),
            id_state: AtomicU64::new(u64::from_le_bytes(H::random())),
            date: Locked::new(None),
        })
    }

    /// Applies a configuration, and makes the first ledger call. `node` is the id of this Envoy's node.
    pub fn configure(&self, config: Config, node: Option<&str>) {
        self.config.replace(Arc::new(config));
        if let Some(node) = node.filter(|node| !node.is_empty()) {
            self.node.replace(Arc::from(node));
        }
        self.fetch_policy(H::monotonic_clock());
    }

    /// The configuration. Copied, because a call that can't be sent reads it again.
    fn config(&self) -> Arc<Config> {
        self.config.lock().clone()
    }

    /// The number by which the host knows this worker.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Envoy stats of the filter.
    pub fn metrics(&self) -> &Metrics<H> {
        self.metrics.get_or_init(Metrics::define)
    }

    /// The policy in force.
    pub fn policy(&self) -> Option<Arc<Policy>> {
        self.policy.lock().clone()
    }

    /// Both clocks. The wall clock is read once per tick; between ticks it advances with the monotonic clock.
    pub fn now(&self) -> Now {
        self.at(H::monotonic_clock())
    }

    fn at(&self, monotonic: Monotonic) -> Now {
        let (wall, at) = self.date.get().unwrap_or_else(|| self.read_date(monotonic));
        Now { wall: wall.plus_millis(monotonic.0.saturating_sub(at.0)), monotonic }
    }

    fn read_date(&self, now: Monotonic) -> (Timestamp, Monotonic) {
        let date = (H::wall_clock(), now);
        self.date.replace(Some(date));
        date
    }

    /// Registers a stream, so that answers can reach it.
    pub fn enter(&self, stream_id: u32, stream: Weak<dyn Waiting<H>>) {
        self.streams.lock().insert(stream_id, stream);
    }

    /// Admits an exchange if its key is within its concurrency bounds.
    pub fn admit(&self, stream_id: u32, key: &Arc<Key>, request: AdmissionRequest) -> AdmissionAnswered {
        self.in_progress.lock().admit(stream_id, key, request)
    }

    /// Records the ids that go upstream.
    pub fn begin_uses(&self, exchange: &Exchange, now: Monotonic) {
        self.ids_in_use.begin(exchange.uses(), now, self.metrics());
    }

    /// Settles what answers to ids that others used may prove, and takes note that the exchange's own uses have ended.
    pub fn end_uses(&self, exchange: &mut Exchange, end: End, now: Monotonic) {
        let Some(used) = exchange.uses().next() else { return };
        let is_doubted = |used: &Use| !IdsInUse::is_alone::<H>(*used, now);
        let doubted: Vec<Use> = exchange.uses_to_prove(end).filter(is_doubted).collect();
        doubted.into_iter().for_each(|used| exchange.doubt(used));
        self.ids_in_use.end(used.owner, exchange.ended_uses(end));
    }

    /// Removes a stream.
    pub fn leave(&self, stream_id: u32) {
        self.in_progress.lock().remove(stream_id);
        let mut streams = self.streams.lock();
        if !streams.is_empty() {
            streams.remove(&stream_id);
        }
    }

    /// Looks up a key by its hash. Concurrent lookups of the same hash share one ledger call.
    pub fn look_up(&self, hash: KeyHash, stream_id: u32, now: Monotonic) -> Lookup {
        if let Some(key) = self.known(&hash, now) {
            return Lookup::Found(key);
        }
        if windows::is_unknown::<H>(&hash, now) {
            return Lookup::NotFound(KeyNotFound::Unknown);
        }
        if self.waiting.lock().values().map(Vec::len).sum::<usize>() >= WAITING_MAX {
            return Lookup::NotFound(KeyNotFound::Unavailable);
        }
        if let Some(streams) = self.waiting.lock().get_mut(&hash) {
            streams.push(stream_id);
            H::add(self.metrics().lookups_joined, 1);
            return Lookup::Waiting;
        }
        if !self.may_look_up(now.0) {
            return Lookup::NotFound(KeyNotFound::Unavailable);
        }
        match self.call(self.resolve(hash), stream_id) {
            Ok(()) => {
                // Not `insert`: another thread may have begun to wait for the same answer.
                self.waiting.lock().entry(hash).or_default().push(stream_id);
                Lookup::Waiting
            }
            Err(NotCalled) => Lookup::NotFound(KeyNotFound::Unavailable),
        }
    }

    fn resolve(&self, hash: KeyHash) -> Call {
        Call::resolve(&self.config(), hash, self.changes_applied.load(Ordering::Relaxed))
    }

    /// The cached record of a hash, if it is fresh enough.
    fn known(&self, hash: &KeyHash, now: Monotonic) -> Option<Arc<Key>> {
        let (confirmed, stale_ms) = (self.feed.lock().confirmed(), self.stale_ms());
        self.keys.lock().find(hash, now, confirmed, stale_ms)
    }

    fn stale_ms(&self) -> u64 {
        self.policy
            .lock()
            .as_ref()
            .map_or(0, |policy| u64::from(policy.key_stale_seconds).saturating_mul(1000))
    }

    fn may_look_up(&self, now_ms: u64) -> bool {
        let (second, count) = self.lookups.get();
        let this_second = now_ms / 1000;
        let count = if second == this_second { count } else { 0 };
        if count >= LOOKUPS_PER_SECOND || self.waiting.lock().len() >= LOOKUPS_MAX {
            return false;
        }
        self.lookups.replace((this_second, count.saturating_add(1)));
        true
    }

    /// Asks the ledger for a reservation for a stream. The stream is woken with the answer.
    pub fn reserve(&self, request: &ReserveRequest, stream_id: u32) -> Result<(), NotCalled> {
        let call = Call::reserve(&self.config(), stream_id, request);
        self.call(call, stream_id)
    }

    /// Asks the ledger to issue a key for an agent's stream. The stream is woken with the answer.
    pub fn issue(&self, request: &IssueRequest, stream_id: u32) -> Result<(), NotCalled> {
        let call = Call::issue(&self.config(), stream_id, request);
        self.call(call, stream_id)
    }

    /// Changes the number of bytes that one of the key's requests holds from `before` to `after`. Returns false, and
    /// changes nothing, if the key would then hold too much.
    pub fn hold(&self, fingerprint: u64, before: u64, after: u64) -> bool {
        let mut held = self.held.lock();
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
        self.outbox.lock().watch(reservation_id, ttl_seconds, H::monotonic_clock());
    }

    /// Queues what the ledger must know about a finished exchange.
    pub fn finished(&self, finished: Finished, now: Now) {
        if finished.decision.would_deny.is_some() {
            H::add(self.metrics().would_deny, 1);
        }
        self.metrics().served.count(&finished.decision);
        if let Some(settlement) = finished.settlement {
            self.outbox.lock().settle(settlement, self.metrics());
        }
        if let Some(refund) = &finished.refund {
            self.refund(refund);
        }
        self.outbox.lock().record(finished.decision, now, self.metrics());
    }

    /// A new UUIDv7. The host seeds a SplitMix64 generator once: ids must be unique, but they need not be
    /// unpredictable.
    pub fn new_id<Id: From<Uuid>>(&self, now: Timestamp) -> Id {
        let next = || {
            let step = 0x9e37_79b9_7f4a_7c15;
            let state = self.id_state.fetch_add(step, Ordering::Relaxed).wrapping_add(step);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            u128::from(mixed ^ (mixed >> 31))
        };
        Uuid::v7(now, (next() << 64) | next()).into()
    }

    /// This Envoy's node id, as used in reports.
    pub fn node(&self) -> Arc<str> {
        self.node.lock().clone()
    }

    /// Does the periodic work; Envoy calls it about every 100 ms.
    pub fn tick(&self) {
        let now = H::monotonic_clock();
        self.read_date(now);
        self.metrics().flush();
        self.outbox.lock().update_queue_depth(self.metrics());
        self.ids_in_use.flush(now, self.metrics());
        self.apply_changes(now);
        if matches!(self.policy_call.get(), PolicyCall::Due { at_ms } if at_ms <= now.0) {
            self.fetch_policy(now);
        }
        self.listen(now);
        self.end_revoked(now);
        self.account(now);
        self.outbox.lock().renew(now, self.metrics());
        self.deliver(now);
    }

    /// Handles the answer to a ledger call. `read` is called if the worker waits for it.
    pub fn answered(&self, call_id: u32, read: impl FnOnce() -> Answer) {
        let Some(purpose) = self.calls.lock().remove(&call_id) else { return };
        let answer = read();
        let how = match (answer.status, &purpose) {
            (0 | 500.., _) => Ended::Unanswered,
            (401, _) | (403, Purpose::Policy | Purpose::Changes | Purpose::Report) => Ended::Refused,
            _ => Ended::Answered,
        };
        self.ended(how, &answer.body);
        let now = H::monotonic_clock();
        match purpose {
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
                self.wake(stream_id, Box::new(|exchange, _| exchange.issue_answered(issued)));
            }
            Purpose::Report => {
                let is_durable = answer.read::<ReportAnswer>(&[200]).is_some();
                if calls::is_refused(&answer) {
                    self.outbox.lock().refused(answer.status, now, self.metrics());
                } else {
                    self.outbox.lock().delivered(is_durable, now, self.metrics());
                }
                self.deliver(now);
            }
        }
    }

    /// Starts a call that no stream asked for.
    fn dispatch(&self, call: Call) -> Result<(), NotCalled> {
        self.start(call, None)
    }

    /// Starts a call for the stream in whose context this runs.
    fn call(&self, call: Call, stream_id: u32) -> Result<(), NotCalled> {
        self.start(call, Some(stream_id))
    }

    fn start(&self, call: Call, stream_id: Option<u32>) -> Result<(), NotCalled> {
        let kind = call.kind();
        match H::dispatch(self.id, call.request, stream_id) {
            Ok(call_id) => {
                if let Some(metric) = self.metrics().callouts.get(kind) {
                    H::add(*metric, 1);
                }
                self.calls.lock().insert(call_id, call.purpose);
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
            H::add(self.metrics().callouts_failed, 1);
        }
        let config = self.config();
        self.reach.ended(how, &config.ledger_cluster, answer, self.metrics());
    }

    fn fetch_policy(&self, now: Monotonic) {
        let call = Call::policy(&self.config(), self.policy_tag.lock().as_deref());
        self.policy_call.replace(match self.dispatch(call) {
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
                        H::add(self.metrics().policy_loaded, 1);
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
        // If the policy changed meanwhile, this answer may be older than the change, and the next call is due already.
        let mut call = self.policy_call.lock();
        if *call == PolicyCall::InFlight {
            *call = next;
        }
    }

    fn deliver(&self, now: Monotonic) {
        let node = self.node();
        let mut outbox = self.outbox.lock();
        let batch_id = || self.new_id(H::wall_clock());
        let Some(batch) = outbox.next_batch(&node, batch_id, self.at(now)) else { return };
        let call = Call::report(&self.config(), batch);
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
                if self.changes_applied.load(Ordering::Relaxed) == changes_applied {
                    H::add(self.metrics().keys, self.keys.lock().insert(hash, key.clone(), now));
                }
                Ok(key)
            }
            Ok(None) => {
                windows::remember_unknown::<H>(&hash, now);
                Err(KeyNotFound::Unknown)
            }
            Err(NotCalled) => Err(KeyNotFound::Unavailable),
        };
        let streams = self.waiting.lock().remove(&hash).unwrap_or_default();
        for stream_id in streams {
            let found = found.clone();
            self.wake(
                stream_id,
                Box::new(move |exchange, worker| match found {
                    Ok(key) => exchange.key_found(key, worker.now()),
                    Err(why) => exchange.key_not_found(why, &worker.fleet(false), worker.now()),
                }),
            );
        }
    }

    fn reserve_answered(&self, stream_id: u32, reservation_id: ReservationId, answered: ReserveAnswered) {
        let is_delivered =
            self.wake(stream_id, Box::new(move |exchange, _| exchange.reserve_answered(answered)));
        let may_be_reserved = match answered {
            // The client disconnected during the call, so nobody will spend these credits.
            ReserveAnswered::Reserved => !is_delivered,
            // The request was refused, or allowed free of charge. If the ledger did reserve credits, release them.
            ReserveAnswered::Unavailable => true,
            ReserveAnswered::KeyInactive | ReserveAnswered::QuotaExceeded(_) => false,
        };
        if may_be_reserved {
            let settlement = Settlement { reservation_id, action: Action::Void };
            self.outbox.lock().settle(settlement, self.metrics());
        }
    }

    /// Passes an event to a waiting stream. Returns false if the stream has ended.
    fn wake(&self, stream_id: u32, event: Event<H>) -> bool {
        let Some(worker) = self.me.upgrade() else { return false };
        H::in_stream(
            self.id,
            stream_id,
            Box::new(move || {
                let stream = worker.streams.lock().get(&stream_id).and_then(Weak::upgrade);
                let Some(stream) = stream else { return false };
                stream.resume(&worker, stream_id, event);
                true
            }),
        )
    }
}
