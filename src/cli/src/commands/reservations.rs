//! `agentrelay reservations`: expired reservations.

use super::connection::{self, Connection};
use super::parse;
use crate::output;
use clap::{Args, Subcommand, ValueEnum};
use protocol::TenantId;
use protocol::admin::{Reservation, ReservationState};

/// Reservations that expired without a settlement, and are charged until one arrives
#[derive(Args)]
#[command(after_help = "Examples:
  agentrelay reservations list --state unaccounted
  agentrelay reservations list --tenant ten_... --state corrected")]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List expired reservations; `tenants correct` refunds their credits
    List {
        /// Reservations of this tenant only
        #[arg(long, value_parser = parse::tenant)]
        tenant: Option<TenantId>,
        /// Reservations in this state only
        #[arg(long, value_enum)]
        state: Option<State>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    /// No settlement arrived, so it is charged
    Unaccounted,
    /// A late settlement arrived, or it was refunded by hand
    Corrected,
    /// Returned by an earlier release
    Returned,
}

impl From<State> for ReservationState {
    fn from(state: State) -> ReservationState {
        match state {
            State::Unaccounted => ReservationState::Unaccounted,
            State::Corrected => ReservationState::Corrected,
            State::Returned => ReservationState::Returned,
        }
    }
}

impl Arguments {
    pub async fn run(self) -> anyhow::Result<()> {
        let ledger = self.connection.open()?;
        let Action::List { tenant, state } = self.action;
        let state = state.map(ReservationState::from);
        let page = async |cursor: Option<&str>| ledger.reservations(tenant.as_ref(), state, cursor).await;
        let reservations = connection::all(page).await?;
        if self.connection.json {
            return output::json(&reservations);
        }
        let row = |reservation: &Reservation| {
            [
                reservation.id.to_string(),
                reservation.tenant_id.to_string(),
                reservation.key_id.to_string(),
                reservation.tool.clone(),
                reservation.state.as_str().to_owned(),
                reservation.reserved.to_string(),
                reservation.charged.to_string(),
                reservation.reserved_at.to_string(),
                reservation.expires_at.to_string(),
            ]
        };
        let rows: Vec<_> = reservations.iter().map(row).collect();
        let heading =
            ["id", "tenant", "key", "tool", "state", "reserved", "charged", "reserved at", "expired at"];
        Ok(output::table(heading, &rows)?)
    }
}
