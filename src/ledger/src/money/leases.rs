//! Leases: opens them, applies Envoys' statements, expires them. Applies the book's rules, and writes the journal, the
//! budgets and the audit trail. The limits in the same round belong to `shares`.

use crate::book::lease::{self, Lease};
use crate::book::{self, Step, Transfer, TransferKind};
use crate::limits::fleet;
use crate::limits::shares;
use crate::model::event::{Event, Kind, LEDGER};
use crate::money::budgets;
use crate::transaction::{Needs, Operation, Refusal, Rows};
use protocol::admin::LeaseState;
use protocol::lease::{Ask, Grant, Round, RoundAnswer, Statement};
use protocol::{Credits, InstanceId, LeaseId, TenantId, Timestamp};
use serde_json::json;
use std::collections::BTreeSet;

/// How long an Envoy may spend from a lease without renewing it.
pub const TTL_MILLIS: u64 = 30_000;
/// How much longer the ledger waits for a statement: the Envoy counts from before it asked, the ledger from after.
const MARGIN_MILLIS: u64 = 5_000;
/// A lease takes at most this fraction (1/PART) of what is available, so that several Envoys get some, and leases shrink as
/// the tenant runs out.
const PART: u64 = 4;
/// A lease for fewer calls costs more bookkeeping than it saves.
const CALLS_MIN: u64 = 8;
/// Most open leases of one tenant in one Envoy. It needs one to spend from and the next one.
const OPEN_MAX: usize = 8;
/// No lease is opened for this long after a recall.
const QUIET_MILLIS: u64 = 1_000;
/// An Envoy that still holds a lease this long after its recall missed the recall, and may be recalled again.
const RECALL_AGAIN_MILLIS: u64 = 3_000;
/// Most leases that one operation expires, so that a transaction stays small.
const EXPIRE_MAX: u32 = 1000;

/// Applies an Envoy's statements, and answers what it asks for.
#[derive(Clone)]
pub struct AnswerRound {
    pub round: Round,
    /// Tenants with calls that wait for returned credits; they get no new lease.
    pub waiting_tenants: BTreeSet<TenantId>,
    /// The id of the filter's credential.
    pub actor: String,
    pub now: Timestamp,
}

/// The result of [`AnswerRound`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoundDone {
    /// The answer to the filter.
    pub answer: RoundAnswer,
    /// Refused statements, for the log. Repeating them would not help.
    pub refused: Vec<(LeaseId, StatementRefused)>,
    /// Tenants that got credits back.
    pub returned: BTreeSet<TenantId>,
}

/// Why a statement was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatementRefused {
    /// The lease belongs to another Envoy.
    OtherEnvoy,
    /// The book refused it.
    Refused(book::Refusal),
}

impl Operation for AnswerRound {
    type Answer = RoundDone;

    fn needs(&self, needs: &mut Needs) {
        let Round { asks, accounts, shares, .. } = &self.round;
        needs.leases.extend(accounts.iter().map(|statement| statement.lease_id));
        for ask in asks {
            needs.leases.insert(ask.lease_id);
            needs.leases_of.insert(ask.tenant_id.clone());
            needs.spending_of.insert((ask.tenant_id.clone(), self.now.month()));
        }
        needs.shares.extend(shares.iter().map(|ask| (ask.owner.clone(), ask.limit_id)));
        if !shares.is_empty() {
            needs.envoys_seen_since = Some(fleet::counted_since(self.now));
        }
    }

    fn apply(self, rows: &mut Rows) -> Result<RoundDone, Refusal> {
        let AnswerRound { round, waiting_tenants, actor, now } = self;
        let answer = RoundAnswer {
            lease_ttl_ms: TTL_MILLIS,
            share_ttl_ms: shares::TTL_MILLIS,
            leases: Vec::with_capacity(round.asks.len()),
            ended: Vec::new(),
            shares: Vec::with_capacity(round.shares.len()),
        };
        let mut done = RoundDone { answer, refused: Vec::new(), returned: BTreeSet::new() };
        // Statements first: returned credits can be leased again.
        for statement in &round.accounts {
            apply_statement(rows, &round.instance, statement, &actor, now, &mut done);
        }
        for ask in round.asks {
            let lease_id = ask.lease_id;
            let has_waiting_calls = waiting_tenants.contains(&ask.tenant_id);
            let credits = open(rows, ask, (&round.instance, &round.envoy), has_waiting_calls, &actor, now);
            done.answer.leases.push(Grant { lease_id, credits });
        }
        for ask in &round.shares {
            done.answer.shares.push(shares::grant(rows, &round.instance, ask, now));
        }
        Ok(done)
    }
}

