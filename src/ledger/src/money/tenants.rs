//! Tenants, grants and corrections.

use crate::book::{self, Accounts, Transfer};
use crate::model::event::{Event, Kind};
use crate::model::replay::Idempotency;
use crate::model::tenant::Tenant;
use crate::money::budgets;
use crate::transaction::{JournalLine, Needs, Operation, Refusal, Rows};
use protocol::admin::{self, CreditsGranted, Direction, Patch};
use protocol::filter::Change as Feed;
use protocol::{Credits, KeyId, ReservationId, TenantId, Timestamp, TransferId};
use serde_json::json;

impl Tenant {
    /// The form that the admin API shows.
    pub fn shown(&self, accounts: &Accounts) -> admin::Tenant {
        admin::Tenant {
            id: self.id.clone(),
            name: self.name.clone(),
            tier: self.tier.clone(),
            created_at: self.created_at,
            suspended_at: self.suspended_at,
            budget: self.budget,
            balance: accounts.balance(),
        }
    }
}

/// Creates a tenant, with a first grant if `credits` is set.
#[derive(Clone)]
pub struct Create {
    pub tenant: Tenant,
    /// The first grant, and the id of its transfer.
    pub credits: Option<(Credits, TransferId)>,
    pub actor: String,
    pub idempotency: Option<Idempotency>,
    pub now: Timestamp,
}

impl Operation for Create {
    type Answer = admin::Tenant;

    fn needs(&self, needs: &mut Needs) {
        needs.replays.extend(self.idempotency.as_ref().map(|idempotency| idempotency.at.clone()));
    }

    fn apply(self, rows: &mut Rows) -> Result<admin::Tenant, Refusal> {
        if let Some(answer) = rows.replay(&self.idempotency)? {
            return Ok(answer);
        }
        let Create { tenant, credits, actor, idempotency, now } = self;
        let mut accounts = Accounts::default();
        let grant = match credits {
            Some((credits, id)) if !credits.is_zero() => {
                Some((book::grant(&mut accounts, credits, now)?, id))
            }
            _ => None,
        };
        let detail = json!({
            "tenant_id": tenant.id, "name": tenant.name, "tier": tenant.tier, "budget": tenant.budget,
        });
        rows.record(Event::new(Kind::TenantCreated, now, actor.clone(), &detail).of(&tenant.id));
        if let Some((transfer, id)) = grant {
            let reason = "first grant";
            record_grant(rows, &tenant.id, actor, &id, transfer, reason, &accounts);
        }
        let answer = tenant.shown(&accounts);
        rows.accounts.insert(tenant.id.clone(), accounts);
        rows.tenants.insert(tenant.id.clone(), tenant);
        rows.keep_answer_as_json(idempotency, &answer, now);
        Ok(answer)
    }
}

/// Grants credits to a tenant.
#[derive(Clone)]
pub struct Grant {
    pub tenant_id: TenantId,
    pub amount: Credits,
    pub reason: String,
    /// The id of the transfer.
    pub id: TransferId,
    pub actor: String,
    pub idempotency: Option<Idempotency>,
    pub now: Timestamp,
}

impl Operation for Grant {
    type Answer = CreditsGranted;

    fn needs(&self, needs: &mut Needs) {
        needs.tenants.insert(self.tenant_id.clone());
        needs.replays.extend(self.idempotency.as_ref().map(|idempotency| idempotency.at.clone()));
    }

    fn apply(self, rows: &mut Rows) -> Result<CreditsGranted, Refusal> {
        if let Some(answer) = rows.replay(&self.idempotency)? {
            return Ok(answer);
        }
        let accounts = rows.accounts.get_mut(&self.tenant_id).ok_or(Refusal::TenantUnknown)?;
        let transfer = book::grant(accounts, self.amount, self.now)?;
        let after = *accounts;
        record_grant(rows, &self.tenant_id, self.actor, &self.id, transfer, &self.reason, &after);
        let answer = CreditsGranted {
            id: self.id,
            tenant_id: self.tenant_id,
            amount: self.amount,
            reason: self.reason,
            balance: after.balance(),
        };
        rows.keep_answer_as_json(self.idempotency, &answer, self.now);
        Ok(answer)
    }
}

