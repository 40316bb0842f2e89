//! Credits on lease: what one Envoy may spend for its tenants without asking, and what it owes the ledger to say.
//!
//! All leases of a tenant are one `Purse`; purses live in shared data, several in one value, changed by
//! compare-and-swap. A purse knows how fast it is spent, and asks for its next lease while the last still has some. What
//! was spent is accounted for from the purse itself, so that it survives the VM that spent it.
//!
//! Nothing is spent from a lease after its deadline, or after it was closed; so the ledger may give away again what a
//! closing account leaves, and a hundred Envoys can't spend a credit twice.

mod layout;

use crate::value::Corrupt;
use crate::window::Monotonic;
use protocol::Credits;
use std::num::NonZeroU64;

/// Number of values that hold purses. Fixed, so that an Envoy's shared data is bounded.
pub const SLOTS: NonZeroU64 = NonZeroU64::new(4096).unwrap();
/// How long a purse may rest before its leases go back.
pub const IDLE_MS: u64 = 5_000;
/// How often spending is accounted for.
pub const ACCOUNT_MS: u64 = 2_000;

/// A lease is to last so long at the rate of now; so refills cost a call in some seconds, whatever the load.
const LASTS_SECONDS: u64 = 2;
/// Calls that a lease is for at least.
const CALLS_MIN: u64 = 16;
/// A tenant that calls less often than this within a second or two reserves exactly: a lease would lie about.
const CALLS_TO_LEASE: u64 = 4;
/// A purse without leases is forgotten after this.
const FORGET_MS: u64 = 2_000;
/// After so long an ask is taken for lost.
const ASK_MS: u64 = 3_000;
/// How long calls reserve exactly after the ledger had nothing to lease.
const DRY_MS: u64 = 1_000;
/// An account that is not acknowledged is sent again after this.
const RESEND_MS: u64 = 1_000;
/// How long a closed lease takes refunds of calls that still ran, and how many such leases a purse remembers.
const CLOSED_MS: u64 = 600_000;
const CLOSED_MAX: usize = 4;
/// A purse with so many leases that the ledger has not been heard on asks for no more.
const LEASES_MAX: usize = 32;
/// A lease is renewed when less than this is left of its time.
const RENEW_MS: u64 = 15_000;
/// Spending stops so long before the deadline, for clocks that drift.
const MARGIN_MS: u64 = 1_000;

/// The value that holds a tenant's purse.
pub fn slot(tenant: u64) -> u16 {
    u16::try_from(tenant % SLOTS).unwrap_or(0)
}

/// Name of a value of purses. The number is the layout's version.
pub fn name(slot: u16) -> String {
    format!("agentrelay/lease/1/{slot}")
}

/// One lease.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lease {
    id: u128,
    granted: u64,
    /// Net of calls that failed.
    spent: u64,
    /// What the last account said, and its revision; zero if there was none.
    told: u64,
    revision: u64,
    /// The revision that the ledger has acknowledged.
    known: u64,
    /// When the last account was sent.
    sent_ms: u64,
    /// Nothing is spent from it after this.
    deadline_ms: u64,
    /// When it was closed; zero while it is open.
    closed_ms: u64,
}

/// One tenant's leases in this Envoy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Purse {
    tenant: u64,
    /// The lease asked for and the time when the ask is given up; zero if none is.
    asked: u128,
    asked_until_ms: u64,
    /// Until then the ledger has nothing to lease.
    dry_until_ms: u64,
    /// The second of the last spending, and what was spent in it and in the one before.
    second: u64,
    this: u64,
    last: u64,
    last_spent_ms: u64,
    leases: Vec<Lease>,
}

/// What became of an attempt to spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// The tenant had no purse here yet.
    pub is_new: bool,
    /// The lease that paid; `None` if none can, and the call must reserve exactly.
    pub lease: Option<u128>,
    /// So many credits are to be asked for, as a lease with the request's own id.
    pub ask: Option<Credits>,
}

/// One account to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement {
    /// Whose purse.
    pub tenant: u64,
    /// The lease.
    pub lease: u128,
    /// Grows with each account of the lease.
    pub revision: u64,
    /// All that was spent, net.
    pub spent: u64,
    /// Nothing more will be spent.
    pub closed: bool,
}

/// Spends `price` for one call of a tenant, if a lease has it. `request` is the request's id: it names the next lease, if
/// one is to be asked for.
pub fn spend(
    value: &[u8],
    tenant: u64,
    price: Credits,
    request: u128,
    now: Monotonic,
) -> Result<(Vec<u8>, Spent), Corrupt> {
    change(value, tenant, |purse| {
        let is_new = purse.last_spent_ms == 0;
        let lease = purse.spend(price.get(), now);
        Spent { is_new, lease, ask: purse.ask(price.get(), request, now) }
    })
}

