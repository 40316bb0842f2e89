//! Budgets: the most that a tenant or a key may spend in a calendar month (UTC).
//!
//! A month's sum is what calls that began in the month reserved or were charged. Credits that are returned or refunded
//! reduce the sum of that month.
//!
//! - A refund that names neither a reservation nor a key reduces the tenant's sum of the current month; a key's sum is cut
//!   to its tenant's.
//! - A budget is checked when a call begins. An overrun counts, so a sum can exceed the budget by the overrun that the
//!   policy allows.
//! - An open lease counts for its tenant, in the month in which it was opened.
//! - What an issued key spends counts for its parent too.
//! - Sums are kept for every key and tenant, so that a budget set in the middle of a month holds at once.

use crate::book::{Transfer, TransferKind};
use crate::model::spending::SpendingKey;
use crate::transaction::{Payer, Refusal, Rows};
use protocol::{Credits, KeyId, Month, TenantId};

fn sums(rows: &Rows, tenant_id: &TenantId, key_id: &KeyId, month: Month) -> Vec<SpendingKey> {
    let payers = [Some(key_id), rows.parents.get(key_id)].into_iter().flatten().map(Some).chain([None]);
    let sum =
        |key_id: Option<&KeyId>| SpendingKey { tenant_id: tenant_id.clone(), key_id: key_id.cloned(), month };
    payers.map(sum).collect()
}

/// Refuses if the credits exceed a budget of the key, its parent or the tenant.
pub fn check(
    rows: &Rows,
    tenant_id: &TenantId,
    key_id: &KeyId,
    month: Month,
    credits: Credits,
) -> Result<(), Refusal> {
    for at in sums(rows, tenant_id, key_id, month) {
        let (payer, budget) = match &at.key_id {
            Some(key_id) => (Payer::Key, rows.keys.get(key_id).and_then(|key| key.budget)),
            None => (Payer::Tenant, rows.tenants.get(tenant_id).and_then(|tenant| tenant.budget)),
        };
        let Some(budget) = budget else { continue };
        let spent = rows.spending.get(&at).copied().unwrap_or_default();
        if spent.checked_add(credits).is_none_or(|after| after > budget) {
            return Err(Refusal::BudgetSpent { payer, budget, spent, month });
        }
    }
    Ok(())
}

/// Adds transfers of a reservation that was created in `month`.
pub fn record(rows: &mut Rows, tenant_id: &TenantId, key_id: &KeyId, month: Month, transfers: &[Transfer]) {
    for at in sums(rows, tenant_id, key_id, month) {
        record_in(rows, at, transfers);
    }
}

/// Adds a refund that names no key, and keeps every key's sum at most its tenant's.
pub fn record_refund(rows: &mut Rows, tenant_id: &TenantId, month: Month, refund: &Transfer) {
    let at = SpendingKey { tenant_id: tenant_id.clone(), key_id: None, month };
    record_in(rows, at.clone(), std::slice::from_ref(refund));
    let total = rows.spending.get(&at).copied().unwrap_or_default();
    rows.spending.change_each(|of, spent| {
        let is_above = of.tenant_id == *tenant_id && of.month == month && *spent > total;
        if is_above {
            *spent = total;
        }
        is_above
    });
}

/// Adds transfers of a lease that was opened in `month`. Its decisions say which keys spent: [`spend`].
pub fn record_lease(rows: &mut Rows, tenant_id: &TenantId, month: Month, transfers: &[Transfer]) {
    record_in(rows, SpendingKey { tenant_id: tenant_id.clone(), key_id: None, month }, transfers);
}

/// Adds what a key spent from a lease to the key's and its parent's sums. The tenant's sum already has the lease.
pub fn spend(rows: &mut Rows, tenant_id: &TenantId, key_id: &KeyId, month: Month, credits: Credits) {
    for at in sums(rows, tenant_id, key_id, month).into_iter().filter(|at| at.key_id.is_some()) {
        let before = rows.spending.get(&at).copied().unwrap_or_default();
        rows.spending.insert(at, before.checked_add(credits).unwrap_or(Credits::MAX));
    }
}

/// What the tenant may still spend this month; `None` if it has no budget.
pub fn left(rows: &Rows, tenant_id: &TenantId, month: Month) -> Option<Credits> {
    let budget = rows.tenants.get(tenant_id)?.budget?;
    let at = SpendingKey { tenant_id: tenant_id.clone(), key_id: None, month };
    let spent = rows.spending.get(&at).copied().unwrap_or_default();
    Some(budget.checked_sub(spent).unwrap_or_default())
}

fn record_in(rows: &mut Rows, at: SpendingKey, transfers: &[Transfer]) {
    for transfer in transfers {
        let before = rows.spending.get(&at).copied().unwrap_or_default();
        let after = match transfer.kind {
            TransferKind::Reserve
            | TransferKind::Overrun
            | TransferKind::Correction
            | TransferKind::Lease => before.checked_add(transfer.credits),
            // A reservation from before sums were kept was never added.
            TransferKind::Release
            | TransferKind::Void
            | TransferKind::CorrectionReturned
            | TransferKind::Refund
            | TransferKind::LeaseReturned
            | TransferKind::LeaseRefunded => Some(before.checked_sub(transfer.credits).unwrap_or_default()),
            TransferKind::Post
            | TransferKind::Unaccounted
            | TransferKind::Grant
            | TransferKind::Withdrawal
            | TransferKind::LeaseSpent
            | TransferKind::LeaseUnspent
            | TransferKind::LeaseLost => continue,
        };
        rows.spending.insert(at.clone(), after.unwrap_or(Credits::MAX));
    }
}
