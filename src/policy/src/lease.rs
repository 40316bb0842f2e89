//! Leases of credits: what one Envoy may spend for its tenants without a call each, and how it statements for that to the
//! ledger.
//!
//! The leases of one tenant are kept together, those of several tenants in one value of shared data, and changed by
//! compare-and-swap. The rate of spending is measured, and the next lease is asked for before the current one is used up.
//! Statements are made from the shared data, so that they survive the VM that spent the credits.
//!
//! Nothing is spent from a lease after its deadline or after it is closed. So the ledger may reuse what a closing
//! statement leaves, and even a hundred Envoys can't spend the same credit twice.

mod layout;

use crate::value::Corrupt;
use crate::window::Monotonic;
use protocol::{Credits, EventId, LeaseId};
use std::num::NonZeroU64;

/// The number of values that hold leases. It is fixed, so that the shared data of an Envoy is bounded.
pub const SLOTS: NonZeroU64 = NonZeroU64::new(4096).unwrap();
/// After this long without spending, a tenant's leases are returned.
pub const IDLE_MS: u64 = 5_000;
/// The interval between statements.
pub const ACCOUNT_MS: u64 = 2_000;

/// A lease should last this long at the current rate. So refills cost one call in a few seconds, whatever the load.
const LASTS_SECONDS: u64 = 2;
/// A lease covers at least this many calls.
const CALLS_MIN: u64 = 16;
/// A tenant with fewer calls than this within a second or two reserves exactly: the credits of a lease would stay unused.
const CALLS_TO_LEASE: u64 = 4;
/// The record of a tenant without leases is dropped after this time.
const FORGET_MS: u64 = 2_000;
/// An ask without an answer is given up after this time.
const ASK_MS: u64 = 3_000;
/// How long calls reserve exactly after the ledger had nothing to lease.
const NO_CREDITS_MS: u64 = 1_000;
/// A statement that is not acknowledged is sent again after this time.
const RESEND_MS: u64 = 1_000;
/// How long a closed lease accepts refunds of calls that were still running, and how many such leases of a tenant are kept.
const CLOSED_MS: u64 = 600_000;
const CLOSED_MAX: usize = 4;
/// With this many leases of a tenant, no more is asked for until the ledger acknowledges some.
const LEASES_MAX: usize = 32;
/// A lease is renewed when less than this is left of its time.
const RENEW_MS: u64 = 15_000;
/// Spending stops this long before the deadline, because clocks drift.
const MARGIN_MS: u64 = 1_000;

/// The slot of a tenant's leases.
pub fn slot(tenant: u64) -> u16 {
    u16::try_from(tenant % SLOTS).unwrap_or(0)
}

/// The name of the value of a slot. The number in it is the version of the layout.
pub fn name(slot: u16) -> String {
    format!("agentrelay/lease/1/{slot}")
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Lease {
    id: LeaseId,
    granted: u64,
    /// Refunds of failed calls are subtracted.
    spent: u64,
    /// What the last statement said, and its revision; both are zero before the first statement.
    reported: u64,
    revision: u64,
    /// The last revision that the ledger acknowledged.
    acknowledged_revision: u64,
    /// When the last statement was sent.
    sent_ms: u64,
    /// Nothing is spent after this.
    deadline_ms: u64,
    /// When the lease was closed; zero while it is open.
    closed_ms: u64,
}

/// One tenant's leases in this Envoy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct TenantLeases {
    tenant: u64,
    /// The lease that was asked for, while the ask is pending, and the time when the ask is given up, else zero.
    asked: Option<LeaseId>,
    asked_until_ms: u64,
    /// The ledger has nothing to lease before this time.
    no_ask_before_ms: u64,
    /// The second of the last spending, the credits spent in it, and those spent in the second before.
    second: u64,
    spent_this_second: u64,
    spent_last_second: u64,
    last_spent_ms: u64,
    leases: Vec<Lease>,
}

