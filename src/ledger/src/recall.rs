//! Credits called back: a call that finds too few available waits while Envoys may still return what they hold.
//!
//! So a call is refused for want of credits only if nothing is available and nothing can be called back. A lease is
//! called back once; an Envoy that does not close it within a bound is taken not to, and calls stop waiting for it.

use crate::book::lease::Lease;
use crate::budgets::Payer;
use crate::reservations::Reserve;
use crate::store::{Error, Needs, Operation, Refusal, Rows, Store};
use crate::{book, moment};
use protocol::filter::{Change, ReserveAnswer, ReserveRequest};
use protocol::{Credits, LeaseId, TenantId, Timestamp};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// How long an Envoy has to return a lease that was called back.
const ANSWER_MILLIS: u64 = 1_500;
/// A tenant's credits are called back at most this often.
const RECALL_EVERY_MILLIS: u64 = 250;
/// How long a call waits. The filter waits for two seconds unless it is told otherwise.
const WAIT_MAX: Duration = Duration::from_millis(1_200);
/// How often a call that waits looks for itself: another ledger may have taken back what it waits for.
const LOOK_EVERY: Duration = Duration::from_millis(75);
/// How many calls of one tenant wait, and of all; those that come on top are refused at once.
const WAITING_MAX: usize = 64;
const WAITING_IN_ALL_MAX: usize = 512;

/// Sets credits aside for one call, and where there are too few, calls back what is on lease.
#[derive(Clone)]
struct ReserveOrRecall {
    request: ReserveRequest,
    now: Timestamp,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tried {
    /// They are set aside.
    Reserved(ReserveAnswer),
    /// There are too few, but this tenant's Envoys may still return enough.
    MayReturn(TenantId, Refusal),
}

impl Operation for ReserveOrRecall {
    type Answer = Tried;

    fn needs(&self, needs: &mut Needs) {
        Reserve { request: self.request.clone(), now: self.now }.needs(needs);
        needs.leases_of_keys.insert(self.request.key_id.clone());
    }

