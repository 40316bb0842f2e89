//! What a reservation is. What may happen to it is in `book`.

use protocol::admin::{self, ReservationState};
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

    /// As administrators see it, once its time is over without an account of it.
    pub fn shown(self) -> Option<admin::Reservation> {
        let state = match self.state {
            State::Expired { asked: None, charged } if !charged.is_zero() => ReservationState::Unaccounted,
            State::Expired { .. } => ReservationState::Corrected,
            State::Lapsed => ReservationState::Returned,
            State::Pending | State::Posted { .. } | State::Voided => return None,
        };
        let charged = self.state.charged();
        let Request { id, tenant_id, key_id, service, tool, credits: reserved, .. } = self.request;
        let (reserved_at, expires_at) = (self.reserved_at, self.expires_at);
        Some(admin::Reservation {
            id,
            tenant_id,
            key_id,
            service,
            tool,
            state,
            reserved,
            charged,
            reserved_at,
            expires_at,
        })
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
        /// What is charged of it: less where it cost more than was set aside and the tenant did not have the rest, or
        /// where an administrator gave some of it back.
        charged: Credits,
    },
    /// Given back.
    Voided,
    /// Charged because its time was over and nobody had accounted for it.
    Expired {
        /// What the call cost, by the account that came after all; none as long as it is unaccounted.
        asked: Option<Credits>,
        /// What is charged for it now.
        charged: Credits,
    },
    /// Given back because its time was over, by a release that did so, and not accounted for since.
    Lapsed,
}

impl State {
    /// Its name at rest, in messages and in metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Posted { .. } => "posted",
            State::Voided => "voided",
            State::Expired { .. } | State::Lapsed => "expired",
        }
    }

    /// What is charged for it now.
    pub const fn charged(&self) -> Credits {
        match self {
            State::Posted { charged, .. } | State::Expired { charged, .. } => *charged,
            State::Pending | State::Voided | State::Lapsed => Credits::ZERO,
        }
    }
}
