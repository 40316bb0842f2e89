//! Budgets: the most that a tenant or a key may spend in a calendar month (UTC).
//!
//! What counts is what calls that began in the month have set aside or were charged; what goes back is free again in
//! that month, also what an administrator gives back. Of a refund that names neither a reservation nor a key nobody knows
//! what it was for: it is free again in the present month for the tenant, and for a key as far as the key would have spent
//! more than its tenant. A budget is asked when a call begins: what is charged beyond its reservation counts, and can go beyond the
//! budget by the overrun that the policy allows. A lease counts for its tenant as long as it is out, in the month in
//! which it was opened. What a key spends that another one asked for counts as its parent's
//! too. Sums are kept for every key and tenant, so that a budget set in the middle of a month holds at once.

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

/// Is there room for so much more in both budgets.
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

/// Follows transfers of a reservation that was made in `month`.
pub fn record(rows: &mut Rows, tenant_id: &TenantId, key_id: &KeyId, month: Month, transfers: &[Transfer]) {
    for at in sums(rows, tenant_id, key_id, month) {
        record_in(rows, at, transfers);
    }
}

/// Follows a refund of which nobody knows whose calls it was for: no key has spent more than its tenant.
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

/// Follows transfers of a lease that was opened in `month`. Which keys spend from it, decisions tell: [`spend`].
pub fn record_lease(rows: &mut Rows, tenant_id: &TenantId, month: Month, transfers: &[Transfer]) {
    record_in(rows, SpendingKey { tenant_id: tenant_id.clone(), key_id: None, month }, transfers);
}

/// A key spent from its tenant's lease, which the tenant's own sum has already. It counts for the key's parent too.
pub fn spend(rows: &mut Rows, tenant_id: &TenantId, key_id: &KeyId, month: Month, credits: Credits) {
    for at in sums(rows, tenant_id, key_id, month).into_iter().filter(|at| at.key_id.is_some()) {
        let before = rows.spending.get(&at).copied().unwrap_or_default();
        rows.spending.insert(at, before.checked_add(credits).unwrap_or(Credits::MAX));
    }
}

/// What the tenant may still spend this month; nothing if it has no budget.
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
            // A reservation of before there were sums has nothing to go back.
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