fn until(now: Timestamp) -> Timestamp {
    now.plus_millis(TTL_MILLIS.saturating_add(MARGIN_MILLIS))
}

fn apply_statement(
    rows: &mut Rows,
    instance: &InstanceId,
    statement: &Statement,
    actor: &str,
    now: Timestamp,
    done: &mut RoundDone,
) {
    let id = &statement.lease_id;
    let Some(lease) = rows.leases.get(id) else {
        if statement.closed {
            // The request for it may still arrive. It must not open a lease that no Envoy knows.
            if rows.leases_given_up.get(id).is_none() {
                rows.leases_given_up.insert(*id, now);
            }
        } else {
            done.answer.ended.push(*id);
        }
        return;
    };
    let (tenant_id, before) = (lease.tenant_id.clone(), lease.state);
    let step = if lease.instance == *instance {
        let (Some(accounts), Some(lease)) = (rows.accounts.get_mut(&tenant_id), rows.leases.get_mut(id))
        else {
            return;
        };
        lease::apply_statement(accounts, lease, statement, until(now), now).map_err(StatementRefused::Refused)
    } else {
        Err(StatementRefused::OtherEnvoy)
    };
    match step {
        Ok(step) => {
            if let Some(lease) = rows.leases.get_mut(id) {
                let missed_recall =
                    lease.recalled_at.is_some_and(|at| now.millis_since(at) >= RECALL_AGAIN_MILLIS);
                if missed_recall {
                    lease.recalled_at = None;
                }
            }
            if let Step::Moved(transfers) = step
                && journal(rows, id, &transfers)
            {
                done.returned.insert(tenant_id);
            }
            record_end(rows, id, before, actor, now);
        }
        Err(why) => done.refused.push((*id, why)),
    }
    let is_open = rows.leases.get(id).is_some_and(|lease| lease.state == LeaseState::Open);
    if !statement.closed && (!is_open || step_refused(done, id)) {
        done.answer.ended.push(*id);
    }
}

fn step_refused(done: &RoundDone, id: &LeaseId) -> bool {
    done.refused.last().is_some_and(|(refused, _)| refused == id)
}

/// Writes a step's transfers into the journal, and adds them to the month's sum. True if the tenant got credits back.
fn journal(rows: &mut Rows, id: &LeaseId, transfers: &[Transfer]) -> bool {
    let Some(lease) = rows.leases.get(id) else { return false };
    let (tenant_id, month) = (lease.tenant_id.clone(), lease.opened_at.month());
    rows.journal_lease(id, &tenant_id, transfers);
    budgets::record_lease(rows, &tenant_id, month, transfers);
    let goes_back = |kind| matches!(kind, TransferKind::LeaseReturned | TransferKind::LeaseRefunded);
    transfers.iter().any(|transfer| goes_back(transfer.kind))
}

fn record_end(rows: &mut Rows, id: &LeaseId, before: LeaseState, actor: &str, now: Timestamp) {
    let Some(lease) = rows.leases.get(id) else { return };
    let kind = match (before, lease.state) {
        (LeaseState::Open, LeaseState::Closed) => Kind::LeaseClosed,
        (LeaseState::Open, LeaseState::Lost) => Kind::LeaseLost,
        (LeaseState::Lost, LeaseState::Closed) => Kind::LeaseSetRight,
        _ => return,
    };
    record(rows, kind, id, actor, now);
}

fn record(rows: &mut Rows, kind: Kind, id: &LeaseId, actor: &str, now: Timestamp) {
    let Some(lease) = rows.leases.get(id) else { return };
    let tenant_id = lease.tenant_id.clone();
    let detail = json!({
        "lease_id": id, "instance": lease.instance, "envoy": lease.envoy, "granted": lease.granted,
        "spent": lease.spent, "lost": lease.lost(),
    });
    rows.record(Event::new(kind, now, actor, &detail).of(&tenant_id));
}

