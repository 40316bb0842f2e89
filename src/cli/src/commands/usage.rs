//! `agentrelay usage`: calls and charges.

use super::connection::{Connection, all};
use super::parse;
use crate::output;
use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use client::{UsageGroup, UsageQuery};
use protocol::admin::UsageRow;
use protocol::audit::Outcome;
use protocol::{AgentId, KeyId, TenantId, Timestamp};

/// Sum calls and charges
#[derive(Args)]
#[command(after_help = "Examples:
  agentrelay usage --group-by tool
  agentrelay usage --group-by agent,outcome --tenant ten_...
  agentrelay usage --group-by tenant,tool --from 2026-11-01 --to 2026-12-01 --json")]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
    /// One row for each combination
    #[arg(long, value_enum, value_delimiter = ',', default_value = "tool")]
    group_by: Vec<Group>,
    /// From this time on, a full hour in UTC
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    from: Option<Timestamp>,
    /// Before this time, a full hour in UTC
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    to: Option<Timestamp>,
    /// Of this tenant only
    #[arg(long, value_parser = parse::tenant)]
    tenant: Option<TenantId>,
    /// Of this key only
    #[arg(long, value_parser = parse::key)]
    key: Option<KeyId>,
    /// Of this agent only
    #[arg(long, value_parser = parse::of_agent)]
    agent: Option<AgentId>,
    /// Of this tool only
    #[arg(long)]
    tool: Option<String>,
    /// With this outcome only
    #[arg(long, value_parser = PossibleValuesParser::new(Outcome::ALL.map(Outcome::as_str)))]
    outcome: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Group {
    Tool,
    Key,
    Tenant,
    Agent,
    Outcome,
}

impl Arguments {
    pub async fn run(self) -> anyhow::Result<()> {
        let ledger = self.connection.open()?;
        let group = |group: &Group| match group {
            Group::Tool => UsageGroup::Tool,
            Group::Key => UsageGroup::Key,
            Group::Tenant => UsageGroup::Tenant,
            Group::Agent => UsageGroup::Agent,
            Group::Outcome => UsageGroup::Outcome,
        };
        let group_by = self.group_by.iter().map(group).collect();
        let outcome = self.outcome.as_deref();
        let query = UsageQuery {
            group_by,
            from: self.from,
            to: self.to,
            tenant_id: self.tenant,
            key_id: self.key,
            agent_id: self.agent,
            tool: self.tool,
            outcome: outcome.and_then(|name| Outcome::ALL.into_iter().find(|known| known.as_str() == name)),
        };
        let usage = all(async |cursor| ledger.usage(&query, cursor).await).await?;
        if self.connection.json {
            return output::json(&usage);
        }
        let row = |row: &UsageRow| {
            [
                output::or_dash(row.tenant_id.as_ref()),
                output::or_dash(row.key_id.as_ref()),
                output::or_dash(row.agent_id.as_ref()),
                output::or_dash(row.tool.as_ref()),
                output::or_dash(row.outcome),
                row.calls.to_string(),
                row.allowed.to_string(),
                row.credits.to_string(),
                row.usage_tokens.input.to_string(),
                row.usage_tokens.output.to_string(),
                output::or_dash(row.latency_ms.map(|latency| latency.p50)),
                output::or_dash(row.latency_ms.map(|latency| latency.p95)),
                output::or_dash(row.latency_ms.map(|latency| latency.p99)),
            ]
        };
        let rows: Vec<_> = usage.iter().map(row).collect();
        let heading = [
            "tenant",
            "key",
            "agent",
            "tool",
            "outcome",
            "calls",
            "allowed",
            "credits",
            "LLM tokens in",
            "LLM tokens out",
            "p50 ms",
            "p95 ms",
            "p99 ms",
        ];
        Ok(output::table(heading, &rows)?)
    }
}
