//! A reservation as data. The steps on it are in `book`.

use protocol::admin::{self, ReservationState};
use protocol::{Credits, KeyId, PolicyVersion, ReservationId, TenantId, Timestamp};

/// The request for a reservation. Two requests with the same id must be equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The id that makes every step idempotent.
    pub id: ReservationId,
    pub tenant_id: TenantId,
    pub key_id: KeyId,
    pub service: String,
    pub tool: String,
    /// At least 1.
    pub credits: Credits,
    /// How much more than `credits` may be charged.
    pub overrun: Credits,
    /// How long it stays pending unless it is renewed.
    pub ttl_seconds: u32,
    /// The policy that set the price.
    pub policy_version: PolicyVersion,
}

/// Credits reserved for one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    pub request: Request,
    /// When it was created.
    pub reserved_at: Timestamp,
    /// When it may expire.
    pub expires_at: Timestamp,
    /// What the tenant had available right after it, so that a repeated request gets the same answer.
    pub available_after: Credits,
    pub state: State,
}

impl Reservation {
    /// When it would expire without renewals: what the first answer said.
    pub fn first_expires_at(&self) -> Timestamp {
        self.reserved_at.plus_seconds(self.request.ttl_seconds.into())
    }

    /// The form that the admin API shows; `None` unless it expired.
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

/// The state of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The credits are reserved.
    Pending,
    /// Charged; the rest was returned.
    Posted {
        /// What the call cost.
        asked: Credits,
        /// What is charged: less than the cost if the tenant lacked credits for an overrun, or after a refund.
        charged: Credits,
    },
    /// The credits were returned.
    Voided,
    /// Charged because its time ended without a settlement.
    Expired {
        /// What the call cost, by a late settlement; `None` while it is unaccounted.
        asked: Option<Credits>,
        /// What is charged for it now.
        charged: Credits,
    },
    /// An earlier release returned its credits at expiry, and no settlement has arrived since.
    Lapsed,
}

impl State {
    /// Its name in the database, in messages and in metrics.
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