/// Opens a lease, or repeats the answer of one that is open. Returns its credits; zero if there is no lease.
fn open(
    rows: &mut Rows,
    ask: Ask,
    (instance, envoy): (&InstanceId, &str),
    has_waiting_calls: bool,
    actor: &str,
    now: Timestamp,
) -> Credits {
    if let Some(known) = rows.leases.get_mut(&ask.lease_id) {
        let is_same = known.tenant_id == ask.tenant_id && known.instance == *instance;
        if !is_same || known.state != LeaseState::Open {
            return Credits::ZERO;
        }
        known.renew(until(now), now);
        return known.granted;
    }
    let granted = if has_waiting_calls { Credits::ZERO } else { size(rows, &ask, instance, now) };
    let Ask { lease_id: id, tenant_id, .. } = ask;
    let Some(accounts) = rows.accounts.get_mut(&tenant_id).filter(|_| !granted.is_zero()) else {
        return Credits::ZERO;
    };
    let lease = Lease {
        id,
        tenant_id,
        instance: *instance,
        envoy: envoy.to_owned(),
        granted,
        spent: Credits::ZERO,
        revision: None,
        state: LeaseState::Open,
        opened_at: now,
        renewed_at: now,
        expires_at: until(now),
        recalled_at: None,
    };
    let Ok(Step::Moved(transfers)) = lease::open(accounts, &lease, now) else { return Credits::ZERO };
    rows.add_lease(lease);
    journal(rows, &id, &transfers);
    record(rows, Kind::LeaseOpened, &id, actor, now);
    granted
}

/// How many credits a new lease gets.
fn size(rows: &Rows, ask: &Ask, instance: &InstanceId, now: Timestamp) -> Credits {
    if rows.leases_given_up.get(&ask.lease_id).is_some() {
        return Credits::ZERO;
    }
    let (Some(tenant), Some(accounts)) =
        (rows.tenants.get(&ask.tenant_id), rows.accounts.get(&ask.tenant_id))
    else {
        return Credits::ZERO;
    };
    let is_recalled = |lease: &Lease| {
        lease.recalled_at.is_some_and(|recalled_at| now.millis_since(recalled_at) < QUIET_MILLIS)
    };
    let held = rows.open_leases(&ask.tenant_id).filter(|lease| lease.instance == *instance).count();
    if tenant.suspended_at.is_some() || held >= OPEN_MAX || rows.open_leases(&ask.tenant_id).any(is_recalled)
    {
        return Credits::ZERO;
    }
    let part = Credits::new(accounts.available().get() / PART).unwrap_or_default();
    let left = budgets::left(rows, &ask.tenant_id, now.month()).unwrap_or(Credits::MAX);
    let granted = ask.credits.min(part).min(left);
    let least = Credits::new(ask.price.get().max(1)).and_then(|price| price.checked_mul(CALLS_MIN));
    if least.is_some_and(|least| granted >= least) { granted } else { Credits::ZERO }
}

/// Charges the leases whose Envoys sent no statement in time.
#[derive(Clone)]
pub struct ExpireLeases {
    pub now: Timestamp,
}

impl Operation for ExpireLeases {
    /// How many were lost, and whether more may be due.
    type Answer = (u64, bool);

    fn needs(&self, needs: &mut Needs) {
        needs.leases_due = Some((self.now, EXPIRE_MAX));
    }

    fn apply(self, rows: &mut Rows) -> Result<(u64, bool), Refusal> {
        let due = std::mem::take(&mut rows.leases_due);
        let more = u64::try_from(due.len()).is_ok_and(|count| count >= u64::from(EXPIRE_MAX));
        let mut lost = 0u64;
        for id in due {
            let Some(lease) = rows.leases.get_mut(&id) else { continue };
            let before = lease.state;
            let Some(accounts) = rows.accounts.get_mut(&lease.tenant_id) else { continue };
            // Skips what an earlier operation of this transaction closed or renewed. A lease whose accounts don't add up
            // stays open, for the operator to see.
            let Ok(step) = lease::lose(accounts, lease, self.now) else { continue };
            if let Step::Moved(transfers) = &step {
                journal(rows, &id, transfers);
            }
            if step != Step::Repeated {
                record_end(rows, &id, before, LEDGER, self.now);
                lost = lost.saturating_add(1);
            }
        }
        Ok((lost, more))
    }
}
