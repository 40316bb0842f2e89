//! `agentrelay agents`: the registered callers of tenants.

use super::connection::{self, Connection, Once};
use super::parse;
use crate::output;
use clap::{Args, Subcommand};
use protocol::admin::{Agent, CreateAgent};
use protocol::{AgentId, TenantId};

/// Agents: the registered callers of tenants
#[derive(Args)]
#[command(after_help = "Examples:
  agentrelay agents create --tenant ten_... --name 'release bot'
  agentrelay agents list --tenant ten_...
  agentrelay agents show agt_...
  agentrelay keys create --tenant ten_... --name ci --scope read --agent agt_...")]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Register an agent
    Create {
        /// The tenant, ten_...
        #[arg(long, value_parser = parse::tenant)]
        tenant: TenantId,
        /// Display name
        #[arg(long)]
        name: String,
        #[command(flatten)]
        once: Once,
    },
    /// List agents
    List {
        /// Agents of this tenant only
        #[arg(long, value_parser = parse::tenant)]
        tenant: Option<TenantId>,
    },
    /// Show one agent
    Show {
        /// The agent, agt_...
        #[arg(value_parser = parse::of_agent)]
        id: AgentId,
    },
}

impl Arguments {
    pub async fn run(self) -> anyhow::Result<()> {
        let ledger = self.connection.open()?;
        let agents = match self.action {
            Action::Create { tenant, name, once } => {
                let create = CreateAgent { tenant_id: tenant, name };
                vec![once.of(ledger).create_agent(&create).await?]
            }
            Action::Show { id } => vec![ledger.agent(&id).await?],
            Action::List { tenant } => {
                let agents = async |cursor: Option<&str>| ledger.agents(tenant.as_ref(), cursor).await;
                let agents = connection::all(agents).await?;
                if self.connection.json {
                    return output::json(&agents);
                }
                agents
            }
        };
        if self.connection.json {
            return agents.iter().try_for_each(output::json);
        }
        let row = |agent: &Agent| {
            let Agent { id, tenant_id, name, created_at } = agent;
            [id.to_string(), tenant_id.to_string(), name.clone(), created_at.to_string()]
        };
        let rows: Vec<_> = agents.iter().map(row).collect();
        Ok(output::table(["id", "tenant", "name", "created"], &rows)?)
    }
}
