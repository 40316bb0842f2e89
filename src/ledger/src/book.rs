//! The rules of money: double entry in whole credits. Pure: no IO, no database, no clock (time is an argument).
//!
//! Each tenant has three accounts, `available`, `pending` and `posted`; the issuer stands for all of the outside.
//! Every movement is a [`Transfer`] from one account to another, made once and never changed. Two laws hold after
//! every command, whatever was asked and however often:
//!
//! - `granted = available + pending + posted`, where `granted` is what the issuer gave;
//! - no account is ever below zero.
//!
//! A reservation moves `Pending -> Posted | Voided | Expired` and is the idempotency id of every step on it. The same
//! step again gives the same answer and moves nothing; another step on an ended reservation is refused.
//!
//! A reservation whose time is over stays pending until the expire command finds it. What happens to it before that
//! is on time. One that is found **expired** is posted as a whole: nobody has told how its call ended, so it may have
//! been served, and until somebody does it is *unaccounted*. A settlement that is delivered after that is a
//! **correction**: new transfers that bring what was charged to what was asked. What was charged too much goes back;
//! an overrun is taken from what is available. One correction is taken, as one settlement is.
//!
//! What an administrator has given back stays given back: no later account takes it again, and none gives it back twice
//! as far as it is known for which reservation it was. What could not be charged is the shortfall, and never a debt.
//!
//! Earlier releases gave back what had expired. Such a reservation is **lapsed**; what it is asked for later is charged
//! from what is available, as it was then.
//!
//! A [`lease`] is credits in one Envoy's hands, which accounts for them afterwards.
//! A reservation may allow an **overrun**: a call that cost more than was set aside, up to a stated cap, takes the rest
//! from `available` as far as there is any. Above the cap a charge is refused as a whole, and the reservation stays.

mod accounts;
pub mod lease;
mod reservation;
#[cfg(test)]
pub(crate) mod tests;

pub use accounts::{Accounts, Transfer, TransferKind};
pub use reservation::{Request, Reservation, State};

use protocol::admin::Direction;
use protocol::{Credits, Timestamp};

/// Why a command moved nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The tenant would hold more than [`Credits::MAX`].
    #[error("the tenant would hold more than {} credits", Credits::MAX)]
    GrantTooLarge,
    /// A grant or a reservation of nothing.
    #[error("the amount of credits must be at least 1")]
    NothingToMove,
    /// The tenant has less than was asked for.
    #[error("the tenant has {available} credits available")]
    QuotaExceeded {
        /// What it has.
        available: Credits,
    },
    /// The id was used before, for something else.
    #[error("the reservation id was already used for something else")]
    DifferentRequest,
    /// More than was set aside and may be charged beyond that.
    #[error("at most {most} credits can be charged for this reservation")]
    AboveReservation {
        /// The most that can be charged.
        most: Credits,
    },
    /// More than there is to give back or to take back.
    #[error("at most {most} credits can be corrected that way")]
    AboveCorrectable {
        /// What there is.
        most: Credits,
    },
    /// The reservation has ended in another way.
    #[error("the reservation is already {}", state.name())]
    Ended {
        /// How.
        state: State,
    },
    /// More was spent from a lease than it held.
    #[error("the lease held only {granted} credits")]
    AboveLease {
        /// What it held.
        granted: Credits,
    },
    /// More was spent from a lease after its last account.
    #[error("the lease was closed before this was spent")]
    LeaseEnded,
    /// The rows do not add up: someone changed them outside of this program.
    #[error("the tenant's accounts do not add up")]
    OutOfBalance,
}

/// What a step on a reservation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It moved credits.
    Moved(Vec<Transfer>),
    /// It ended the reservation or extended its time, and moved no credits.
    Changed,
    /// It was known already.
    Repeated,
}

