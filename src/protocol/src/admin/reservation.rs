//! Reservations whose time ended without an account of them, as administrators see them.

use crate::{Credits, KeyId, ReservationId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

/// Credits that were set aside for one call of which nothing was heard in time.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// Its id.
    pub id: ReservationId,
    /// Who pays.
    pub tenant_id: TenantId,
    /// Who called.
    pub key_id: KeyId,
    /// The service called.
    pub service: String,
    /// The tool called.
    pub tool: String,
    /// Where it stands.
    pub state: ReservationState,
    /// What was set aside.
    pub reserved: Credits,
    /// What is charged for it now.
    pub charged: Credits,
    /// When it was made.
    pub reserved_at: Timestamp,
    /// When its time was over.
    pub expires_at: Timestamp,
}

/// Where a reservation stands after its time.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReservationState {
    /// Nobody has said how its call ended, so it is charged.
    Unaccounted,
    /// Its account came after all and set the charge right, or an administrator gave all of it back.
    Corrected,
    /// It was given back, by an earlier release that did so.
    Returned,
}

impl ReservationState {
    /// Every state.
    pub const ALL: [ReservationState; 3] =
        [ReservationState::Unaccounted, ReservationState::Corrected, ReservationState::Returned];

    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            ReservationState::Unaccounted => "unaccounted",
            ReservationState::Corrected => "corrected",
            ReservationState::Returned => "returned",
        }
    }
}
