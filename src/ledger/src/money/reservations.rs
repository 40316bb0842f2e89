//! Reservations: reserves, posts, voids and expires the credits of calls. Applies the book's rules, and writes the
//! journal, the budgets and the audit trail.

use crate::book::{self, Reservation, State, Step, Transfer};
use crate::model::event::{Event, Kind, LEDGER};
use crate::money::budgets;
use crate::transaction::{Needs, Operation, Refusal, Rows, idempotency};
use protocol::filter::{Action, ReserveAnswer, ReserveRequest, Settlement};
use protocol::key::KeyState;
use protocol::{Credits, ReservationId, TenantId, Timestamp};
use serde_json::json;

/// The longest time to live of a reservation, and the longest renewal, in seconds.
pub const TTL_SECONDS_MAX: u32 = 3600;
/// Most reservations that one operation expires, so that a transaction stays small.
const EXPIRE_MAX: u32 = 1000;
/// How long ended shares are kept, and the ids of reservations and leases that were voided before they were created.
const ENDED_KEPT_MILLIS: u64 = 3_600_000;

/// Reserves credits for one call.
#[derive(Clone)]
pub struct Reserve {
    pub request: ReserveRequest,
    pub now: Timestamp,
}

impl Operation for Reserve {
    type Answer = ReserveAnswer;

    fn needs(&self, needs: &mut Needs) {
        needs.reservations.insert(self.request.reservation_id);
        needs.keys.insert(self.request.key_id.clone());
        needs.spending.insert((self.request.key_id.clone(), self.now.month()));
    }

    fn apply(self, rows: &mut Rows) -> Result<ReserveAnswer, Refusal> {
        let Reserve { request, now } = self;
        let key = rows.keys.get(&request.key_id).ok_or(Refusal::KeyUnknown)?;
        let known = rows.reservations.get(&request.reservation_id);
        // A repeated request moves nothing, so it gets its answer even if the key was revoked meanwhile.
        match rows.life(key).state(now) {
            KeyState::Active => {}
            _ if known.is_some() => {}
            state => return Err(Refusal::KeyInactive(state)),
        }
        let request = book::Request {
            id: request.reservation_id,
            tenant_id: key.tenant_id.clone(),
            key_id: request.key_id,
            service: request.service,
            tool: request.tool,
            credits: request.credits,
            overrun: request.overrun_credits_max,
            ttl_seconds: request.ttl_seconds,
            policy_version: request.policy_version,
        };
        let month = now.month();
        if known.is_none() {
            if rows.reservations_given_up.get(&request.id).is_some() {
                return Err(book::Refusal::Ended { state: State::Voided }.into());
            }
            budgets::check(rows, &request.tenant_id, &request.key_id, month, request.credits)?;
        }
        let accounts = rows.accounts.get_mut(&request.tenant_id).ok_or(Refusal::TenantUnknown)?;
        let (reservation, step) = book::reserve(accounts, known, request, now)?;
        let answer = ReserveAnswer {
            reservation_id: reservation.request.id,
            expires_at: reservation.first_expires_at(),
            available: reservation.available_after,
        };
        if let Step::Moved(transfers) = step {
            let of = &reservation.request;
            rows.journal(&of.id, &of.tenant_id, &transfers);
            budgets::record(rows, &of.tenant_id, &of.key_id, month, &transfers);
            let detail = json!({
                "reservation_id": of.id, "service": of.service, "tool": of.tool, "credits": of.credits,
                "expires_at": reservation.expires_at, "policy_version": of.policy_version,
            });
            rows.record(Event::new(Kind::Reserved, now, of.key_id.as_str(), &detail).of(&of.tenant_id));
            rows.reservations.insert(of.id, reservation);
        }
        Ok(answer)
    }
}

/// The result of one settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It moved credits, ended the reservation or extended its time.
    Now,
    /// It was applied before, or it voids a reservation that does not exist.
    Before,
    /// The book refused it.
    Refused(book::Refusal),
    /// The reservation does not exist, and this is not a void.
    Unknown,
}

/// Applies one settlement to its reservation.
pub fn settle(rows: &mut Rows, settlement: &Settlement, now: Timestamp) -> Settled {
    let id = &settlement.reservation_id;
    let Some(reservation) = rows.reservations.get(id) else {
        if settlement.action != Action::Void {
            return Settled::Unknown;
        }
        // The reserve request may still arrive. It must not reserve credits that nobody will settle.
        if rows.reservations_given_up.get(id).is_none() {
            rows.reservations_given_up.insert(*id, now);
        }
        return Settled::Before;
    };
    let tenant_id = reservation.request.tenant_id.clone();
    let actor = reservation.request.key_id.as_str().to_owned();
    let (kind, step) = {
        let Some(accounts) = rows.accounts.get_mut(&tenant_id) else {
            return Settled::Refused(book::Refusal::OutOfBalance);
        };
        let Some(reservation) = rows.reservations.get_mut(id) else { return Settled::Unknown };
        let is_late = matches!(reservation.state, State::Expired { .. } | State::Lapsed);
        let on_time = |kind| Some(if is_late { Kind::Correction } else { kind });
        match settlement.action {
            Action::Post { credits } => {
                (on_time(Kind::Posted), book::post(accounts, reservation, credits, now))
            }
            Action::Void => (on_time(Kind::Voided), book::void(accounts, reservation, now)),
            // Clamped, not refused: a running call must not lose its reservation because of an invalid number.
            Action::Renew { ttl_seconds } => {
                (None, book::renew(reservation, ttl_seconds.clamp(1, TTL_SECONDS_MAX), now))
            }
        }
    };
    match step {
        Err(refusal) => Settled::Refused(refusal),
        Ok(Step::Repeated) => Settled::Before,
        Ok(Step::Changed) => {
            // A late settlement that confirms the charge moves no credits, but belongs in the audit trail.
            record_step(rows, kind, id, actor, now);
            Settled::Now
        }
        Ok(Step::Moved(transfers)) => {
            journal(rows, id, &tenant_id, &transfers);
            record_step(rows, kind, id, actor, now);
            Settled::Now
        }
    }
}

