//! Leases: credits that one Envoy may spend without a call each, and accounts for afterwards.
//!
//! Of a lease that is **open**, what was accounted for as spent is posted and the rest is pending. **Closed**, by its
//! last account, the rest is available again. A lease that ends without its last account is **lost**: all that it held
//! is posted, because all of it may have been spent; the last account, whenever it comes, sets that right.
//!
//! Accounts are cumulative and numbered. An older one moves nothing, and the same one again only renews the lease. An
//! account of a lost lease that is not its last moves nothing either: it may be older than what was spent after it, and
//! credits once given back can't be taken again.

use super::{Accounts, Refusal, Step, TransferKind};
use protocol::admin::{self, LeaseState};
use protocol::lease::Statement;
use protocol::{Credits, InstanceId, LeaseId, TenantId, Timestamp};

#[cfg(test)]
mod tests;

/// Credits in one Envoy's hands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its id.
    pub id: LeaseId,
    /// Who pays.
    pub tenant_id: TenantId,
    /// The run of the Envoy that holds it.
    pub instance: InstanceId,
    /// The Envoy's node id, for people.
    pub envoy: String,
    /// What it held at first.
    pub granted: Credits,
    /// What was spent, by the newest account.
    pub spent: Credits,
    /// The number of the newest account.
    pub revision: Option<u64>,
    /// Where it stands.
    pub state: LeaseState,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// When its Envoy was last heard of it.
    pub renewed_at: Timestamp,
    /// When it is lost unless it is renewed.
    pub expires_at: Timestamp,
    /// When it was called back, if it was.
    pub recalled_at: Option<Timestamp>,
}

impl Lease {
    /// What it holds still, as far as is known.
    pub fn rest(&self) -> Credits {
        match self.state {
            LeaseState::Open => self.unaccounted(),
            LeaseState::Closed | LeaseState::Lost => Credits::ZERO,
        }
    }

    /// What is charged without an account.
    pub fn lost(&self) -> Credits {
        match self.state {
            LeaseState::Lost => self.unaccounted(),
            LeaseState::Open | LeaseState::Closed => Credits::ZERO,
        }
    }

    /// As administrators see it.
    pub fn shown(self) -> admin::Lease {
        admin::Lease {
            lost: self.lost(),
            id: self.id,
            tenant_id: self.tenant_id,
            instance: self.instance,
            envoy: self.envoy,
            state: self.state,
            granted: self.granted,
            spent: self.spent,
            opened_at: self.opened_at,
            renewed_at: self.renewed_at,
            expires_at: self.expires_at,
        }
    }

    fn unaccounted(&self) -> Credits {
        self.granted.checked_sub(self.spent).unwrap_or_default()
    }

    /// Its Envoy was heard of: it lasts until then, and never shorter than it did.
    pub fn renew(&mut self, until: Timestamp, now: Timestamp) {
        self.renewed_at = self.renewed_at.max(now);
        self.expires_at = self.expires_at.max(until);
    }
}

/// Sets the credits of a new lease aside.
pub fn open(accounts: &mut Accounts, lease: &Lease, now: Timestamp) -> Result<Step, Refusal> {
    if lease.granted.is_zero() {
        return Err(Refusal::NothingToMove);
    }
    if lease.granted > accounts.available() {
        return Err(Refusal::QuotaExceeded { available: accounts.available() });
    }
    Ok(Step::Moved(vec![accounts.transfer(TransferKind::Lease, lease.granted, now)?]))
}

/// Takes an account. One that does not close it lets an open lease last until `until`.
pub fn account(
    accounts: &mut Accounts,
    lease: &mut Lease,
    account: &Statement,
    until: Timestamp,
    now: Timestamp,
) -> Result<Step, Refusal> {
    if account.spent > lease.granted {
        return Err(Refusal::AboveLease { granted: lease.granted });
    }
    if lease.revision.is_some_and(|known| account.revision <= known) {
        // Its Envoy counts from when it sent the account again.
        if lease.state == LeaseState::Open && lease.revision == Some(account.revision) {
            lease.renew(until, now);
            return Ok(Step::Changed);
        }
        return Ok(Step::Repeated);
    }
    // An administrator may have given back by hand what an account says was not spent: then there is less to undo.
    let posted = accounts.balance().posted;
    let least = |known: Credits| known.checked_sub(posted).unwrap_or_default();
    let mut after = *accounts;
    let mut transfers = Vec::with_capacity(2);
    let (state, spent) = match lease.state {
        LeaseState::Open => {
            let spent = account.spent.max(least(lease.spent));
            let more = spent.checked_sub(lease.spent).unwrap_or_default();
            let less = lease.spent.checked_sub(spent).unwrap_or_default();
            after.transfer_some(TransferKind::LeaseSpent, more, now, &mut transfers)?;
            after.transfer_some(TransferKind::LeaseUnspent, less, now, &mut transfers)?;
            if account.closed {
                let rest = lease.granted.checked_sub(spent).ok_or(Refusal::OutOfBalance)?;
                after.transfer_some(TransferKind::LeaseReturned, rest, now, &mut transfers)?;
                (LeaseState::Closed, spent)
            } else {
                lease.renew(until, now);
                (LeaseState::Open, spent)
            }
        }
        LeaseState::Closed => {
            if account.spent > lease.spent {
                return Err(Refusal::LeaseEnded);
            }
            let spent = account.spent.max(least(lease.spent));
            let less = lease.spent.checked_sub(spent).ok_or(Refusal::OutOfBalance)?;
            after.transfer_some(TransferKind::LeaseRefunded, less, now, &mut transfers)?;
            (LeaseState::Closed, spent)
        }
        LeaseState::Lost if account.closed => {
            let spent = account.spent.max(least(lease.granted));
            let less = lease.granted.checked_sub(spent).ok_or(Refusal::OutOfBalance)?;
            after.transfer_some(TransferKind::LeaseRefunded, less, now, &mut transfers)?;
            (LeaseState::Closed, spent)
        }
        LeaseState::Lost => (LeaseState::Lost, account.spent),
    };
    *accounts = after;
    lease.state = state;
    lease.spent = spent;
    lease.revision = Some(account.revision);
    Ok(if transfers.is_empty() { Step::Changed } else { Step::Moved(transfers) })
}

/// Charges all that an open lease still holds if its time is over; otherwise does nothing.
pub fn lose(accounts: &mut Accounts, lease: &mut Lease, now: Timestamp) -> Result<Step, Refusal> {
    if lease.state != LeaseState::Open || now < lease.expires_at {
        return Ok(Step::Repeated);
    }
    let mut transfers = Vec::with_capacity(1);
    accounts.transfer_some(TransferKind::LeaseLost, lease.unaccounted(), now, &mut transfers)?;
    lease.state = LeaseState::Lost;
    Ok(if transfers.is_empty() { Step::Changed } else { Step::Moved(transfers) })
}
