//! Credits out in Envoys' hands: asked for, accounted for, lost. Ties the book's rules to tenants, budgets, journal and
//! audit trail. What is said of limits in the same breath is `shares`'.

use crate::book::lease::{self, Lease};
use crate::book::{self, Step, Transfer, TransferKind};
use crate::limits::shares;
use crate::model::event::{Event, Kind, LEDGER};
use crate::money::budgets;
use crate::transaction::{Needs, Operation, Refusal, Rows};
use protocol::admin::LeaseState;
use protocol::lease::{Ask, Grant, Round, RoundAnswer, Statement};
use protocol::{Credits, InstanceId, LeaseId, TenantId, Timestamp};
use serde_json::json;
use std::collections::BTreeSet;

/// How long an Envoy spends from a lease without being heard of.
pub const TTL_MILLIS: u64 = 30_000;
/// How much longer the ledger waits for its account. The Envoy counts from before it asked, the ledger from after.
const MARGIN_MILLIS: u64 = 5_000;
/// One lease takes at most this part of what is available, so that several Envoys have some, and leases shrink as the
/// tenant runs out.
const PART: u64 = 4;
/// A lease of fewer calls is not worth its bookkeeping.
const CALLS_MIN: u64 = 8;
/// Open leases of one tenant in one Envoy. It needs one to spend from and one to follow.
const OPEN_MAX: usize = 8;
/// For so long after credits were called back none are lent.
const QUIET_MILLIS: u64 = 1_000;
/// An Envoy that was heard of so long after a recall, and still holds the lease, may be called again: it was away.
const RECALL_AGAIN_MILLIS: u64 = 3_000;
/// At most so many leases are lost in one step, so that no transaction grows without bound.
const LOSE_MAX: u32 = 1000;

/// Takes what one Envoy has to say.
#[derive(Clone)]
pub struct AnswerRound {
    /// What it says.
    pub round: Round,
    /// Tenants with calls that wait for credits to come back.
    pub starved: BTreeSet<TenantId>,
    /// The filter's credential.
    pub actor: String,
    /// When.
    pub now: Timestamp,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoundDone {
    /// For the filter.
    pub answer: RoundAnswer,
    /// Accounts that were refused, for the log: to repeat them would not help.
    pub refused: Vec<(LeaseId, StatementRefused)>,
    /// Tenants to whom something went back.
    pub returned: BTreeSet<TenantId>,
}

/// Why an account was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatementRefused {
    /// The lease is another Envoy's.
    OfAnother,
    /// The book refuses it.
    Refused(book::Refusal),
}

impl Operation for AnswerRound {
    type Answer = RoundDone;

    fn needs(&self, needs: &mut Needs) {
        let Round { asks, accounts, shares, .. } = &self.round;
        needs.leases.extend(accounts.iter().map(|account| account.lease_id.clone()));
        for ask in asks {
            needs.leases.insert(ask.lease_id.clone());
            needs.leases_of.insert(ask.tenant_id.clone());
            needs.spending_of.insert((ask.tenant_id.clone(), self.now.month()));
        }
        needs.shares.extend(shares.iter().map(|ask| (ask.key_id.clone(), ask.limit_id)));
    }

    fn apply(self, rows: &mut Rows) -> Result<RoundDone, Refusal> {
        let AnswerRound { round, starved, actor, now } = self;
        let answer = RoundAnswer {
            lease_ttl_ms: TTL_MILLIS,
            share_ttl_ms: shares::TTL_MILLIS,
            leases: Vec::with_capacity(round.asks.len()),
            ended: Vec::new(),
            shares: Vec::with_capacity(round.shares.len()),
        };
        let mut taken = RoundDone { answer, refused: Vec::new(), returned: BTreeSet::new() };
        // What goes back is there for what is asked.
        for account in &round.accounts {
            take_account(rows, &round.instance, account, &actor, now, &mut taken);
        }
        for ask in round.asks {
            let lease_id = ask.lease_id.clone();
            let is_starved = starved.contains(&ask.tenant_id);
            let credits = lend(rows, ask, (&round.instance, &round.envoy), is_starved, &actor, now);
            taken.answer.leases.push(Grant { lease_id, credits });
        }
        for ask in &round.shares {
            taken.answer.shares.push(shares::grant(rows, &round.instance, ask, now));
        }
        Ok(taken)
    }
}

fn until(now: Timestamp) -> Timestamp {
    now.plus_millis(TTL_MILLIS.saturating_add(MARGIN_MILLIS))
}