    fn apply(self, rows: &mut Rows) -> Result<Tried, Refusal> {
        let ReserveOrRecall { request, now } = self;
        let key_id = request.key_id.clone();
        let wanted = request.credits;
        let refusal = match (Reserve { request, now }).apply(rows) {
            Ok(answer) => return Ok(Tried::Reserved(answer)),
            Err(refusal) => refusal,
        };
        let missing = missing(&refusal, wanted);
        let tenant_id = rows.keys.get(&key_id).map(|key| key.tenant_id.clone());
        let (Some(missing), Some(tenant_id)) = (missing, tenant_id) else { return Err(refusal) };
        let held = rows.open_leases(&tenant_id).filter(|lease| may_return(lease, now));
        let held =
            held.fold(Credits::ZERO, |sum, lease| sum.checked_add(lease.rest()).unwrap_or(Credits::MAX));
        if held < missing {
            return Err(refusal);
        }
        call_back(rows, &tenant_id, now);
        Ok(Tried::MayReturn(tenant_id, refusal))
    }
}

/// How many credits more would have been enough; nothing if returned credits would not help.
fn missing(refusal: &Refusal, wanted: Credits) -> Option<Credits> {
    match refusal {
        Refusal::Money(book::Refusal::QuotaExceeded { available }) => wanted.checked_sub(*available),
        Refusal::BudgetSpent { payer: Payer::Tenant, budget, spent, .. } => {
            spent.checked_add(wanted)?.checked_sub(*budget)
        }
        _ => None,
    }
}

fn may_return(lease: &Lease, now: Timestamp) -> bool {
    !lease.rest().is_zero() && lease.recalled_at.is_none_or(|at| now.millis_since(at) < ANSWER_MILLIS)
}

/// Calls back the leases that were not yet.
fn call_back(rows: &mut Rows, tenant_id: &TenantId, now: Timestamp) {
    let newest = rows.open_leases(tenant_id).filter_map(|lease| lease.recalled_at).max();
    if newest.is_some_and(|at| now.millis_since(at) < RECALL_EVERY_MILLIS) {
        return;
    }
    let uncalled = rows
        .open_leases(tenant_id)
        .filter(|lease| lease.recalled_at.is_none() && !lease.rest().is_zero())
        .map(|lease| lease.id.clone());
    let uncalled: Vec<LeaseId> = uncalled.collect();
    for id in &uncalled {
        if let Some(lease) = rows.leases.get_mut(id) {
            lease.recalled_at = Some(now);
        }
    }
    if !uncalled.is_empty() {
        rows.change(Change::Recall { tenant_id: tenant_id.clone() }, now);
    }
}

/// Sets credits aside for one call; where there are too few, waits for what may come back.
pub async fn reserve(
    store: &dyn Store,
    waiting: &Waiting,
    request: ReserveRequest,
) -> Result<ReserveAnswer, Error> {
    // Most calls find enough, and need not know of leases.
    match store.run(Reserve { request: request.clone(), now: moment::now() }).await {
        Err(Error::Refused(refusal)) if missing(&refusal, request.credits).is_some() => {}
        other => return other,
    }
    let deadline = Instant::now().checked_add(WAIT_MAX).unwrap_or_else(Instant::now);
    let mut turn: Option<Turn<'_>> = None;
    loop {
        // Marked as seen before the attempt: what comes back during it wakes the wait below.
        if let Some(turn) = &mut turn {
            turn.news.mark_unchanged();
        }
        let attempt = ReserveOrRecall { request: request.clone(), now: moment::now() };
        let (tenant_id, refusal) = match store.run(attempt).await? {
            Tried::Reserved(answer) => return Ok(answer),
            Tried::MayReturn(tenant_id, refusal) => (tenant_id, refusal),
        };
        if turn.is_none() {
            turn = waiting.enter(tenant_id);
        }
        let Some(turn) = turn.as_mut().filter(|_| Instant::now() < deadline) else {
            return Err(Error::Refused(refusal));
        };
        // Woken or not, it looks again.
        let _ = timeout(LOOK_EVERY, turn.news.changed()).await;
    }
}

/// The calls of this process that wait, by tenant.
#[derive(Default)]
pub struct Waiting {
    rooms: Mutex<HashMap<TenantId, Room>>,
}

#[derive(Default)]
struct Room {
    news: watch::Sender<()>,
    calls: usize,
}

/// One call that waits.
struct Turn<'w> {
    waiting: &'w Waiting,
    tenant_id: TenantId,
    news: watch::Receiver<()>,
}

impl Waiting {
    /// Lets one more call wait, if there is room.
    fn enter(&self, tenant_id: TenantId) -> Option<Turn<'_>> {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        let in_all = rooms.values().fold(0usize, |sum, room| sum.saturating_add(room.calls));
        let calls = rooms.get(&tenant_id).map_or(0, |room| room.calls);
        if in_all >= WAITING_IN_ALL_MAX || calls >= WAITING_MAX {
            return None;
        }
        let room = rooms.entry(tenant_id.clone()).or_default();
        room.calls = room.calls.saturating_add(1);
        let news = room.news.subscribe();
        Some(Turn { waiting: self, tenant_id, news })
    }

    /// Tenants with calls that wait.
    pub fn starved(&self) -> BTreeSet<TenantId> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Something went back to the tenant.
    pub fn wake(&self, tenant_id: &TenantId) {
        if let Some(room) = self.rooms.lock().unwrap_or_else(PoisonError::into_inner).get(tenant_id) {
            room.news.send_replace(());
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut rooms = self.waiting.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(room) = rooms.get_mut(&self.tenant_id) {
            room.calls = room.calls.saturating_sub(1);
            if room.calls == 0 {
                rooms.remove(&self.tenant_id);
            }
        }
    }
}