/// Gives a tenant credits.
pub fn grant(accounts: &mut Accounts, credits: Credits, now: Timestamp) -> Result<Transfer, Refusal> {
    if credits.is_zero() {
        return Err(Refusal::NothingToMove);
    }
    if accounts.granted().checked_add(credits).is_none() {
        return Err(Refusal::GrantTooLarge);
    }
    accounts.transfer(TransferKind::Grant, credits, now)
}

/// Undoes what was charged or granted, by a new transfer. Never makes an account negative.
pub fn correct(
    accounts: &mut Accounts,
    direction: Direction,
    credits: Credits,
    now: Timestamp,
) -> Result<Transfer, Refusal> {
    let (kind, most) = match direction {
        Direction::Refund => (TransferKind::Refund, accounts.balance().posted),
        Direction::Withdraw => (TransferKind::Withdrawal, accounts.available()),
    };
    if credits.is_zero() {
        return Err(Refusal::NothingToMove);
    }
    if credits > most {
        return Err(Refusal::AboveCorrectable { most });
    }
    accounts.transfer(kind, credits, now)
}

/// The same for one reservation: gives back some of what is charged for it.
pub fn give_back(
    accounts: &mut Accounts,
    reservation: &mut Reservation,
    credits: Credits,
    now: Timestamp,
) -> Result<Transfer, Refusal> {
    let charged = reservation.state.charged();
    let most = charged.min(accounts.balance().posted);
    if credits.is_zero() {
        return Err(Refusal::NothingToMove);
    }
    let Some(rest) = charged.checked_sub(credits).filter(|_| credits <= most) else {
        return Err(Refusal::AboveCorrectable { most });
    };
    let transfer = accounts.transfer(TransferKind::Refund, credits, now)?;
    match &mut reservation.state {
        State::Posted { charged, .. } | State::Expired { charged, .. } => *charged = rest,
        State::Pending | State::Voided | State::Lapsed => {}
    }
    Ok(transfer)
}

/// Sets credits aside. `known` is the reservation of this id, if there is one; then the answer is that one, unchanged.
pub fn reserve(
    accounts: &mut Accounts,
    known: Option<&Reservation>,
    request: Request,
    now: Timestamp,
) -> Result<(Reservation, Step), Refusal> {
    if let Some(known) = known {
        let same = known.request == request;
        return if same { Ok((known.clone(), Step::Repeated)) } else { Err(Refusal::DifferentRequest) };
    }
    if request.credits.is_zero() {
        return Err(Refusal::NothingToMove);
    }
    if request.credits > accounts.available() {
        return Err(Refusal::QuotaExceeded { available: accounts.available() });
    }
    let transfer = accounts.transfer(TransferKind::Reserve, request.credits, now)?;
    let reservation = Reservation {
        expires_at: now.plus_seconds(request.ttl_seconds.into()),
        reserved_at: now,
        available_after: accounts.available(),
        state: State::Pending,
        request,
    };
    Ok((reservation, Step::Moved(vec![transfer])))
}

/// Charges `credits`; what was reserved beyond that goes back. After expiry this is a correction, see the module.
pub fn post(
    accounts: &mut Accounts,
    reservation: &mut Reservation,
    credits: Credits,
    now: Timestamp,
) -> Result<Step, Refusal> {
    let Request { credits: reserved, overrun, .. } = reservation.request;
    let most = reserved.checked_add(overrun).unwrap_or(Credits::MAX);
    if credits > most {
        return Err(Refusal::AboveReservation { most });
    }
    match reservation.state {
        State::Pending => {
            let within = credits.min(reserved);
            let rest = reserved.checked_sub(within).unwrap_or_default();
            let beyond = credits.checked_sub(within).unwrap_or_default().min(accounts.available());
            let mut after = *accounts;
            let mut transfers = Vec::with_capacity(2);
            after.transfer_some(TransferKind::Post, within, now, &mut transfers)?;
            after.transfer_some(TransferKind::Release, rest, now, &mut transfers)?;
            after.transfer_some(TransferKind::Overrun, beyond, now, &mut transfers)?;
            let charged = within.checked_add(beyond).ok_or(Refusal::OutOfBalance)?;
            *accounts = after;
            reservation.state = State::Posted { asked: credits, charged };
            Ok(Step::Moved(transfers))
        }
        State::Posted { asked, .. } | State::Expired { asked: Some(asked), .. } if asked == credits => {
            Ok(Step::Repeated)
        }
        State::Expired { asked: None, .. } | State::Lapsed => {
            settle_late(accounts, reservation, credits, now)
        }
        state @ (State::Posted { .. } | State::Voided | State::Expired { .. }) => {
            Err(Refusal::Ended { state })
        }
    }
}