/// What a refund is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refunded {
    /// One reservation.
    Reservation(ReservationId),
    /// Calls of this key.
    Key(KeyId),
    /// Not stated.
    Anything,
}

/// Refunds a charge, or withdraws a grant.
#[derive(Clone)]
pub struct Correct {
    pub tenant_id: TenantId,
    pub direction: Direction,
    pub amount: Credits,
    pub reason: String,
    pub of: Refunded,
    /// The id of the transfer.
    pub id: TransferId,
    pub actor: String,
    pub idempotency: Option<Idempotency>,
    pub now: Timestamp,
}

impl Operation for Correct {
    type Answer = CreditsGranted;

    fn needs(&self, needs: &mut Needs) {
        needs.tenants.insert(self.tenant_id.clone());
        let month = self.now.month();
        match &self.of {
            Refunded::Reservation(id) => {
                needs.reservations.insert(*id);
            }
            Refunded::Key(id) => {
                needs.keys.insert(id.clone());
                needs.spending.insert((id.clone(), month));
            }
            Refunded::Anything => {
                needs.spending_by_key.insert((self.tenant_id.clone(), month));
            }
        }
        needs.replays.extend(self.idempotency.as_ref().map(|idempotency| idempotency.at.clone()));
    }

    fn apply(self, rows: &mut Rows) -> Result<CreditsGranted, Refusal> {
        if let Some(answer) = rows.replay(&self.idempotency)? {
            return Ok(answer);
        }
        let transfer = self.correct(rows)?;
        let balance = rows.accounts.get(&self.tenant_id).ok_or(Refusal::TenantUnknown)?.balance();
        let (reservation_id, key_id) = match self.of {
            Refunded::Reservation(id) => (Some(id), None),
            Refunded::Key(id) => (None, Some(id)),
            Refunded::Anything => (None, None),
        };
        let detail = json!({
            "transfer_id": self.id, "direction": self.direction, "credits": self.amount, "reason": self.reason,
            "reservation_id": reservation_id, "key_id": key_id, "balance": balance,
        });
        rows.record(Event::new(Kind::CreditsCorrected, self.now, self.actor, &detail).of(&self.tenant_id));
        rows.journal.push(JournalLine {
            transfer,
            tenant_id: self.tenant_id.clone(),
            reservation_id,
            lease_id: None,
            id: Some(self.id.clone()),
        });
        let answer = CreditsGranted {
            id: self.id,
            tenant_id: self.tenant_id,
            amount: self.amount,
            reason: self.reason,
            balance,
        };
        rows.keep_answer_as_json(self.idempotency, &answer, self.now);
        Ok(answer)
    }
}

impl Correct {
    /// Moves the credits, and adds them to the month's sums.
    fn correct(&self, rows: &mut Rows) -> Result<Transfer, Refusal> {
        let Correct { tenant_id, direction, amount, now, .. } = self;
        let month = now.month();
        match &self.of {
            Refunded::Reservation(id) => {
                let of = rows.reservations.get(id).filter(|of| of.request.tenant_id == *tenant_id);
                let of = of.ok_or(Refusal::ReservationUnknown)?;
                let (key_id, month) = (of.request.key_id.clone(), of.reserved_at.month());
                let accounts = rows.accounts.get_mut(tenant_id).ok_or(Refusal::TenantUnknown)?;
                let of = rows.reservations.get_mut(id).ok_or(Refusal::ReservationUnknown)?;
                let transfer = book::refund_reservation(accounts, of, *amount, *now)?;
                budgets::record(rows, tenant_id, &key_id, month, &[transfer]);
                Ok(transfer)
            }
            Refunded::Key(key_id) => {
                let accounts = rows.accounts.get_mut(tenant_id).ok_or(Refusal::TenantUnknown)?;
                let key = rows.keys.get(key_id).filter(|key| key.tenant_id == *tenant_id);
                key.ok_or(Refusal::KeyUnknown)?;
                let transfer = book::correct(accounts, *direction, *amount, *now)?;
                budgets::record(rows, tenant_id, key_id, month, &[transfer]);
                Ok(transfer)
            }
            Refunded::Anything => {
                let accounts = rows.accounts.get_mut(tenant_id).ok_or(Refusal::TenantUnknown)?;
                let transfer = book::correct(accounts, *direction, *amount, *now)?;
                if *direction == Direction::Refund {
                    budgets::record_refund(rows, tenant_id, month, &transfer);
                }
                Ok(transfer)
            }
        }
    }
}

