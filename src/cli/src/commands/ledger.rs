//! `agentrelay ledger`: moves and checks a ledger's database.

use super::database;
use super::trusted::Named;
use crate::output;
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use ledger::Database;

/// Move or check a ledger's database
#[derive(Args)]
#[command(after_help = "Examples:
  agentrelay ledger move --from sqlite:agentrelay.db --to postgres://ledger@db.internal/ledger
  agentrelay ledger check --database sqlite:/var/lib/agentrelay/ledger.db")]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Copy a ledger from SQLite to an empty PostgreSQL database, and verify the copy
    ///
    /// Stop the ledger first: the command refuses a source that is served, because later writes would be lost. The source is
    /// not changed.
    Move {
        /// The source, sqlite:PATH
        #[arg(long, value_name = "URL")]
        from: Database,
        /// The target, postgres://USER:PASSWORD@HOST:PORT/NAME; `ps` does not show the password if it is set in the environment
        #[arg(long, value_name = "URL", env = "AGENTRELAY_MOVE_TO", hide_env_values = true)]
        to: Database,
        #[command(flatten)]
        named: Named,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Check every row against the invariants of money, and verify the audit trail
    ///
    /// The ledger may run meanwhile. Run it after pg_restore to check the copy. The exit status is 0 only if all is well.
    Check {
        #[command(flatten)]
        at: database::Argument,
        #[command(flatten)]
        named: Named,
    },
}

impl Arguments {
    pub async fn run(self) -> anyhow::Result<()> {
        let (from, to, named, json) = match self.action {
            Action::Move { from, to, named, json } => (from, to, named, json),
            Action::Check { at, named } => return check(at.database, named).await,
        };
        let trusted = named.and_of(&from)?;
        let there = to.to_string();
        let moving = tokio::task::spawn_blocking(move || {
            let progress = |table: &str| output::progress(&format!("{table} ..."));
            ledger::relocate::relocate(&from, &to, trusted.as_ref(), progress)
        });
        let moved = moving.await??;
        output::done();
        if json {
            let tables: serde_json::Map<_, _> =
                moved.tables.into_iter().map(|(name, rows)| (name, rows.into())).collect();
            return output::json(&serde_json::json!({"verified": true, "rows": tables}));
        }
        let rows: Vec<_> = moved.tables.into_iter().map(|(name, rows)| [name, rows.to_string()]).collect();
        output::table(["table", "rows"], &rows)?;
        output::note(&format!(
            "Every row was copied to {there}; the invariants of money hold, and the audit trail is valid."
        ));
        Ok(())
    }
}

async fn check(database: Database, named: Named) -> anyhow::Result<()> {
    let name = database.to_string();
    let trusted = named.and_of(&database)?;
    let is_pinned = trusted.is_some();
    let looking = tokio::task::spawn_blocking(move || ledger::check(&database, trusted.as_ref()));
    let broken = looking.await?.with_context(|| format!("can't open {name}"))?;
    if !broken.is_empty() {
        bail!("{name} breaks invariants: {}", broken.join("; "));
    }
    output::note(&format!("{name}: the invariants of money hold, and the audit trail is as it was sealed."));
    if !is_pinned {
        output::note(
            "Any signing key was accepted, because there is no key file next to the database; give --public-key.",
        );
    }
    Ok(())
}
