//! `agentrelay backup` and `agentrelay restore`: a whole copy of an embedded database, and a database of such a copy.

use super::database;
use super::trusted::Named;
use crate::output;
use anyhow::Context;
use clap::Args;
use ledger::Copied;
use std::path::PathBuf;

/// Copy an embedded database, which may be in use, and check the copy
#[derive(Args)]
#[command(after_help = "Example:
  agentrelay backup --database sqlite:/var/lib/agentrelay/ledger.db --to /backup/2026-11-22.db

The key that signs the audit trail is in a file of its own (sqlite:PATH has it at PATH.audit-key): keep it apart from the
backups. For PostgreSQL use pg_dump.")]
pub struct Backup {
    #[command(flatten)]
    at: database::Argument,
    /// The copy, a file that does not exist yet
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    #[command(flatten)]
    named: Named,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Make a database of a backup, and check it
#[derive(Args)]
#[command(after_help = "Example:
  agentrelay restore --from /backup/2026-11-22.db --database sqlite:/var/lib/agentrelay/restored.db

What was written after the backup is gone; filters forget all that they knew and ask again.")]
pub struct Restore {
    /// The backup
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// The database, which must not exist yet
    #[arg(long, value_name = "URL")]
    database: ledger::Database,
    #[command(flatten)]
    named: Named,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Backup {
    /// Runs the command.
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
    /// Runs the command.
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
