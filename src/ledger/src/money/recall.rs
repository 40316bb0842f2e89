//! Credits called back: a call that finds too few available waits while Envoys may still return what they hold.
//!
//! So a call is refused for want of credits only if nothing is available and nothing can be called back. A lease is
//! called back once; an Envoy that does not close it within a bound is taken not to, and calls stop waiting for it.

use crate::book;
use crate::book::lease::Lease;
use crate::money::reservations::Reserve;
use crate::transaction::{Needs, Operation, Payer, Refusal, Rows};
use protocol::filter::{Change, ReserveAnswer, ReserveRequest};
use protocol::{Credits, LeaseId, TenantId, Timestamp};

/// How long an Envoy has to return a lease that was called back.
const ANSWER_MILLIS: u64 = 1_500;
/// A tenant's credits are called back at most this often.
const RECALL_EVERY_MILLIS: u64 = 250;
/// Sets credits aside for one call, and where there are too few, calls back what is on lease.
#[derive(Clone)]
pub struct ReserveOrRecall {
    /// What is asked for.
    pub request: ReserveRequest,
    /// When.
    pub now: Timestamp,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// They are set aside.
    Reserved(ReserveAnswer),
    /// There are too few, but this tenant's Envoys may still return enough.
    MayReturn(TenantId, Refusal),
}

impl Operation for ReserveOrRecall {
    type Answer = Attempt;

    fn needs(&self, needs: &mut Needs) {
        Reserve { request: self.request.clone(), now: self.now }.needs(needs);
        needs.leases_of_keys.insert(self.request.key_id.clone());
    }

    fn apply(self, rows: &mut Rows) -> Result<Attempt, Refusal> {
        let ReserveOrRecall { request, now } = self;
        let key_id = request.key_id.clone();
        let wanted = request.credits;
        let refusal = match (Reserve { request, now }).apply(rows) {
            Ok(answer) => return Ok(Attempt::Reserved(answer)),
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
        recall(rows, &tenant_id, now);
        Ok(Attempt::MayReturn(tenant_id, refusal))
    }
}

/// How many credits more would have been enough; nothing if returned credits would not help.
pub fn missing(refusal: &Refusal, wanted: Credits) -> Option<Credits> {
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
fn recall(rows: &mut Rows, tenant_id: &TenantId, now: Timestamp) {
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