/// Writes a step's transfers into the journal, and adds them to the month's sums.
fn journal(rows: &mut Rows, id: &ReservationId, tenant_id: &TenantId, transfers: &[Transfer]) {
    rows.journal(id, tenant_id, transfers);
    let Some(reservation) = rows.reservations.get(id) else { return };
    let (key_id, month) = (reservation.request.key_id.clone(), reservation.reserved_at.month());
    budgets::record(rows, tenant_id, &key_id, month, transfers);
}

fn record_step(rows: &mut Rows, kind: Option<Kind>, id: &ReservationId, actor: String, now: Timestamp) {
    let (Some(kind), Some(reservation)) = (kind, rows.reservations.get(id)) else { return };
    let detail = step_detail(reservation);
    let tenant_id = reservation.request.tenant_id.clone();
    rows.record(Event::new(kind, now, actor, &detail).of(&tenant_id));
}

/// The audit detail of a step: what was reserved, and how it ended.
fn step_detail(reservation: &Reservation) -> serde_json::Value {
    let Reservation { request, state, .. } = reservation;
    let mut detail = json!({"reservation_id": request.id, "tool": request.tool, "reserved": request.credits});
    let more = match state {
        State::Pending | State::Voided | State::Lapsed => json!({"credits": Credits::ZERO}),
        State::Expired { asked: None, charged } => json!({"credits": charged}),
        State::Posted { asked, charged } | State::Expired { asked: Some(asked), charged }
            if asked == charged =>
        {
            json!({"credits": charged})
        }
        State::Posted { asked, charged } | State::Expired { asked: Some(asked), charged } => json!({
            "credits": charged,
            "asked": asked,
            "shortfall": asked.checked_sub(*charged).unwrap_or_default(),
        }),
    };
    if let (Some(detail), serde_json::Value::Object(more)) = (detail.as_object_mut(), more) {
        detail.extend(more);
    }
    detail
}

/// Charges the reservations whose time ended without a settlement.
#[derive(Clone)]
pub struct Expire {
    pub now: Timestamp,
}

impl Operation for Expire {
    /// How many expired, and whether more may be due.
    type Answer = (u64, bool);

    fn needs(&self, needs: &mut Needs) {
        needs.due = Some((self.now, EXPIRE_MAX));
    }

    fn apply(self, rows: &mut Rows) -> Result<(u64, bool), Refusal> {
        let due = std::mem::take(&mut rows.due);
        let more = u64::try_from(due.len()).is_ok_and(|count| count >= u64::from(EXPIRE_MAX));
        let mut expired = 0u64;
        for id in due {
            let Some(reservation) = rows.reservations.get_mut(&id) else { continue };
            let tenant_id = reservation.request.tenant_id.clone();
            let Some(accounts) = rows.accounts.get_mut(&tenant_id) else { continue };
            // Skips what an earlier operation of this transaction settled or renewed. A reservation whose accounts don't
            // add up stays pending, for the operator to see.
            if let Ok(Step::Moved(transfers)) = book::expire(accounts, reservation, self.now) {
                journal(rows, &id, &tenant_id, &transfers);
                record_step(rows, Some(Kind::Unaccounted), &id, LEDGER.to_owned(), self.now);
                expired = expired.saturating_add(1);
            }
        }
        Ok((expired, more))
    }
}

/// Deletes old answers to `Idempotency-Key`s, ended shares, and ids that were voided before they were created.
#[derive(Clone)]
pub struct ForgetOld {
    pub now: Timestamp,
}

impl Operation for ForgetOld {
    type Answer = ();

    fn needs(&self, _: &mut Needs) {}

    fn apply(self, rows: &mut Rows) -> Result<(), Refusal> {
        let kept_millis = idempotency::KEPT_SECONDS.saturating_mul(1000);
        rows.forget_ended_before =
            Some(Timestamp::from_millis(self.now.as_millis().saturating_sub(ENDED_KEPT_MILLIS)));
        rows.forget_replays_before =
            Some(Timestamp::from_millis(self.now.as_millis().saturating_sub(kept_millis)));
        Ok(())
    }
}
