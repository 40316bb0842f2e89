//! `agentrelay init`: a new ledger and its first credentials.

use super::database;
use crate::output;
use anyhow::Context;
use clap::Args;
use cli::stack::Credentials;
use std::fs;
use std::path::PathBuf;

/// Make a ledger's database and show its first credentials, once
#[derive(Args)]
#[command(after_help = "Examples:
  agentrelay init --database sqlite:/var/lib/agentrelay/ledger.db
  agentrelay init --database sqlite:ledger.db --state ./state    # also keeps the keys there, mode 0600")]
pub struct Arguments {
    #[command(flatten)]
    at: database::Argument,
    /// Also keep both keys in this directory, readable by its owner alone
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        if let Some(state) = &self.state {
            // Before the keys exist: a directory that can't be written would lose them.
            fs::create_dir_all(state).with_context(|| format!("{} can't be made", state.display()))?;
        }
        let ledger::Credentials { admin_key, filter_key } = ledger::init(&self.at.database)?;
        if let Some(state) = &self.state {
            let credentials = Credentials { admin_key: admin_key.clone(), filter_key: filter_key.clone() };
            credentials.write(state)?;
        }
        if self.json {
            return output::json(&serde_json::json!({"admin_key": admin_key, "filter_key": filter_key}));
        }
        output::fields(&[("admin key", admin_key), ("filter key", filter_key)])?;
        output::note(
            "Keep both now: they are stored nowhere and can't be shown again.\n\
             Operators set AGENTRELAY_ADMIN_KEY to the first, Envoy's environment AGENTRELAY_FILTER_KEY to the second.",
        );
        Ok(())
    }
}
