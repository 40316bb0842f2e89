//! The rows of one transaction, in memory: loaded by the store, changed by operations, written by the store.

use super::{Refusal, Table};
use crate::book::lease::Lease;
use crate::book::{Accounts, Reservation, Transfer, TransferKind};
use crate::model::checkpoint::{Checkpoint, CheckpointHead, OldBatches};
use crate::model::credential::ServiceCredential;
use crate::model::event::Event;
use crate::model::key::{Key, Life, Secret};
use crate::model::latency;
use crate::model::replay::{Idempotency, Replay, ReplayKey};
use crate::model::retention::RetentionState;
use crate::model::share::{Share, ShareKey};
use crate::model::spending::SpendingKey;
use crate::model::tenant::Tenant;
use crate::model::usage::{UsageKey, UsageSum};
use protocol::admin::{Agent, AuditKey, LeaseState};
use protocol::api_key::KeyHash;
use protocol::audit::Outcome;
use protocol::audit::{Counted, Decision};
use protocol::filter::Change;
use protocol::session::SessionSecret;
use protocol::{
    AgentId, Credits, EventId, InstanceId, KeyId, LeaseId, OwnerId, PolicyVersion, ReservationId, TenantId,
    Timestamp, TransferId,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// One line of the journal of transfers.
#[derive(Debug)]
pub struct JournalLine {
    /// What moved.
    pub transfer: Transfer,
    pub tenant_id: TenantId,
    /// The reservation it belongs to.
    pub reservation_id: Option<ReservationId>,
    /// The lease it belongs to.
    pub lease_id: Option<LeaseId>,
    /// The id of a grant or correction. Other transfers are identified by kind and reservation or lease.
    pub id: Option<TransferId>,
}

/// Most LLM tokens of one call that are added to the sums, so that no sum overflows. The audit trail has the reported
/// number.
const USAGE_TOKENS_PER_CALL_MAX: u64 = 1_000_000_000;
/// Longest tool name in sums of usage; a longer one is cut there.
const USAGE_TOOL_CHARS_MAX: usize = 200;
/// Usage is summed by the hour.
pub const HOUR_MILLIS: u64 = 3_600_000;

/// The rows of one transaction.
#[derive(Debug, Default)]
pub struct Rows {
    pub tenants: Table<TenantId, Tenant>,
    pub accounts: Table<TenantId, Accounts>,
    pub keys: Table<KeyId, Key>,
    /// The parents of the keys of these rows and reservations.
    pub parents: BTreeMap<KeyId, KeyId>,
    /// How many live children a key has.
    pub children: BTreeMap<KeyId, u64>,
    pub secrets: Table<KeyHash, Secret>,
    pub reservations: Table<ReservationId, Reservation>,
    /// Reservations that were voided before they were created, and when.
    pub reservations_given_up: Table<ReservationId, Timestamp>,
    /// Only added by [`Rows::load_lease`] and [`Rows::add_lease`], which maintain `leases_of`.
    pub leases: Table<LeaseId, Lease>,
    leases_of: HashMap<TenantId, BTreeSet<LeaseId>>,
    /// Leases that were closed before they were opened, and when.
    pub leases_given_up: Table<LeaseId, Timestamp>,
    /// The leases that were due when the rows were loaded.
    pub leases_due: Vec<LeaseId>,
    /// Only added by [`Rows::load_share`] and [`Rows::put_share`], which maintain `sharers`.
    pub shares: Table<ShareKey, Share>,
    sharers: HashMap<(OwnerId, u32), BTreeSet<InstanceId>>,
    /// Envoys that follow the change feed, and when each last did.
    pub envoys: Table<InstanceId, Timestamp>,
    /// How many of all Envoys do, as it was loaded.
    pub envoys_seen: u32,
    /// Delete shares that ended before this, and ids that were voided or closed before this.
    pub forget_ended_before: Option<Timestamp>,
    /// Stored answers to `Idempotency-Key`s.
    pub replays: Table<ReplayKey, Replay>,
    /// The reservations that were due when the rows were loaded.
    pub due: Vec<ReservationId>,
    /// The version of the policy in force.
    pub policy: Option<PolicyVersion>,
    /// Policies to add, with their documents, in order; the last one is in force.
    pub policies: Vec<(PolicyVersion, String, Timestamp)>,
    /// Credentials of administrators and filters.
    pub service_credentials: Table<KeyHash, ServiceCredential>,
    pub agents: Table<AgentId, Agent>,
    pub spending: Table<SpendingKey, Credits>,
    /// The newest checkpoint of the audit trail, as it was loaded.
    pub newest_checkpoint: Option<CheckpointHead>,
    /// A checkpoint to add.
    pub checkpoints: Vec<Checkpoint>,
    /// The public keys that signed checkpoints, as they were loaded.
    pub audit_keys: BTreeSet<String>,
    /// A public key to add.
    pub audit_key: Option<AuditKey>,
    /// Session secrets by their numbers, which ascend.
    pub session_secrets: BTreeMap<u64, SessionSecret>,
    /// Session secrets to add.
    pub new_session_secrets: Vec<(u64, SessionSecret)>,
    /// Session secrets to delete, by number.
    pub forget_session_secrets: Vec<u64>,
    /// Dropped decisions to add to the total.
    pub decisions_dropped: u64,
    pub retention: RetentionState,
    /// Write `retention`.
    pub retention_changed: bool,
    /// Batches of the audit trail whose rows are deleted.
    pub forget_audit: Option<OldBatches>,
    /// Transfers to add.
    pub journal: Vec<JournalLine>,
    /// Events to add, in order.
    pub events: Vec<Event>,
    /// Changes to add, in order.
    pub changes: Vec<(Change, Timestamp)>,
    /// Usage to add.
    pub usage: BTreeMap<UsageKey, UsageSum>,
    /// Delete answers to `Idempotency-Key`s that are older than this.
    pub forget_replays_before: Option<Timestamp>,
    /// Ids of events that are in the database or were added by this transaction.
    pub known_events: HashSet<EventId>,
}

impl Rows {
    /// Adds an event to the audit trail.
    pub fn record(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Adds an event that has an id, once. False if it exists.
    pub fn record_once(&mut self, id: EventId, event: Event) -> bool {
        let new = self.known_events.insert(id);
        if new {
            self.events.push(Event { event_id: Some(id), ..event });
        }
        new
    }

    /// Adds a change to the feed that filters read.
    pub fn change(&mut self, change: Change, now: Timestamp) {
        self.changes.push((change, now));
    }

    /// Adds transfers of a reservation to the journal.
    pub fn journal(&mut self, reservation_id: &ReservationId, tenant_id: &TenantId, transfers: &[Transfer]) {
        self.journal.extend(transfers.iter().map(|transfer| JournalLine {
            transfer: *transfer,
            tenant_id: tenant_id.clone(),
            reservation_id: Some(*reservation_id),
            lease_id: None,
            id: None,
        }));
    }

    /// Adds transfers of a lease to the journal.
    pub fn journal_lease(&mut self, lease_id: &LeaseId, tenant_id: &TenantId, transfers: &[Transfer]) {
        self.journal.extend(transfers.iter().map(|transfer| JournalLine {
            transfer: *transfer,
            tenant_id: tenant_id.clone(),
            reservation_id: None,
            lease_id: Some(*lease_id),
            id: None,
        }));
    }

    /// Adds a lease that the database has.
    pub fn load_lease(&mut self, lease: Lease) {
        self.leases_of.entry(lease.tenant_id.clone()).or_default().insert(lease.id);
        self.leases.load(lease.id, lease);
    }

    /// Adds a new lease.
    pub fn add_lease(&mut self, lease: Lease) {
        self.leases_of.entry(lease.tenant_id.clone()).or_default().insert(lease.id);
        self.leases.insert(lease.id, lease);
    }

    /// The loaded open leases of a tenant: all of them after [`Needs::leases_of`] or [`Needs::leases_of_keys`].
    pub fn open_leases(&self, tenant_id: &TenantId) -> impl Iterator<Item = &Lease> {
        let ids = self.leases_of.get(tenant_id).into_iter().flatten();
        ids.filter_map(|id| self.leases.get(id)).filter(|lease| lease.state == LeaseState::Open)
    }

    /// Adds a share that the database has.
    pub fn load_share(&mut self, at: ShareKey, share: Share) {
        self.sharers.entry((at.owner.clone(), at.limit_id)).or_default().insert(at.instance);
        self.shares.load(at, share);
    }

    /// Adds or replaces a share.
    pub fn put_share(&mut self, at: ShareKey, share: Share) {
        self.sharers.entry((at.owner.clone(), at.limit_id)).or_default().insert(at.instance);
        self.shares.insert(at, share);
    }

    /// The shares of a key's limit, by Envoy.
    pub fn shares_of(&self, owner: &OwnerId, limit_id: u32) -> impl Iterator<Item = (&InstanceId, &Share)> {
        let instances = self.sharers.get(&(owner.clone(), limit_id)).into_iter().flatten();
        let owner = owner.clone();
        instances.filter_map(move |instance| {
            let at = ShareKey { owner: owner.clone(), limit_id, instance: *instance };
            Some((instance, self.shares.get(&at)?))
        })
    }

    /// Whether a loaded key may be used, considering its tenant and its parent, which are loaded with it.
    pub fn life(&self, key: &Key) -> Life {
        let tenant = self.tenants.get(&key.tenant_id);
        let own = key.life(tenant.is_some_and(|tenant| tenant.suspended_at.is_some()));
        self.parent_life(key).map_or(own, |parent| own.within(parent))
    }

    /// Whether the parent of a loaded key may be used.
    pub fn parent_life(&self, key: &Key) -> Option<Life> {
        let link = key.parent.as_ref()?;
        Some(self.keys.get(&link.key_id).map_or(Life::OVER, |parent| parent.life(false)))
    }

    /// Adds a decision to the sums of its hour, at most the current one: an Envoy's fast clock can't add usage to the future.
    pub fn count(&mut self, decision: &Decision, now: Timestamp) {
        let text = |id: Option<&str>| id.unwrap_or_default().to_owned();
        let key = UsageKey {
            hour: Rows::usage_hour(decision.at.min(now)),
            tenant_id: text(decision.tenant_id.as_ref().map(TenantId::as_str)),
            key_id: text(decision.key_id.as_ref().map(KeyId::as_str)),
            agent_id: text(decision.agent_id.as_ref().map(AgentId::as_str)),
            tool: decision.tool.as_deref().unwrap_or_default().chars().take(USAGE_TOOL_CHARS_MAX).collect(),
            outcome: decision.outcome,
            would_deny: decision.would_deny.map_or("", Outcome::as_str).to_owned(),
            bucket: latency::bucket(decision.duration_ms),
        };
        let sum = self.usage.entry(key).or_default();
        sum.calls = sum.calls.saturating_add(1);
        sum.credits = sum.credits.saturating_add(decision.credits.get());
        let reported = decision.usage_tokens.unwrap_or_default();
        let counted = |reported: Option<u64>| reported.unwrap_or_default().min(USAGE_TOKENS_PER_CALL_MAX);
        sum.input_usage_tokens = sum.input_usage_tokens.saturating_add(counted(reported.input));
        sum.output_usage_tokens = sum.output_usage_tokens.saturating_add(counted(reported.output));
    }

    /// Adds counted decisions to the sums of their hour. Their latencies are unknown.
    pub fn count_many(&mut self, counted: &Counted, now: Timestamp) {
        let key = UsageKey {
            hour: Rows::usage_hour(counted.minute.min(now)),
            tenant_id: counted.tenant_id.as_ref().map_or("", TenantId::as_str).to_owned(),
            key_id: counted.key_id.as_ref().map_or("", KeyId::as_str).to_owned(),
            agent_id: String::new(),
            tool: String::new(),
            outcome: counted.outcome,
            would_deny: String::new(),
            bucket: latency::UNKNOWN,
        };
        let sum = self.usage.entry(key).or_default();
        sum.calls = sum.calls.saturating_add(counted.count);
    }

    /// The stored answer to this `Idempotency-Key`.
    pub fn replay<T: DeserializeOwned>(
        &self,
        idempotency: &Option<Idempotency>,
    ) -> Result<Option<T>, Refusal> {
        let Some(idempotency) = idempotency else { return Ok(None) };
        match self.replays.get(&idempotency.at) {
            None => Ok(None),
            Some(replay) if replay.body == idempotency.body => {
                // An older release may have stored an answer that this one can't read.
                serde_json::from_str(&replay.answer).map(Some).map_err(|_| Refusal::IdempotencyKeyReused)
            }
            Some(_) => Err(Refusal::IdempotencyKeyReused),
        }
    }

    /// Stores the answer to this `Idempotency-Key`.
    pub fn keep_answer(&mut self, idempotency: Option<Idempotency>, answer: String, now: Timestamp) {
        if let Some(Idempotency { at, body }) = idempotency {
            self.replays.insert(at, Replay { body, answer, created_at: now });
        }
    }

    /// Stores an answer as JSON.
    pub fn keep_answer_as_json(
        &mut self,
        idempotency: Option<Idempotency>,
        answer: &impl Serialize,
        now: Timestamp,
    ) {
        // Serializing never fails here. If it did, a repeated request would count as new.
        if let Ok(answer) = serde_json::to_string(answer) {
            self.keep_answer(idempotency, answer, now);
        }
    }

    /// The hour in which usage of `moment` is summed, in hours since the epoch.
    pub fn usage_hour(moment: Timestamp) -> u64 {
        moment.as_millis() / HOUR_MILLIS
    }

    /// Decisions by outcome that this transaction added, for metrics.
    pub fn outcomes(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.usage.iter().map(|(key, sum)| (key.outcome.as_str(), sum.calls))
    }

    /// Credits of reservations that this transaction expired, for metrics.
    pub fn credits_unaccounted(&self) -> u64 {
        self.credits_moved(TransferKind::Unaccounted)
    }

    /// Credits of leases that this transaction expired, for metrics.
    pub fn credits_lost(&self) -> u64 {
        self.credits_moved(TransferKind::LeaseLost)
    }

    fn credits_moved(&self, kind: TransferKind) -> u64 {
        let moved = self.journal.iter().filter(|line| line.transfer.kind == kind);
        moved.fold(0, |sum, line| sum.saturating_add(line.transfer.credits.get()))
    }

    /// Recalls by this transaction, for metrics.
    pub fn recalls(&self) -> u64 {
        let recalls = self.changes.iter().filter(|(change, _)| matches!(change, Change::Recall { .. }));
        u64::try_from(recalls.count()).unwrap_or(u64::MAX)
    }
}