/// The result of an attempt to spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// The tenant had no leases here before.
    pub is_new: bool,
    /// The lease that paid; `None` if none could, and the call must reserve exactly.
    pub lease: Option<LeaseId>,
    /// Ask the ledger for a lease of this many credits, with the request's own id.
    pub ask: Option<Credits>,
}

/// One statement to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement {
    /// The fingerprint of the tenant.
    pub tenant: u64,
    /// The lease.
    pub lease: LeaseId,
    /// Grows with each statement of the lease.
    pub revision: u64,
    /// All credits spent so far; refunds are subtracted.
    pub spent: u64,
    /// Nothing more will be spent.
    pub closed: bool,
}

/// Spends `price` for one call of a tenant, if a lease has enough credits. `request` is the request's id. If another lease
/// is to be asked for, it gets this id.
pub fn spend(
    value: &[u8],
    tenant: u64,
    price: Credits,
    request: EventId,
    now: Monotonic,
) -> Result<(Vec<u8>, Spent), Corrupt> {
    change(value, tenant, |held| {
        let is_new = held.last_spent_ms == 0;
        let lease = held.spend(price.get(), now);
        Spent { is_new, lease, ask: held.ask(price.get(), request, now) }
    })
}

/// Returns credits that a call was charged too much. False if no lease is left that can take them.
pub fn refund(
    value: &[u8],
    tenant: u64,
    lease: LeaseId,
    credits: Credits,
) -> Result<(Vec<u8>, bool), Corrupt> {
    change(value, tenant, |held| held.refund(lease, credits.get()))
}

/// The ledger granted a lease until `deadline`. No credits means that it has none to lease.
pub fn granted(
    value: &[u8],
    tenant: u64,
    lease: LeaseId,
    credits: Credits,
    deadline: Monotonic,
    now: Monotonic,
) -> Result<Vec<u8>, Corrupt> {
    change(value, tenant, |held| held.granted(lease, credits.get(), deadline, now)).map(|(next, ())| next)
}

/// The ledger acknowledged this statement: the lease is valid until `deadline`, or it has ended at the ledger.
pub fn acknowledged(
    value: &[u8],
    statement: &Statement,
    deadline: Option<Monotonic>,
    now: Monotonic,
) -> Result<Vec<u8>, Corrupt> {
    change(value, statement.tenant, |held| held.acknowledged(statement, deadline, now)).map(|(next, ())| next)
}

/// The ledger recalls the leases of a tenant.
pub fn recalled(value: &[u8], tenant: u64, now: Monotonic) -> Result<Vec<u8>, Corrupt> {
    let mut tenants = layout::read(value)?;
    if let Some(held) = tenants.iter_mut().find(|held| held.tenant == tenant) {
        held.recalled(now);
    }
    Ok(layout::write(&tenants))
}

/// The statements that are due for one value, and the value after they are sent. Tenants without leases are dropped.
pub fn due(value: &[u8], now: Monotonic) -> Result<(Vec<u8>, Vec<Statement>), Corrupt> {
    let mut tenants = layout::read(value)?;
    let mut statements = Vec::new();
    for held in &mut tenants {
        held.due(now, &mut statements);
    }
    tenants.retain(|held| !held.can_be_dropped(now));
    Ok((layout::write(&tenants), statements))
}

fn change<A>(
    value: &[u8],
    tenant: u64,
    change: impl FnOnce(&mut TenantLeases) -> A,
) -> Result<(Vec<u8>, A), Corrupt> {
    let mut tenants = layout::read(value)?;
    let place = tenants.iter().position(|held| held.tenant == tenant).unwrap_or_else(|| {
        tenants.push(TenantLeases { tenant, ..TenantLeases::default() });
        tenants.len().saturating_sub(1)
    });
    // The tenant exists: it was found or pushed above.
    let held = tenants.get_mut(place).ok_or(Corrupt)?;
    let answer = change(held);
    Ok((layout::write(&tenants), answer))
}

