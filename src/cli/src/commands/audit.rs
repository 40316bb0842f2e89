//! `agentrelay audit`: what happened, in order.

use super::connection::Connection;
use super::tenants::tenant_id;
use crate::output;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use client::AuditQuery;
use protocol::TenantId;
use protocol::admin::AuditRow;
use protocol::audit::Outcome;
use serde_json::Value;

/// The audit trail: what happened, in order
#[derive(Args)]
#[command(after_help = "Examples:
  agentrelay audit list --outcome quota_exceeded
  agentrelay audit list --tenant ten_... --json > trail.jsonl")]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List the trail, newest first; with --json one row a line
    List {
        /// Rows of this tenant only
        #[arg(long, value_parser = tenant_id)]
        tenant: Option<TenantId>,
        /// Decisions with this outcome only
        #[arg(long, value_parser = PossibleValuesParser::new(Outcome::ALL.map(Outcome::as_str)))]
        outcome: Option<String>,
        /// Stop after so many rows
        #[arg(long, value_name = "ROWS")]
        limit: Option<u64>,
    },
}

impl Arguments {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let ledger = self.connection.open()?;
        let Action::List { tenant, outcome, limit } = self.action;
        let outcome = outcome.and_then(|name| Outcome::ALL.into_iter().find(|known| known.as_str() == name));
        let query = AuditQuery { tenant_id: tenant, outcome };
        let mut left = limit.unwrap_or(u64::MAX);
        let mut cursor: Option<String> = None;
        // A trail can be longer than memory: each page is printed before the next is asked for.
        loop {
            let mut page = ledger.audit(&query, cursor.as_deref()).await?;
            page.items.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left = left.saturating_sub(u64::try_from(page.items.len()).unwrap_or(u64::MAX));
            if self.connection.json {
                page.items.iter().try_for_each(output::json_line)?;
            } else {
                page.items.iter().try_for_each(print)?;
            }
            if left == 0 || page.next_cursor.is_none() || page.next_cursor == cursor {
                return Ok(());
            }
            cursor = page.next_cursor;
        }
    }
}

fn print(row: &AuditRow<Value>) -> std::io::Result<()> {
    output::line(&format!(
        "{:>8}  {}  {:<26}  {:<18}  {:<36}  {}  {}",
        row.sequence,
        row.recorded_at,
        row.kind,
        output::or_dash(row.outcome),
        output::or_dash(row.tenant_id.as_ref()),
        row.actor,
        row.detail,
    ))
}