/// Brings what was charged for want of an account to what the account says.
fn settle_late(
    accounts: &mut Accounts,
    reservation: &mut Reservation,
    asked: Credits,
    now: Timestamp,
) -> Result<Step, Refusal> {
    let charged = reservation.state.charged();
    // What was charged and is not any more an administrator gave back: it is not taken again.
    let settled = match reservation.state {
        State::Lapsed => Credits::ZERO,
        _ => reservation.request.credits,
    };
    let more = asked.checked_sub(settled).unwrap_or_default().min(accounts.available());
    // The same, where it is not known for which reservation that was: then there is less to undo.
    let less = charged.checked_sub(asked).unwrap_or_default().min(accounts.balance().posted);
    let mut after = *accounts;
    let mut transfers = Vec::with_capacity(1);
    after.transfer_some(TransferKind::Correction, more, now, &mut transfers)?;
    after.transfer_some(TransferKind::CorrectionReturned, less, now, &mut transfers)?;
    let charged = charged.checked_sub(less).and_then(|rest| rest.checked_add(more));
    let charged = charged.ok_or(Refusal::OutOfBalance)?;
    *accounts = after;
    reservation.state = State::Expired { asked: Some(asked), charged };
    Ok(if transfers.is_empty() { Step::Changed } else { Step::Moved(transfers) })
}

/// Gives everything back. After expiry this is a correction, see the module.
pub fn void(accounts: &mut Accounts, reservation: &mut Reservation, now: Timestamp) -> Result<Step, Refusal> {
    match reservation.state {
        State::Pending => {
            let transfer = accounts.transfer(TransferKind::Void, reservation.request.credits, now)?;
            reservation.state = State::Voided;
            Ok(Step::Moved(vec![transfer]))
        }
        State::Voided | State::Expired { asked: Some(Credits::ZERO), .. } => Ok(Step::Repeated),
        State::Expired { asked: None, .. } | State::Lapsed => {
            settle_late(accounts, reservation, Credits::ZERO, now)
        }
        state @ (State::Posted { .. } | State::Expired { .. }) => Err(Refusal::Ended { state }),
    }
}

/// Keeps a reservation pending for `ttl_seconds` from now. Never shortens its time, so that late deliveries do no harm.
pub fn renew(reservation: &mut Reservation, ttl_seconds: u32, now: Timestamp) -> Result<Step, Refusal> {
    match reservation.state {
        State::Pending => {
            let until = now.plus_seconds(ttl_seconds.into());
            if until <= reservation.expires_at {
                return Ok(Step::Repeated);
            }
            reservation.expires_at = until;
            Ok(Step::Changed)
        }
        state @ (State::Posted { .. } | State::Voided | State::Expired { .. } | State::Lapsed) => {
            Err(Refusal::Ended { state })
        }
    }
}

/// Charges everything if the reservation is still pending and its time is over; otherwise does nothing.
pub fn expire(
    accounts: &mut Accounts,
    reservation: &mut Reservation,
    now: Timestamp,
) -> Result<Step, Refusal> {
    if reservation.state != State::Pending || now < reservation.expires_at {
        return Ok(Step::Repeated);
    }
    let charged = reservation.request.credits;
    let transfer = accounts.transfer(TransferKind::Unaccounted, charged, now)?;
    reservation.state = State::Expired { asked: None, charged };
    Ok(Step::Moved(vec![transfer]))
}