impl TenantLeases {
    fn spend(&mut self, price: u64, now: Monotonic) -> Option<LeaseId> {
        let second = now.0 / 1000;
        match second.saturating_sub(self.second) {
            0 => {}
            1 => (self.spent_last_second, self.spent_this_second) = (self.spent_this_second, 0),
            _ => (self.spent_last_second, self.spent_this_second) = (0, 0),
        }
        self.second = self.second.max(second);
        self.spent_this_second = self.spent_this_second.saturating_add(price);
        self.last_spent_ms = now.0.max(1);
        let place = self.leases.iter().position(|lease| lease.left(now) >= price)?;
        let (passed, rest) = self.leases.split_at_mut(place);
        // These leases have too little left for this call, and perhaps for all later calls. They are closed, because otherwise
        // they would add up to the number of leases that the ledger allows.
        passed.iter_mut().for_each(|lease| lease.close(now));
        let lease = rest.first_mut()?;
        lease.spent = lease.spent.saturating_add(price);
        Some(lease.id)
    }

    /// The credits to ask for, if another lease is needed now.
    fn ask(&mut self, price: u64, request: EventId, now: Monotonic) -> Option<Credits> {
        if now.0 < self.no_ask_before_ms || now.0 < self.asked_until_ms || self.leases.len() >= LEASES_MAX {
            return None;
        }
        if self.spent_this_second.saturating_add(self.spent_last_second)
            < price.saturating_mul(CALLS_TO_LEASE)
        {
            return None;
        }
        let rate = self.spent_this_second.max(self.spent_last_second);
        let wanted = rate.saturating_mul(LASTS_SECONDS).max(price.saturating_mul(CALLS_MIN));
        let open = || self.leases.iter().filter(|lease| lease.left(now) > 0);
        let left = open().fold(0, |sum: u64, lease| sum.saturating_add(lease.left(now)));
        let newest = open().next_back().map_or(0, |lease| lease.granted);
        if left > newest / 4 && left >= price {
            return None;
        }
        let credits = Credits::new(wanted)?;
        self.abandon(now);
        self.asked = Some(request.into());
        self.asked_until_ms = now.0.saturating_add(ASK_MS);
        Some(credits)
    }

    /// Gives up the pending ask, if there is one. If the ledger received it, a closing statement tells it that nothing will be
    /// spent.
    fn abandon(&mut self, now: Monotonic) {
        let Some(id) = self.asked.take() else { return };
        self.leases.push(Lease { closed_ms: now.0.max(1), ..Lease::new(id, 0, now) });
        self.forget_closed();
    }

    fn refund(&mut self, id: LeaseId, credits: u64) -> bool {
        let takes = |lease: &&mut Lease| lease.spent >= credits;
        let place = match self.leases.iter().position(|lease| lease.id == id) {
            Some(place) => self.leases.get_mut(place).filter(takes),
            // That lease was dropped long ago; another lease of the tenant takes the refund.
            None => self.leases.iter_mut().rev().find(takes),
        };
        let Some(lease) = place else { return false };
        lease.spent = lease.spent.saturating_sub(credits);
        true
    }

    fn granted(&mut self, id: LeaseId, credits: u64, deadline: Monotonic, now: Monotonic) {
        if self.asked == Some(id) {
            self.asked = None;
            self.asked_until_ms = 0;
            if credits == 0 {
                self.no_ask_before_ms = now.0.saturating_add(NO_CREDITS_MS);
            } else {
                self.leases.push(Lease::new(id, credits, deadline));
            }
        } else if let Some(lease) = self.leases.iter_mut().find(|lease| lease.id == id && lease.granted == 0)
        {
            // The ask was given up before this answer. Nothing is spent from the lease; the next statement returns it.
            lease.granted = credits;
        }
    }

    fn acknowledged(&mut self, statement: &Statement, deadline: Option<Monotonic>, now: Monotonic) {
        let Some(lease) = self.leases.iter_mut().find(|lease| lease.id == statement.lease) else { return };
        lease.acknowledged_revision = lease.acknowledged_revision.max(statement.revision);
        match deadline {
            Some(deadline) => lease.deadline_ms = lease.deadline_ms.max(deadline.0),
            None if lease.closed_ms == 0 => lease.closed_ms = now.0.max(1),
            None => {}
        }
    }