/// How to change a tenant.
#[derive(Debug, Clone)]
pub enum Change {
    /// New name, tier or budget.
    Update { name: Option<String>, tier: Option<String>, budget: Patch<Credits> },
    /// Refuse its keys.
    Suspend,
    /// Accept its keys again.
    Resume,
}

/// Changes a tenant. The same change again changes nothing.
#[derive(Clone)]
pub struct Alter {
    pub tenant_id: TenantId,
    pub change: Change,
    /// Refuses the change unless this is the tenant's version.
    pub if_version: Option<u64>,
    pub reason: String,
    pub actor: String,
    pub now: Timestamp,
}

impl Operation for Alter {
    type Answer = (Tenant, Accounts);

    fn needs(&self, needs: &mut Needs) {
        needs.tenants.insert(self.tenant_id.clone());
    }

    fn apply(self, rows: &mut Rows) -> Result<(Tenant, Accounts), Refusal> {
        let Alter { tenant_id, change, if_version, reason, actor, now } = self;
        let before = rows.tenants.get(&tenant_id).ok_or(Refusal::TenantUnknown)?.clone();
        let accounts = *rows.accounts.get(&tenant_id).ok_or(Refusal::TenantUnknown)?;
        if if_version.is_some_and(|version| version != before.version) {
            return Err(Refusal::ChangedSince { version: before.version });
        }
        let mut after = before.clone();
        let (kind, detail) = match change {
            Change::Update { name, tier, budget } => {
                after.name = name.unwrap_or(after.name);
                after.tier = tier.unwrap_or(after.tier);
                after.budget = budget.apply(after.budget);
                let shown = |tenant: &Tenant| json!({"name": tenant.name, "tier": tenant.tier, "budget": tenant.budget});
                (
                    Kind::TenantUpdated,
                    json!({"before": shown(&before), "after": shown(&after), "reason": reason}),
                )
            }
            Change::Suspend => {
                after.suspended_at = after.suspended_at.or(Some(now));
                (Kind::TenantSuspended, json!({"reason": reason}))
            }
            Change::Resume => {
                after.suspended_at = None;
                (Kind::TenantResumed, json!({"reason": reason}))
            }
        };
        if after == before {
            return Ok((before, accounts));
        }
        after.version = after.version.saturating_add(1);
        // Key records hold the tenant's tier and suspension, so filters must load them again.
        if after.tier != before.tier || after.suspended_at != before.suspended_at {
            rows.change(Feed::Tenant { tenant_id: tenant_id.clone() }, now);
        }
        rows.record(Event::new(kind, now, actor, &detail).of(&tenant_id));
        rows.tenants.insert(tenant_id, after.clone());
        Ok((after, accounts))
    }
}

fn record_grant(
    rows: &mut Rows,
    tenant_id: &TenantId,
    actor: String,
    id: &TransferId,
    transfer: Transfer,
    reason: &str,
    accounts: &Accounts,
) {
    let detail = json!({
        "transfer_id": id, "credits": transfer.credits, "reason": reason, "balance": accounts.balance(),
    });
    rows.record(Event::new(Kind::CreditsGranted, transfer.at, actor, &detail).of(tenant_id));
    rows.journal.push(JournalLine {
        transfer,
        tenant_id: tenant_id.clone(),
        reservation_id: None,
        lease_id: None,
        id: Some(id.clone()),
    });
}
