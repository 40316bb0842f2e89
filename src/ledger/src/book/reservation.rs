//! What a reservation is. What may happen to it is in `book`.

use protocol::{Credits, KeyId, PolicyVersion, ReservationId, TenantId, Timestamp};

/// What was asked for. Two requests under one id must be equal in all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The idempotency id of every step.
    pub id: ReservationId,
    /// Who pays.
    pub tenant_id: TenantId,
    /// Who calls.
    pub key_id: KeyId,
    /// The service called.
    pub service: String,
    /// The tool called.
    pub tool: String,
    /// How much, at least 1.
    pub credits: Credits,
    /// How much more may be charged in the end.
    pub overrun: Credits,
    /// How long it stays pending unless renewed.
    pub ttl_seconds: u32,
    /// The policy that set the price.
    pub policy_version: PolicyVersion,
}

/// Credits set aside for one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// What was asked for.
    pub request: Request,
    /// When it was made.
    pub reserved_at: Timestamp,
    /// When it may expire.
    pub expires_at: Timestamp,
    /// What the tenant had left right after it, so that a repeated request gets the same answer.
    pub available_after: Credits,
    /// Where it stands.
    pub state: State,
}

impl Reservation {
    /// When it was to expire before any renewal: what its maker was told.
    pub fn first_expires_at(&self) -> Timestamp {
        self.reserved_at.plus_seconds(self.request.ttl_seconds.into())
    }
}

/// Where a reservation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Set aside.
    Pending,
    /// Charged; the rest went back.
    Posted {
        /// What the call cost.
        asked: Credits,
        /// What was charged of it: less where it cost more than was set aside and the tenant did not have the rest.
        charged: Credits,
    },
    /// Given back.
    Voided,
    /// Given back because its time was over.
    Expired {
        /// The charge that came after all.
        late: Option<Late>,
    },
}

impl State {
    /// Its name at rest, in messages and in metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Posted { .. } => "posted",
            State::Voided => "voided",
            State::Expired { .. } => "expired",
        }
    }
}

/// A charge that came after the reservation had expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Late {
    /// What the call cost.
    pub asked: Credits,
    /// What the tenant still had; the difference is lost.
    pub charged: Credits,
}
