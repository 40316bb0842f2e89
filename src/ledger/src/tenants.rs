//! Tenants and the credits they are given. What credits do afterwards is in `reservations`.

use crate::audit::{Event, Kind};
use crate::book::{self, Accounts};
use crate::idempotency::Idempotency;
use crate::store::rows::JournalLine;
use crate::store::{Needs, Operation, Refusal, Rows};
use protocol::admin::{self, CreditsGranted};
use protocol::{Credits, TenantId, Timestamp, TransferId};
use serde::Serialize;
use serde_json::json;

/// A tenant at rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// For people.
    pub name: String,
    /// Its tier.
    pub tier: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Since when its keys are refused.
    pub suspended_at: Option<Timestamp>,
}

impl Tenant {
    /// As administrators see it.
    pub fn shown(&self, accounts: &Accounts) -> admin::Tenant {
        admin::Tenant {
            id: self.id.clone(),
            name: self.name.clone(),
            tier: self.tier.clone(),
            created_at: self.created_at,
            balance: accounts.balance(),
        }
    }
}

/// Makes a tenant, with credits where it starts with some.
pub struct Create {
    /// The tenant.
    pub tenant: Tenant,
    /// What it starts with, and the id of that transfer.
    pub credits: Option<(Credits, TransferId)>,
    /// Who asks.
    pub actor: String,
    /// So that asking again makes no second tenant.
    pub idempotency: Option<Idempotency>,
    /// When.
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
        let detail = json!({"tenant_id": tenant.id, "name": tenant.name, "tier": tenant.tier});
        rows.record(Event::new(Kind::TenantCreated, now, actor.clone(), &detail).of(&tenant.id));
        if let Some((transfer, id)) = grant {
            let reason = "credits to start with";
            record_grant(rows, &tenant.id, actor, &id, transfer, reason, &accounts);
        }
        let answer = tenant.shown(&accounts);
        rows.accounts.insert(tenant.id.clone(), accounts);
        rows.tenants.insert(tenant.id.clone(), tenant);
        keep(rows, idempotency, &answer, now);
        Ok(answer)
    }
}

/// Gives a tenant credits.
pub struct Grant {
    /// Whom.
    pub tenant_id: TenantId,
    /// How much.
    pub amount: Credits,
    /// Why.
    pub reason: String,
    /// The id of the movement.
    pub id: TransferId,
    /// Who asks.
    pub actor: String,
    /// So that asking again gives nothing more.
    pub idempotency: Option<Idempotency>,
    /// When.
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
        keep(rows, self.idempotency, &answer, self.now);
        Ok(answer)
    }
}

fn record_grant(
    rows: &mut Rows,
    tenant_id: &TenantId,
    actor: String,
    id: &TransferId,
    transfer: book::Transfer,
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
        id: Some(id.clone()),
    });
}

fn keep(rows: &mut Rows, idempotency: Option<Idempotency>, answer: &impl Serialize, now: Timestamp) {
    // An answer that can't be written is not kept; then the same request again is a new one. It always can.
    if let Ok(answer) = serde_json::to_string(answer) {
        rows.keep_answer(idempotency, answer, now);
    }
}
