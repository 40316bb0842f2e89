//! Recalls: a call that finds too few credits available waits while Envoys may still return leased credits.
//!
//! So a call is refused for lack of credits only if the missing credits are neither available nor can be recalled. A lease
//! is recalled once. Calls stop waiting for an Envoy that does not close it in time.

use crate::book;
use crate::book::lease::Lease;
use crate::money::reservations::Reserve;
use crate::transaction::{Needs, Operation, Payer, Refusal, Rows};
use protocol::filter::{Change, ReserveAnswer, ReserveRequest};
use protocol::{Credits, LeaseId, TenantId, Timestamp};

/// How long an Envoy has to return a recalled lease.
const ANSWER_MILLIS: u64 = 1_500;
/// Least time between two recalls of one tenant.
const RECALL_EVERY_MILLIS: u64 = 250;

/// Reserves credits for one call, or recalls the tenant's leases if too few are available.
#[derive(Clone)]
pub struct ReserveOrRecall {
    pub request: ReserveRequest,
    pub now: Timestamp,
}

/// The result of [`ReserveOrRecall`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// The credits are reserved.
    Reserved(ReserveAnswer),
    /// Too few are available, but this tenant's Envoys may still return enough.
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

/// How many credits are missing; `None` if returned credits would not help.
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

/// Recalls the leases that were not recalled yet.
fn recall(rows: &mut Rows, tenant_id: &TenantId, now: Timestamp) {
    let newest = rows.open_leases(tenant_id).filter_map(|lease| lease.recalled_at).max();
    if newest.is_some_and(|at| now.millis_since(at) < RECALL_EVERY_MILLIS) {
        return;
    }
    let to_recall = rows
        .open_leases(tenant_id)
        .filter(|lease| lease.recalled_at.is_none() && !lease.rest().is_zero())
        .map(|lease| lease.id);
    let to_recall: Vec<LeaseId> = to_recall.collect();
    for id in &to_recall {
        if let Some(lease) = rows.leases.get_mut(id) {
            lease.recalled_at = Some(now);
        }
    }
    if !to_recall.is_empty() {
        rows.change(Change::Recall { tenant_id: tenant_id.clone() }, now);
    }
}
