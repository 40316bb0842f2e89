//! Reservations whose time ended without an account of them, as administrators see them.

use crate::{Credits, KeyId, ReservationId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

/// A reservation that expired before a filter reported how its call ended.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// The id; also the id of the request.
    pub id: ReservationId,
    /// The tenant that pays.
    pub tenant_id: TenantId,
    /// The key that called.
    pub key_id: KeyId,
    /// The service that was called.
    pub service: String,
    /// The tool that was called.
    pub tool: String,
    /// The state of the reservation.
    pub state: ReservationState,
    /// Credits reserved.
    pub reserved: Credits,
    /// Credits charged for it now.
    pub charged: Credits,
    /// When it was made.
    pub reserved_at: Timestamp,
    /// When it expired.
    pub expires_at: Timestamp,
}

/// The state of an expired reservation.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReservationState {
    /// No filter has reported how the call ended, so it is charged.
    Unaccounted,
    /// A late report corrected the charge, or an administrator refunded all of it.
    Corrected,
    /// An earlier release refunded it when it expired.
    Returned,
}

impl ReservationState {
    /// Every state.
    pub const ALL: [ReservationState; 3] =
        [ReservationState::Unaccounted, ReservationState::Corrected, ReservationState::Returned];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            ReservationState::Unaccounted => "unaccounted",
            ReservationState::Corrected => "corrected",
            ReservationState::Returned => "returned",
        }
    }
}
