//! `agentrelay backup` and `agentrelay restore`, for embedded databases.

use super::database;
use super::trusted::Named;
use crate::output;
use anyhow::Context;
use clap::Args;
use ledger::Copied;
use std::path::PathBuf;

/// Copy a SQLite database, which may be in use, and verify the copy
#[derive(Args)]
#[command(after_help = "Example:
  agentrelay backup --database sqlite:/var/lib/agentrelay/ledger.db --to /backup/2026-11-22.db

The key that signs the audit trail is in its own file (PATH.audit-key for sqlite:PATH): store it apart from the backups. For
PostgreSQL use pg_dump.")]
pub struct Backup {
    #[command(flatten)]
    at: database::Argument,
    /// The copy; must not exist yet
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    #[command(flatten)]
    named: Named,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Restore a backup as a database, and verify it
#[derive(Args)]
#[command(after_help = "Example:
  agentrelay restore --from /backup/2026-11-22.db --database sqlite:/var/lib/agentrelay/restored.db

Writes after the backup are lost. Filters reload everything.")]
pub struct Restore {
    /// The backup
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// The database; must not exist yet
    #[arg(long, value_name = "URL")]
    database: ledger::Database,
    #[command(flatten)]
    named: Named,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Backup {
    pub async fn run(self) -> anyhow::Result<()> {
        let Backup { at, to, named, json } = self;
        let trusted = named.and_of(&at.database)?;
        let file = to.clone();
        let work = tokio::task::spawn_blocking(move || ledger::backup(&at.database, &to, trusted.as_ref()));
        let copied = work.await?.with_context(|| format!("no backup was made at {}", file.display()))?;
        tell(copied, json)
    }
}

impl Restore {
    pub async fn run(self) -> anyhow::Result<()> {
        let Restore { from, database, named, json } = self;
        let trusted = named.and_of(&database)?;
        let name = database.to_string();
        let work = tokio::task::spawn_blocking(move || ledger::restore(&from, &database, trusted.as_ref()));
        let copied = work.await?.with_context(|| format!("{name} was not restored"))?;
        tell(copied, json)
    }
}

fn tell(copied: Copied, json: bool) -> anyhow::Result<()> {
    let Copied { tenants, audit_rows } = copied;
    if json {
        return output::json(&serde_json::json!({"tenants": tenants, "audit_rows": audit_rows}));
    }
    Ok(output::fields(&[("tenants", tenants.to_string()), ("audit rows", audit_rows.to_string())])?)
}
