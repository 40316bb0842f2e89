//! The rules of money: double entry in whole credits. Pure: no IO, no database, no clock (time is an argument).
//!
//! Each tenant has three accounts, `available`, `pending` and `posted`. The issuer is the source of all credits.
//! Every movement is a [`Transfer`] from one account to another, immutable. Two invariants hold after every command:
//!
//! - `granted = available + pending + posted`, where `granted` is what the issuer gave;
//! - no account is below zero.
//!
//! A reservation moves `Pending -> Posted | Voided | Expired`. Its id makes every step idempotent: the same step again
//! gives the same answer and moves nothing; another step on an ended reservation is refused.
//!
//! A reservation stays pending until the expire command finds that its time is over; a settlement before that is on time.
//! An **expired** reservation is posted as a whole: nobody reported how its call ended, so it may have been served. Until
//! somebody reports it, it is *unaccounted*. A later settlement is a **correction**: new transfers change the charge to
//! what the call cost. Excess is returned; an overrun is taken from `available`. Only one correction is applied.
//!
//! A refund by an administrator is final: a later correction neither charges it again nor, if the refund named the
//! reservation, returns it twice. What could not be charged is the shortfall, never a debt.
//!
//! Earlier releases voided expired reservations. Such a reservation is **lapsed**; a late settlement is charged from
//! `available`.
//!
//! A reservation may allow an **overrun**: a call that cost more than was reserved, up to a cap, takes the rest from
//! `available` as far as possible. A charge above the cap is refused, and the reservation stays.
//!
//! A [`lease`] holds credits that one Envoy spends and reports afterwards.

mod accounts;
pub mod lease;
mod reservation;
#[cfg(test)]
pub(crate) mod tests;

pub use accounts::{Accounts, Transfer, TransferKind};
pub use reservation::{Request, Reservation, State};

use protocol::admin::Direction;
use protocol::{Credits, Timestamp};

/// Why a command was refused. It moved nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The tenant would hold more than [`Credits::MAX`].
    #[error("the tenant would hold more than {} credits", Credits::MAX)]
    GrantTooLarge,
    /// The amount is zero.
    #[error("the amount of credits must be at least 1")]
    NothingToMove,
    /// The tenant has too few credits.
    #[error("the tenant has {available} credits available")]
    QuotaExceeded { available: Credits },
    /// The id was used before, for another request.
    #[error("the reservation id was already used for something else")]
    DifferentRequest,
    /// The charge exceeds the reservation and its overrun.
    #[error("at most {most} credits can be charged for this reservation")]
    AboveReservation {
        /// The most that can be charged.
        most: Credits,
    },
    /// The correction exceeds what can be refunded or withdrawn.
    #[error("at most {most} credits can be corrected that way")]
    AboveCorrectable {
        /// The most that can be corrected.
        most: Credits,
    },
    /// The reservation has ended in another way.
    #[error("the reservation is already {}", state.name())]
    Ended { state: State },
    /// The statement exceeds the lease.
    #[error("the lease held only {granted} credits")]
    AboveLease { granted: Credits },
    /// The lease is closed, and the statement says that more was spent.
    #[error("the lease was closed before this was spent")]
    LeaseEnded,
    /// The accounts do not add up: another program changed the rows.
    #[error("the tenant's accounts do not add up")]
    OutOfBalance,
}

/// The result of a step on a reservation or lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It moved credits.
    Moved(Vec<Transfer>),
    /// It ended the reservation or extended its time, and moved no credits.
    Changed,
    /// It was applied before.
    Repeated,
}

/// Grants credits to a tenant.
pub fn grant(accounts: &mut Accounts, credits: Credits, now: Timestamp) -> Result<Transfer, Refusal> {
    if credits.is_zero() {
        return Err(Refusal::NothingToMove);
    }
    if accounts.granted().checked_add(credits).is_none() {
        return Err(Refusal::GrantTooLarge);
    }
    accounts.transfer(TransferKind::Grant, credits, now)
}

/// Refunds a charge or withdraws a grant, by a new transfer. Never makes an account negative.
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

/// Refunds some of what is charged for a reservation.
pub fn refund_reservation(
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

/// Reserves credits. If `known`, the reservation with this id, exists, it is the answer, unchanged.
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

/// Charges `credits` and returns the rest. After expiry this is a correction, see the module.
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

/// Changes an expired reservation's charge to what the call cost.
fn settle_late(
    accounts: &mut Accounts,
    reservation: &mut Reservation,
    asked: Credits,
    now: Timestamp,
) -> Result<Step, Refusal> {
    let charged = reservation.state.charged();
    // Compared with the reserved credits, not with the charge: what an administrator refunded is not charged again.
    let settled = match reservation.state {
        State::Lapsed => Credits::ZERO,
        _ => reservation.request.credits,
    };
    let more = asked.checked_sub(settled).unwrap_or_default().min(accounts.available());
    // A refund that named no reservation may have left less in `posted` than this reservation was charged.
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

/// Returns all reserved credits. After expiry this is a correction, see the module.
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

/// Keeps a reservation pending for `ttl_seconds` from now. Never shortens its time, so that late deliveries are harmless.
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

/// Charges the reservation if it is pending and its time is over; otherwise does nothing.
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