/// Gives back what a call was charged too much. False if there is no lease left that could take it.
pub fn refund(value: &[u8], tenant: u64, lease: u128, credits: Credits) -> Result<(Vec<u8>, bool), Corrupt> {
    change(value, tenant, |purse| purse.refund(lease, credits.get()))
}

/// The ledger gave a lease, good until `deadline`; of no credits if it has none to share out.
pub fn granted(
    value: &[u8],
    tenant: u64,
    lease: u128,
    credits: Credits,
    deadline: Monotonic,
    now: Monotonic,
) -> Result<Vec<u8>, Corrupt> {
    change(value, tenant, |purse| purse.granted(lease, credits.get(), deadline, now)).map(|(next, ())| next)
}

/// The ledger has this account, and the lease is good until `deadline`; or the lease has ended there.
pub fn acknowledged(
    value: &[u8],
    account: &Statement,
    deadline: Option<Monotonic>,
    now: Monotonic,
) -> Result<Vec<u8>, Corrupt> {
    change(value, account.tenant, |purse| purse.acknowledged(account, deadline, now)).map(|(next, ())| next)
}

/// The ledger calls back what a tenant has on lease.
pub fn recalled(value: &[u8], tenant: u64, now: Monotonic) -> Result<Vec<u8>, Corrupt> {
    let mut purses = layout::read(value)?;
    if let Some(purse) = purses.iter_mut().find(|purse| purse.tenant == tenant) {
        purse.recalled(now);
    }
    Ok(layout::write(&purses))
}

/// What is due to be said of the purses of one value, and the value once it is said. Purses of which nothing is left are
/// dropped.
pub fn due(value: &[u8], now: Monotonic) -> Result<(Vec<u8>, Vec<Statement>), Corrupt> {
    let mut purses = layout::read(value)?;
    let mut accounts = Vec::new();
    for purse in &mut purses {
        purse.due(now, &mut accounts);
    }
    purses.retain(|purse| !purse.is_over(now));
    Ok((layout::write(&purses), accounts))
}

fn change<A>(
    value: &[u8],
    tenant: u64,
    change: impl FnOnce(&mut Purse) -> A,
) -> Result<(Vec<u8>, A), Corrupt> {
    let mut purses = layout::read(value)?;
    let place = purses.iter().position(|purse| purse.tenant == tenant).unwrap_or_else(|| {
        purses.push(Purse { tenant, ..Purse::default() });
        purses.len().saturating_sub(1)
    });
    // Found, or pushed just now.
    let purse = purses.get_mut(place).ok_or(Corrupt)?;
    let answer = change(purse);
    Ok((layout::write(&purses), answer))
}

impl Purse {
    fn spend(&mut self, price: u64, now: Monotonic) -> Option<u128> {
        let second = now.0 / 1000;
        match second.saturating_sub(self.second) {
            0 => {}
            1 => (self.last, self.this) = (self.this, 0),
            _ => (self.last, self.this) = (0, 0),
        }
        self.second = self.second.max(second);
        self.this = self.this.saturating_add(price);
        self.last_spent_ms = now.0.max(1);
        let place = self.leases.iter().position(|lease| lease.left(now) >= price)?;
        let (passed, rest) = self.leases.split_at_mut(place);
        // What is left in those is too little for this call, perhaps for all to come: it goes back, lest they add up
        // to as many leases as the ledger lends.
        passed.iter_mut().for_each(|lease| lease.close(now));
        let lease = rest.first_mut()?;
        lease.spent = lease.spent.saturating_add(price);
        Some(lease.id)
    }

    /// What to ask for now, if it is time.
    fn ask(&mut self, price: u64, request: u128, now: Monotonic) -> Option<Credits> {
        if now.0 < self.dry_until_ms || now.0 < self.asked_until_ms || self.leases.len() >= LEASES_MAX {
            return None;
        }
        if self.this.saturating_add(self.last) < price.saturating_mul(CALLS_TO_LEASE) {
            return None;
        }
        let rate = self.this.max(self.last);
        let wanted = rate.saturating_mul(LASTS_SECONDS).max(price.saturating_mul(CALLS_MIN));
        let open = || self.leases.iter().filter(|lease| lease.left(now) > 0);
        let left = open().fold(0, |sum: u64, lease| sum.saturating_add(lease.left(now)));
        let newest = open().next_back().map_or(0, |lease| lease.granted);
        if left > newest / 4 && left >= price {
            return None;
        }
        let credits = Credits::new(wanted)?;
        if self.asked != 0 {
            self.abandon(now);
        }
        self.asked = request;
        self.asked_until_ms = now.0.saturating_add(ASK_MS);
        Some(credits)
    }

    /// The ask was not answered in time. Should the ledger have heard it, it is told that nothing will be spent.
    fn abandon(&mut self, now: Monotonic) {
        let id = std::mem::take(&mut self.asked);
        self.leases.push(Lease { closed_ms: now.0.max(1), ..Lease::new(id, 0, now) });
        self.forget_closed();
    }

