//! Leases: credits that one Envoy may spend without asking for each call, and reports afterwards in statements.
//!
//! Of an **open** lease, what was reported as spent is posted and the rest is pending. The last statement makes it
//! **closed**, and the rest available again. A lease that ends without its last statement is **lost**: all that it held is
//! posted, because all of it may have been spent. The last statement, whenever it arrives, corrects that.
//!
//! Statements are cumulative and numbered. An older one moves nothing, and the same one again only renews the lease. A
//! statement of a lost lease that is not its last moves nothing: more may have been spent since, and returned credits can't
//! be charged again.

use super::{Accounts, Refusal, Step, TransferKind};
use protocol::admin::{self, LeaseState};
use protocol::lease::Statement;
use protocol::{Credits, InstanceId, LeaseId, TenantId, Timestamp};

#[cfg(test)]
mod tests;

/// Credits that one Envoy may spend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub id: LeaseId,
    pub tenant_id: TenantId,
    /// The process of the Envoy that holds it; a restart is another instance.
    pub instance: InstanceId,
    /// The Envoy's node id, for display.
    pub envoy: String,
    /// The credits that it was opened with.
    pub granted: Credits,
    /// What was spent, by the newest statement.
    pub spent: Credits,
    /// The number of the newest statement.
    pub revision: Option<u64>,
    pub state: LeaseState,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// When its Envoy last renewed it.
    pub renewed_at: Timestamp,
    /// When it is lost unless it is renewed.
    pub expires_at: Timestamp,
    /// When it was recalled.
    pub recalled_at: Option<Timestamp>,
}

impl Lease {
    /// What it still holds, by the newest statement.
    pub fn rest(&self) -> Credits {
        match self.state {
            LeaseState::Open => self.unaccounted(),
            LeaseState::Closed | LeaseState::Lost => Credits::ZERO,
        }
    }

    /// What was charged without a statement.
    pub fn lost(&self) -> Credits {
        match self.state {
            LeaseState::Lost => self.unaccounted(),
            LeaseState::Open | LeaseState::Closed => Credits::ZERO,
        }
    }

    /// The form that the admin API shows.
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

    /// Extends the lease to `until`. Never shortens it.
    pub fn renew(&mut self, until: Timestamp, now: Timestamp) {
        self.renewed_at = self.renewed_at.max(now);
        self.expires_at = self.expires_at.max(until);
    }
}

/// Moves the credits of a new lease to `pending`.
pub fn open(accounts: &mut Accounts, lease: &Lease, now: Timestamp) -> Result<Step, Refusal> {
    if lease.granted.is_zero() {
        return Err(Refusal::NothingToMove);
    }
    if lease.granted > accounts.available() {
        return Err(Refusal::QuotaExceeded { available: accounts.available() });
    }
    Ok(Step::Moved(vec![accounts.transfer(TransferKind::Lease, lease.granted, now)?]))
}

/// Applies a statement. Unless it closes the lease, it extends an open lease to `until`.
pub fn apply_statement(
    accounts: &mut Accounts,
    lease: &mut Lease,
    statement: &Statement,
    until: Timestamp,
    now: Timestamp,
) -> Result<Step, Refusal> {
    if statement.spent > lease.granted {
        return Err(Refusal::AboveLease { granted: lease.granted });
    }
    if lease.revision.is_some_and(|known| statement.revision <= known) {
        // The Envoy counts its time from the repeated statement.
        if lease.state == LeaseState::Open && lease.revision == Some(statement.revision) {
            lease.renew(until, now);
            return Ok(Step::Changed);
        }
        return Ok(Step::Repeated);
    }
    // An administrator may have refunded by hand what the statement reports as unspent: then less can be returned.
    let posted = accounts.balance().posted;
    let least = |known: Credits| known.checked_sub(posted).unwrap_or_default();
    let mut after = *accounts;
    let mut transfers = Vec::with_capacity(2);
    let (state, spent) = match lease.state {
        LeaseState::Open => {
            let spent = statement.spent.max(least(lease.spent));
            let more = spent.checked_sub(lease.spent).unwrap_or_default();
            let less = lease.spent.checked_sub(spent).unwrap_or_default();
            after.transfer_some(TransferKind::LeaseSpent, more, now, &mut transfers)?;
            after.transfer_some(TransferKind::LeaseUnspent, less, now, &mut transfers)?;
            if statement.closed {
                let rest = lease.granted.checked_sub(spent).ok_or(Refusal::OutOfBalance)?;
                after.transfer_some(TransferKind::LeaseReturned, rest, now, &mut transfers)?;
                (LeaseState::Closed, spent)
            } else {
                lease.renew(until, now);
                (LeaseState::Open, spent)
            }
        }
        LeaseState::Closed => {
            if statement.spent > lease.spent {
                return Err(Refusal::LeaseEnded);
            }
            let spent = statement.spent.max(least(lease.spent));
            let less = lease.spent.checked_sub(spent).ok_or(Refusal::OutOfBalance)?;
            after.transfer_some(TransferKind::LeaseRefunded, less, now, &mut transfers)?;
            (LeaseState::Closed, spent)
        }
        LeaseState::Lost if statement.closed => {
            let spent = statement.spent.max(least(lease.granted));
            let less = lease.granted.checked_sub(spent).ok_or(Refusal::OutOfBalance)?;
            after.transfer_some(TransferKind::LeaseRefunded, less, now, &mut transfers)?;
            (LeaseState::Closed, spent)
        }
        LeaseState::Lost => (LeaseState::Lost, statement.spent),
    };
    *accounts = after;
    lease.state = state;
    lease.spent = spent;
    lease.revision = Some(statement.revision);
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
