//! How a call is charged in advance, and how that charge is settled.

use protocol::filter::{Action, Settlement};
use protocol::{Credits, EventId, LeaseId, ReservationId};

/// What was charged in advance for a call that went upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Charge {
    /// Nothing: the tool is free, or the policy lets it pass without charge while the ledger does not answer.
    None,
    /// These credits, by a reservation with the request's id.
    Reserved(Credits),
    /// These credits, spent from this lease.
    Leased(Credits, LeaseId),
}

/// Credits to be spent from a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spending {
    /// The tenant's fingerprint.
    pub tenant: u64,
    /// The credits to spend.
    pub price: Credits,
    /// The request's id. If the spending leads to an ask for another lease, that lease gets this id.
    pub request: EventId,
}

/// Credits to return to a lease, because the call failed or cost less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refund {
    /// The tenant's fingerprint.
    pub tenant: u64,
    /// The lease that paid.
    pub lease: LeaseId,
    /// The credits to return.
    pub credits: Credits,
}

impl Charge {
    /// The credits charged in advance.
    pub(super) fn credits(self) -> Credits {
        match self {
            Charge::None => Credits::ZERO,
            Charge::Reserved(credits) | Charge::Leased(credits, _) => credits,
        }
    }

    /// The lease that paid, if one did.
    pub(super) fn lease_id(self) -> Option<LeaseId> {
        match self {
            Charge::Leased(_, lease) => Some(lease),
            Charge::None | Charge::Reserved(_) => None,
        }
    }

    /// How the ledger must settle the reservation so that the tenant pays `charged`.
    pub(super) fn settlement(self, reservation_id: ReservationId, charged: Credits) -> Option<Settlement> {
        let Charge::Reserved(_) = self else { return None };
        let action = if charged.is_zero() { Action::Void } else { Action::Post { credits: charged } };
        Some(Settlement { reservation_id, action })
    }

    /// What to return to the lease so that the tenant pays `charged`.
    pub(super) fn refund(self, tenant: u64, charged: Credits) -> Option<Refund> {
        let Charge::Leased(price, lease) = self else { return None };
        let credits = price.checked_sub(charged).filter(|credits| !credits.is_zero())?;
        Some(Refund { tenant, lease, credits })
    }
}

/// The charge for a successful call: the credits charged in advance, or the cost that the server reports if the policy
/// accepts it, capped at `cost_max`.
pub(super) fn charged(reserved: Credits, cost_max: Option<Credits>, cost: Option<u64>) -> Credits {
    match (cost_max, cost) {
        (Some(most), Some(cost)) => Credits::new(cost).map_or(most, |cost| cost.min(most)),
        _ => reserved,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_reservation_and_its_overrun_is_charged() {
        let reserved = Credits::new(5).unwrap();
        for (cost_max, cost, credits) in [
            (5, None, 5),
            (5, Some(3), 3),
            (5, Some(0), 0),
            (5, Some(6), 5),
            (5, Some(u64::MAX), 5),
            (8, None, 5),
            (8, Some(7), 7),
            (8, Some(9), 8),
            (8, Some(u64::MAX), 8),
        ] {
            assert_eq!(charged(reserved, Credits::new(cost_max), cost).get(), credits, "{cost:?}");
            assert_eq!(charged(reserved, None, cost), reserved);
        }
    }
}
