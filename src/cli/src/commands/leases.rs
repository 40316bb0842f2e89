//! `agentrelay leases`: the credits that Envoys hold or held.

use super::connection::{self, Connection};
use super::parse;
use crate::output;
use clap::{Args, Subcommand, ValueEnum};
use protocol::TenantId;
use protocol::admin::{Lease, LeaseState};

/// Leases: credits that one Envoy may spend, and reports afterwards
#[derive(Args)]
#[command(after_help = "Examples:
  agentrelay leases list --state open
  agentrelay leases list --tenant ten_... --state lost")]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List leases
    List {
        /// Leases of this tenant only
        #[arg(long, value_parser = parse::tenant)]
        tenant: Option<TenantId>,
        /// Leases in this state only
        #[arg(long, value_enum)]
        state: Option<State>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    /// The Envoy may spend from it
    Open,
    /// Closed by its last statement
    Closed,
    /// Not reported in time, and charged
    Lost,
}

impl From<State> for LeaseState {
    fn from(state: State) -> LeaseState {
        match state {
            State::Open => LeaseState::Open,
            State::Closed => LeaseState::Closed,
            State::Lost => LeaseState::Lost,
        }
    }
}

impl Arguments {
    pub async fn run(self) -> anyhow::Result<()> {
        let ledger = self.connection.open()?;
        let Action::List { tenant, state } = self.action;
        let state = state.map(LeaseState::from);
        let leases = async |cursor: Option<&str>| ledger.leases(tenant.as_ref(), state, cursor).await;
        let leases = connection::all(leases).await?;
        if self.connection.json {
            return output::json(&leases);
        }
        let row = |lease: &Lease| {
            [
                lease.id.to_string(),
                lease.tenant_id.to_string(),
                lease.envoy.clone(),
                lease.state.as_str().to_owned(),
                lease.granted.to_string(),
                lease.spent.to_string(),
                lease.lost.to_string(),
                lease.opened_at.to_string(),
                lease.renewed_at.to_string(),
            ]
        };
        let rows: Vec<_> = leases.iter().map(row).collect();
        let heading = ["id", "tenant", "envoy", "state", "granted", "spent", "lost", "opened", "renewed"];
        Ok(output::table(heading, &rows)?)
    }
}