    fn refund(&mut self, id: u128, credits: u64) -> bool {
        let takes = |lease: &&mut Lease| lease.spent >= credits;
        let place = match self.leases.iter().position(|lease| lease.id == id) {
            Some(place) => self.leases.get_mut(place).filter(takes),
            // Its lease is long over; another one of the tenant can pay it back.
            None => self.leases.iter_mut().rev().find(takes),
        };
        let Some(lease) = place else { return false };
        lease.spent = lease.spent.saturating_sub(credits);
        true
    }

    fn granted(&mut self, id: u128, credits: u64, deadline: Monotonic, now: Monotonic) {
        if self.asked == id {
            self.asked = 0;
            self.asked_until_ms = 0;
            if credits == 0 {
                self.dry_until_ms = now.0.saturating_add(DRY_MS);
            } else {
                self.leases.push(Lease::new(id, credits, deadline));
            }
        } else if let Some(lease) = self.leases.iter_mut().find(|lease| lease.id == id && lease.granted == 0)
        {
            // Given up before the answer came: what it holds is not spent, and goes back with the next account.
            lease.granted = credits;
        }
    }

    fn acknowledged(&mut self, account: &Statement, deadline: Option<Monotonic>, now: Monotonic) {
        let Some(lease) = self.leases.iter_mut().find(|lease| lease.id == account.lease) else { return };
        lease.known = lease.known.max(account.revision);
        match deadline {
            Some(deadline) => lease.deadline_ms = lease.deadline_ms.max(deadline.0),
            None if lease.closed_ms == 0 => lease.closed_ms = now.0.max(1),
            None => {}
        }
    }

    fn recalled(&mut self, now: Monotonic) {
        self.dry_until_ms = now.0.saturating_add(DRY_MS);
        if self.asked != 0 {
            // What is on its way is wanted back too.
            self.abandon(now);
            self.asked_until_ms = 0;
        }
        self.leases.iter_mut().for_each(|lease| lease.close(now));
    }

    fn due(&mut self, now: Monotonic, accounts: &mut Vec<Statement>) {
        if self.asked != 0 && now.0 >= self.asked_until_ms {
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
                lease.told = lease.spent;
                lease.sent_ms = now.0;
                accounts.push(Statement {
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

    /// Keeps only the newest of those that the ledger knows to be closed.
    fn forget_closed(&mut self) {
        let is_over = |lease: &Lease| lease.closed_ms != 0 && lease.is_settled();
        let over = self.leases.iter().filter(|lease| is_over(lease)).count();
        let mut excess = over.saturating_sub(CLOSED_MAX);
        self.leases.retain(|lease| {
            let goes = excess > 0 && is_over(lease);
            excess = excess.saturating_sub(usize::from(goes));
            !goes
        });
    }

    fn is_over(&self, now: Monotonic) -> bool {
        let is_quiet = now.0 >= self.last_spent_ms.saturating_add(FORGET_MS);
        self.leases.is_empty() && self.asked == 0 && now.0 >= self.dry_until_ms && is_quiet
    }
}

impl Lease {
    fn new(id: u128, granted: u64, deadline: Monotonic) -> Lease {
        Lease {
            id,
            granted,
            spent: 0,
            told: 0,
            revision: 0,
            known: 0,
            sent_ms: 0,
            deadline_ms: deadline.0,
            closed_ms: 0,
        }
    }

    /// What can still be spent from it.
    fn left(&self, now: Monotonic) -> u64 {
        let is_open = self.closed_ms == 0 && now.0.saturating_add(MARGIN_MS) < self.deadline_ms;
        if is_open { self.granted.saturating_sub(self.spent) } else { 0 }
    }

    fn close(&mut self, now: Monotonic) {
        if self.closed_ms == 0 {
            self.closed_ms = now.0.max(1);
            // Whatever was said last did not say that it is closed.
            self.told = u64::MAX;
        }
    }

    /// True if the ledger knows all that there is to say.
    fn is_settled(&self) -> bool {
        self.told == self.spent && self.known == self.revision && self.revision > 0
    }

    fn is_due(&self, now: Monotonic) -> bool {
        let waited = |ms: u64| now.0 >= self.sent_ms.saturating_add(ms);
        if self.closed_ms != 0 {
            return self.told != self.spent || (!self.is_settled() && waited(RESEND_MS));
        }
        let is_news = self.told != self.spent && waited(ACCOUNT_MS);
        let is_unheard = self.known != self.revision && waited(RESEND_MS);
        let ends_soon = now.0.saturating_add(RENEW_MS) >= self.deadline_ms && waited(RESEND_MS);
        is_news || is_unheard || ends_soon
    }
}

#[cfg(test)]
mod tests;