fn take_account(
    rows: &mut Rows,
    instance: &InstanceId,
    account: &Statement,
    actor: &str,
    now: Timestamp,
    taken: &mut RoundDone,
) {
    let id = &account.lease_id;
    let Some(lease) = rows.leases.get(id) else {
        if account.closed {
            // Its ask may still be on the way: it must not open a lease of which nobody knows.
            if rows.leases_given_up.get(id).is_none() {
                rows.leases_given_up.insert(id.clone(), now);
            }
        } else {
            taken.answer.ended.push(id.clone());
        }
        return;
    };
    let (tenant_id, before) = (lease.tenant_id.clone(), lease.state);
    let step = if lease.instance == *instance {
        let (Some(accounts), Some(lease)) = (rows.accounts.get_mut(&tenant_id), rows.leases.get_mut(id))
        else {
            return;
        };
        lease::account(accounts, lease, account, until(now), now).map_err(StatementRefused::Refused)
    } else {
        Err(StatementRefused::OfAnother)
    };
    match step {
        Ok(step) => {
            if let Some(lease) = rows.leases.get_mut(id) {
                let was_away =
                    lease.recalled_at.is_some_and(|at| now.millis_since(at) >= RECALL_AGAIN_MILLIS);
                if was_away {
                    lease.recalled_at = None;
                }
            }
            if let Step::Moved(transfers) = step
                && moved(rows, id, &transfers)
            {
                taken.returned.insert(tenant_id);
            }
            record_end(rows, id, before, actor, now);
        }
        Err(why) => taken.refused.push((id.clone(), why)),
    }
    let is_open = rows.leases.get(id).is_some_and(|lease| lease.state == LeaseState::Open);
    if !account.closed && (!is_open || step_refused(taken, id)) {
        taken.answer.ended.push(id.clone());
    }
}

fn step_refused(taken: &RoundDone, id: &LeaseId) -> bool {
    taken.refused.last().is_some_and(|(refused, _)| refused == id)
}

/// Journals what a lease's step moved, and follows it in the month's sum. True if something went back to the tenant.
fn moved(rows: &mut Rows, id: &LeaseId, transfers: &[Transfer]) -> bool {
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

/// Opens a lease, or answers as before. Returns what it holds; zero if there is none to spend from.
fn lend(
    rows: &mut Rows,
    ask: Ask,
    (instance, envoy): (&InstanceId, &str),
    is_starved: bool,
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
    let granted = if is_starved { Credits::ZERO } else { size(rows, &ask, instance, now) };
    let Ask { lease_id: id, tenant_id, .. } = ask;
    let Some(accounts) = rows.accounts.get_mut(&tenant_id).filter(|_| !granted.is_zero()) else {
        return Credits::ZERO;
    };
    let lease = Lease {
        id: id.clone(),
        tenant_id,
        instance: instance.clone(),
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
    moved(rows, &id, &transfers);
    record(rows, Kind::LeaseOpened, &id, actor, now);
    granted
}

/// How much to lend.
fn size(rows: &Rows, ask: &Ask, instance: &InstanceId, now: Timestamp) -> Credits {
    if rows.leases_given_up.get(&ask.lease_id).is_some() {
        return Credits::ZERO;
    }
    let (Some(tenant), Some(accounts)) =
        (rows.tenants.get(&ask.tenant_id), rows.accounts.get(&ask.tenant_id))
    else {
        return Credits::ZERO;
    };
    let is_called_back = |lease: &Lease| {
        lease.recalled_at.is_some_and(|recalled_at| now.millis_since(recalled_at) < QUIET_MILLIS)
    };
    let held = rows.open_leases(&ask.tenant_id).filter(|lease| lease.instance == *instance).count();
    if tenant.suspended_at.is_some()
        || held >= OPEN_MAX
        || rows.open_leases(&ask.tenant_id).any(is_called_back)
    {
        return Credits::ZERO;
    }
    let part = Credits::new(accounts.available().get() / PART).unwrap_or_default();
    let left = budgets::left(rows, &ask.tenant_id, now.month()).unwrap_or(Credits::MAX);
    let granted = ask.credits.min(part).min(left);
    let least = Credits::new(ask.price.get().max(1)).and_then(|price| price.checked_mul(CALLS_MIN));
    if least.is_some_and(|least| granted >= least) { granted } else { Credits::ZERO }
}

/// Charges what Envoys have not accounted for in time.
#[derive(Clone)]
pub struct ExpireLeases {
    /// When.
    pub now: Timestamp,
}

impl Operation for ExpireLeases {
    /// How many were lost, and whether more may be due.
    type Answer = (u64, bool);

    fn needs(&self, needs: &mut Needs) {
        needs.leases_due = Some((self.now, LOSE_MAX));
    }

    fn apply(self, rows: &mut Rows) -> Result<(u64, bool), Refusal> {
        let due = std::mem::take(&mut rows.leases_due);
        let more = u64::try_from(due.len()).is_ok_and(|count| count >= u64::from(LOSE_MAX));
        let mut lost = 0u64;
        for id in due {
            let Some(lease) = rows.leases.get_mut(&id) else { continue };
            let before = lease.state;
            let Some(accounts) = rows.accounts.get_mut(&lease.tenant_id) else { continue };
            // What an earlier operation of this transaction closed or renewed is no longer due; what does not add up
            // stays as it is, for the operator to see.
            let Ok(step) = lease::lose(accounts, lease, self.now) else { continue };
            if let Step::Moved(transfers) = &step {
                moved(rows, &id, transfers);
            }
            if step != Step::Repeated {
                record_end(rows, &id, before, LEDGER, self.now);
                lost = lost.saturating_add(1);
            }
        }
        Ok((lost, more))
    }
}
