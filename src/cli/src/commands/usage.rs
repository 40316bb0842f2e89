//! `agentrelay usage`: what was called and charged.

use super::connection::Connection;
use super::keys::parse;
use crate::output;
use clap::{Args, ValueEnum};
use client::{UsageGroup, UsageQuery};
use protocol::Timestamp;
use protocol::admin::UsageRow;

/// Usage: what was called and charged
#[derive(Args)]
#[command(after_help = "Examples:
  agentrelay usage --group-by tool
  agentrelay usage --group-by tenant,tool --from 2026-11-01T00:00:00Z --to 2026-12-01T00:00:00Z --json")]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
    /// One row for each combination
    #[arg(long, value_enum, value_delimiter = ',', default_value = "tool")]
    group_by: Vec<Group>,
    /// Not before this time
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    from: Option<Timestamp>,
    /// Before this time
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    to: Option<Timestamp>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Group {
    Tool,
    Key,
    Tenant,
}

impl Arguments {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let ledger = self.connection.open()?;
        let group = |group: &Group| match group {
            Group::Tool => UsageGroup::Tool,
            Group::Key => UsageGroup::Key,
            Group::Tenant => UsageGroup::Tenant,
        };
        let group_by = self.group_by.iter().map(group).collect();
        let usage = ledger.usage(&UsageQuery { group_by, from: self.from, to: self.to }).await?;
        if self.connection.json {
            return output::json(&usage.items);
        }
        let row = |row: &UsageRow| {
            [
                output::or_dash(row.tenant_id.as_ref()),
                output::or_dash(row.key_id.as_ref()),
                output::or_dash(row.tool.as_ref()),
                row.calls.to_string(),
                row.allowed.to_string(),
                row.credits.to_string(),
            ]
        };
        let rows: Vec<_> = usage.items.iter().map(row).collect();
        Ok(output::table(["tenant", "key", "tool", "calls", "allowed", "credits"], &rows)?)
    }
}
