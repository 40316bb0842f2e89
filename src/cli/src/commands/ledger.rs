//! `agentrelay ledger`: what is done to a ledger's database as a whole.

use super::database;
use super::trusted::Named;
use crate::output;
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use ledger::Database;

/// The ledger's database as a whole
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
    /// Stop the ledger first: what it wrote afterwards would stay behind, so it is refused while one serves the source.
    /// The source is left as it is.
    Move {
        /// Where it is, sqlite:PATH
        #[arg(long, value_name = "URL")]
        from: Database,
        /// Where it goes, postgres://USER:PASSWORD@HOST:PORT/NAME; in the environment `ps` doesn't show the password
        #[arg(long, value_name = "URL", env = "AGENTRELAY_MOVE_TO", hide_env_values = true)]
        to: Database,
        #[command(flatten)]
        named: Named,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Look at every row: do the laws of money hold, and is the audit trail as it was sealed
    ///
    /// The ledger may run meanwhile. Right after a pg_restore it says if the copy is whole. The exit status tells, too.
    Check {
        #[command(flatten)]
        at: database::Argument,
        #[command(flatten)]
        named: Named,
    },
}

impl Arguments {
    /// Runs the command.
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
            "Every row is in {there} as it was; the laws of money hold, and so does the audit chain."
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
        bail!("{name} does not keep its laws: {}", broken.join("; "));
    }
    output::note(&format!("{name}: the laws of money hold, and the audit trail is as it was sealed."));
    if !is_pinned {
        output::note("By whom it was sealed was not looked at: no key file is at hand; give --public-key.");
    }
    Ok(())
}
