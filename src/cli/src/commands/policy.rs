//! `agentrelay policy`: the rules, before and after they are in force.

use super::connection::Connection;
use crate::output;
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use policy::Policy;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

/// The policy: tiers, scopes, prices and limits
#[derive(Args)]
#[command(after_help = "Examples:
  agentrelay policy check envoy/policy.yaml
  agentrelay policy show > in-force.yaml")]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Say whether a file is a valid policy, and if not, where; asks no ledger
    Check {
        /// The policy, YAML or JSON
        file: PathBuf,
    },
    /// Show the policy that is in force
    Show,
}

impl Arguments {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        match self.action {
            Action::Check { file } => check(&file, self.connection.json),
            Action::Show => {
                let in_force = self.connection.open()?.policy().await?;
                if self.connection.json {
                    return output::json(&in_force);
                }
                output::note(&format!("version {}", in_force.version));
                Ok(output::line(serde_yaml_ng::to_string(&in_force.document)?.trim_end())?)
            }
        }
    }
}

fn check(file: &Path, json: bool) -> anyhow::Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("{} can't be read", file.display()))?;
    let parsed = policy::yaml::to_json(&text).and_then(|document| Policy::from_json(document.as_bytes()));
    match parsed {
        Ok(policy) if json => output::json(&json!({"valid": true, "version": policy.version()})),
        Ok(policy) => {
            Ok(output::line(&format!("{} is valid, version {}", file.display(), policy.version()))?)
        }
        Err(invalid) => {
            let faults = invalid.to_string();
            if json {
                output::json(&json!({"valid": false, "faults": faults.lines().collect::<Vec<_>>()}))?;
            } else {
                output::line(&faults)?;
            }
            bail!("{} is not a valid policy; nothing was changed", file.display())
        }
    }
}
