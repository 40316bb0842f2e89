//! What a call was charged beforehand, and how that ends.

use protocol::filter::{Action, Settlement};
use protocol::{Credits, LeaseId, ReservationId};

/// What is set aside for a call that went upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Charge {
    /// Nothing: it is free, or passes for free while the ledger does not answer.
    None,
    /// So much, by a reservation with the request's id.
    Reserved(Credits),
    /// So much, spent from a lease.
    Leased(Credits, u128),
}

/// Credits to be spent from a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spending {
    /// The tenant's fingerprint.
    pub tenant: u64,
    /// How much.
    pub price: Credits,
    /// The request's id, which names the next lease if one is to be asked for.
    pub request: u128,
}

/// Credits that go back to a lease, because the call failed or cost less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refund {
    /// The tenant's fingerprint.
    pub tenant: u64,
    /// The lease that paid.
    pub lease: u128,
    /// How much goes back.
    pub credits: Credits,
}

impl Charge {
    /// How much.
    pub(super) fn credits(self) -> Credits {
        match self {
            Charge::None => Credits::ZERO,
            Charge::Reserved(credits) | Charge::Leased(credits, _) => credits,
        }
    }

    /// The lease that paid.
    pub(super) fn lease_id(self) -> Option<LeaseId> {
        match self {
            Charge::Leased(_, lease) => Some(LeaseId::of_uuid(lease)),
            Charge::None | Charge::Reserved(_) => None,
        }
    }

    /// What the ledger must do so that `charged` stays.
    pub(super) fn settlement(self, id: Option<ReservationId>, charged: Credits) -> Option<Settlement> {
        let (Charge::Reserved(_), Some(reservation_id)) = (self, id) else { return None };
        let action = if charged.is_zero() { Action::Void } else { Action::Post { credits: charged } };
        Some(Settlement { reservation_id, action })
    }

    /// What must go back to its lease so that `charged` stays.
    pub(super) fn refund(self, tenant: u64, charged: Credits) -> Option<Refund> {
        let Charge::Leased(price, lease) = self else { return None };
        let credits = price.checked_sub(charged).filter(|credits| !credits.is_zero())?;
        Some(Refund { tenant, lease, credits })
    }
}