    fn recalled(&mut self, now: Monotonic) {
        self.no_ask_before_ms = now.0.saturating_add(NO_CREDITS_MS);
        if self.asked.is_some() {
            // The lease that was asked for is recalled too.
            self.abandon(now);
            self.asked_until_ms = 0;
        }
        self.leases.iter_mut().for_each(|lease| lease.close(now));
    }

    fn due(&mut self, now: Monotonic, statements: &mut Vec<Statement>) {
        if now.0 >= self.asked_until_ms {
            self.abandon(now);
        }
        let is_idle = now.0 >= self.last_spent_ms.saturating_add(IDLE_MS);
        for lease in &mut self.leases {
            let is_empty = lease.spent >= lease.granted;
            if is_idle || is_empty || now.0.saturating_add(MARGIN_MS) >= lease.deadline_ms {
                lease.close(now);
            }
            if lease.is_due(now) {
                lease.revision = lease.revision.saturating_add(1);
                lease.reported = lease.spent;
                lease.sent_ms = now.0;
                statements.push(Statement {
                    tenant: self.tenant,
                    lease: lease.id,
                    revision: lease.revision,
                    spent: lease.spent,
                    closed: lease.closed_ms != 0,
                });
            }
        }
        self.leases.retain(|lease| {
            lease.closed_ms == 0 || !lease.is_settled() || now.0 < lease.closed_ms.saturating_add(CLOSED_MS)
        });
        self.forget_closed();
    }

    /// Keeps only the newest of the leases that the ledger knows to be closed.
    fn forget_closed(&mut self) {
        let is_over = |lease: &Lease| lease.closed_ms != 0 && lease.is_settled();
        let over = self.leases.iter().filter(|lease| is_over(lease)).count();
        let mut excess = over.saturating_sub(CLOSED_MAX);
        self.leases.retain(|lease| {
            let is_dropped = excess > 0 && is_over(lease);
            excess = excess.saturating_sub(usize::from(is_dropped));
            !is_dropped
        });
    }

    fn can_be_dropped(&self, now: Monotonic) -> bool {
        let is_quiet = now.0 >= self.last_spent_ms.saturating_add(FORGET_MS);
        self.leases.is_empty() && self.asked.is_none() && now.0 >= self.no_ask_before_ms && is_quiet
    }
}

impl Lease {
    fn new(id: LeaseId, granted: u64, deadline: Monotonic) -> Lease {
        Lease {
            id,
            granted,
            spent: 0,
            reported: 0,
            revision: 0,
            acknowledged_revision: 0,
            sent_ms: 0,
            deadline_ms: deadline.0,
            closed_ms: 0,
        }
    }

    /// The credits that can still be spent.
    fn left(&self, now: Monotonic) -> u64 {
        let is_open = self.closed_ms == 0 && now.0.saturating_add(MARGIN_MS) < self.deadline_ms;
        if is_open { self.granted.saturating_sub(self.spent) } else { 0 }
    }

    fn close(&mut self, now: Monotonic) {
        if self.closed_ms == 0 {
            self.closed_ms = now.0.max(1);
            // No statement so far said that the lease is closed, so another one is due.
            self.reported = u64::MAX;
        }
    }

    /// True if the ledger has acknowledged the current state.
    fn is_settled(&self) -> bool {
        self.reported == self.spent && self.acknowledged_revision == self.revision && self.revision > 0
    }

    fn is_due(&self, now: Monotonic) -> bool {
        let waited = |ms: u64| now.0 >= self.sent_ms.saturating_add(ms);
        if self.closed_ms != 0 {
            return self.reported != self.spent || (!self.is_settled() && waited(RESEND_MS));
        }
        let is_news = self.reported != self.spent && waited(ACCOUNT_MS);
        let is_unheard = self.acknowledged_revision != self.revision && waited(RESEND_MS);
        let ends_soon = now.0.saturating_add(RENEW_MS) >= self.deadline_ms && waited(RESEND_MS);
        is_news || is_unheard || ends_soon
    }
}

#[cfg(test)]
mod tests;
