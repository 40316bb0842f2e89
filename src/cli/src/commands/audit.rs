//! `agentrelay audit`: the audit trail.

mod verify;

use super::connection::Connection;
use super::parse;
use crate::output;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use client::AuditQuery;
use protocol::admin::AuditRow;
use protocol::audit::Outcome;
use protocol::{EventId, KeyId, TenantId, Timestamp};
use serde_json::Value;
use std::path::PathBuf;

/// List, export and verify the audit trail
#[derive(Args)]
#[command(after_help = "Examples:
  agentrelay audit list --outcome quota_exceeded
  agentrelay audit list --tenant ten_... --json > trail.jsonl
  agentrelay audit list --key key_... --tool image_generate --from 2026-11-22T00:00:00Z
  agentrelay audit list --request 0192f0c0-0000-7000-8000-000000000000
  agentrelay audit export --day 2026-11-22 --to 2026-11-22.jsonl
  agentrelay audit key
  agentrelay audit status                                          # how many rows are sealed, removed or dropped
  agentrelay audit verify                                          # the whole trail, from the ledger
  agentrelay audit verify 2026-11-22.jsonl --public-key 9f...      # a file, without a ledger")]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List the trail, newest first; with --json one row per line
    List {
        /// Rows of this tenant only
        #[arg(long, value_parser = parse::tenant)]
        tenant: Option<TenantId>,
        /// Decisions with this outcome only
        #[arg(long, value_parser = PossibleValuesParser::new(Outcome::ALL.map(Outcome::as_str)))]
        outcome: Option<String>,
        /// Events of this kind only, such as key_created
        #[arg(long)]
        kind: Option<String>,
        /// Events of this actor only: the id of a key or an admin key
        #[arg(long)]
        actor: Option<String>,
        /// What is about this request only: its request_id
        #[arg(long, value_name = "REQUEST_ID", value_parser = EventId::parse)]
        request: Option<EventId>,
        /// What this key did and what was done to it only
        #[arg(long, value_parser = KeyId::parse)]
        key: Option<KeyId>,
        /// What is about this service only
        #[arg(long)]
        service: Option<String>,
        /// What is about this tool only
        #[arg(long)]
        tool: Option<String>,
        /// Not before this time
        #[arg(long, value_name = "TIME", value_parser = parse::time)]
        from: Option<Timestamp>,
        /// Before this time
        #[arg(long, value_name = "TIME", value_parser = parse::time)]
        to: Option<Timestamp>,
        /// Stop after this many rows
        #[arg(long, value_name = "ROWS")]
        limit: Option<u64>,
    },
    /// Write the trail with its signed checkpoints, as lines of JSON
    Export {
        /// Only rows sealed on this day (UTC), such as 2026-11-22
        #[arg(long)]
        day: Option<String>,
        /// The file; by default standard output
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Verify every row against the signed checkpoints, and name the first fault
    Verify(verify::Arguments),
    /// Show the public keys that sign the trail
    Key,
    /// Show how many rows are sealed, removed or dropped
    Status,
}

impl Arguments {
    pub async fn run(self) -> anyhow::Result<()> {
        let json = self.connection.json;
        let (query, limit) = match self.action {
            Action::List { tenant, outcome, kind, actor, request, key, service, tool, from, to, limit } => {
                let named = |name: String| Outcome::ALL.into_iter().find(|known| known.as_str() == name);
                let outcome = outcome.and_then(named);
                let query = AuditQuery {
                    tenant_id: tenant,
                    outcome,
                    kind,
                    actor,
                    request_id: request,
                    key_id: key,
                    service,
                    tool,
                    from,
                    to,
                };
                (query, limit)
            }
            Action::Export { day, to } => {
                return verify::export(&self.connection.open()?, day.as_deref(), to.as_deref()).await;
            }
            Action::Verify(arguments) => return arguments.run(&self.connection).await,
            Action::Key => return output::json(&self.connection.open()?.audit_keys().await?),
            Action::Status => return output::json(&self.connection.open()?.audit_status().await?),
        };
        let ledger = self.connection.open()?;
        let mut left = limit.unwrap_or(u64::MAX);
        let mut cursor: Option<String> = None;
        // A trail may not fit in memory, so each page is printed before the next is fetched.
        loop {
            let mut page = ledger.audit(&query, cursor.as_deref()).await?;
            page.items.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left = left.saturating_sub(u64::try_from(page.items.len()).unwrap_or(u64::MAX));
            if json {
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
    output::shown(&format!(
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
