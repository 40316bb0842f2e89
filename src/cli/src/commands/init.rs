//! `agentrelay init`: a new ledger and its first credentials.

use super::database;
use crate::output;
use anyhow::Context;
use clap::Args;
use cli::stack::Credentials;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Create a ledger's database and show its first credentials, once
#[derive(Args)]
#[command(after_help = "Examples:
  agentrelay init --database sqlite:/var/lib/agentrelay/ledger.db
  agentrelay init --database sqlite:ledger.db --state ./state    # also writes the keys there, mode 0600")]
pub struct Arguments {
    #[command(flatten)]
    at: database::Argument,
    /// Also write both keys to this directory, readable by the owner alone
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub async fn run(self) -> anyhow::Result<()> {
        if let Some(state) = &self.state {
            // Before the keys exist, so that they are not lost if this fails.
            fs::create_dir_all(state).with_context(|| format!("{} can't be created", state.display()))?;
        }
        let Arguments { at, state, json } = self;
        if state.is_none() {
            output::check_can_print_secrets()?;
        }
        let kept = state.clone();
        let made = ledger::init(&at.database, |made| match &kept {
            Some(state) => kept_in(state, made),
            None => print(made, json),
        });
        if let (Some(state), Err(ledger::Error::Unstored(..))) = (&state, &made) {
            Credentials::remove(state)?;
        }
        let made = made?;
        if let Some(state) = &state {
            print(&made, json)
                .with_context(|| format!("both keys are in {}, and the ledger has them", state.display()))?;
        }
        if json {
            return Ok(());
        }
        output::note(
            "Save both now: they are stored nowhere and can't be shown again.\n\
             Set AGENTRELAY_ADMIN_KEY to the first for operators, and AGENTRELAY_FILTER_KEY to the second for Envoy.",
        );
        Ok(())
    }
}

fn kept_in(state: &Path, made: &ledger::Credentials) -> io::Result<()> {
    let ledger::Credentials { admin_key, filter_key } = made.clone();
    Credentials { admin_key, filter_key }.write(state).map_err(io::Error::other)
}

fn print(made: &ledger::Credentials, json: bool) -> io::Result<()> {
    let ledger::Credentials { admin_key, filter_key } = made;
    if json {
        let both = serde_json::json!({"admin_key": admin_key, "filter_key": filter_key});
        return output::json(&both).map_err(io::Error::other);
    }
    output::fields(&[("admin key", admin_key.clone()), ("filter key", filter_key.clone())])
}
