//! `agentrelay policy`: checks policies and puts them in force.

mod check;
mod diff;
mod init;
pub(super) mod live;

use super::connection::{self, Connection, all};
use super::parse;
use crate::{mcp, output};
use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use client::UsageQuery;
use live::Against;
use policy::{Invalid, Policy};
use protocol::admin::ShadowRow;
use protocol::problem::Problem;
use protocol::{TenantId, Timestamp};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// The policy: tiers, scopes, prices and limits
#[derive(Args)]
#[command(after_help = "Examples:
  agentrelay policy init --from http://127.0.0.1:9000/mcp --to policy.yaml
  agentrelay policy init --from https://tools.example.com/mcp --header 'authorization: Bearer ...' --service tools
  agentrelay policy check envoy/policy.yaml
  agentrelay policy check policy.yaml --against http://127.0.0.1:9000/mcp
  agentrelay policy show > in-force.yaml
  agentrelay policy tiers
  agentrelay policy tools
  agentrelay policy diff policy.yaml
  agentrelay policy apply policy.yaml --if-match 5f1c...
  agentrelay policy shadow-report --from 2026-11-01")]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Check a file: faults by line and column, rules that can't match and, with an admin key, names in use that it lacks
    Check {
        /// The policy, YAML or JSON
        file: PathBuf,
        /// Also compare with what a live MCP server lists: tools that are missing or gone, and texts with other prices; URL or
        /// SERVICE=URL, repeatable
        #[arg(long, value_name = "URL", value_parser = live::against)]
        against: Vec<Against>,
        /// A header that these servers need, such as 'authorization: Bearer ...'; repeatable
        #[arg(long = "header", value_name = "HEADER", value_parser = mcp::header, requires = "against")]
        headers: Vec<(HeaderName, HeaderValue)>,
    },
    /// Propose a policy for the tools that an MCP server lists
    Init(init::Arguments),
    /// Show the policy in force
    Show,
    /// Show what a file would change, and which tenants and keys use names that it no longer has; always exits with 0
    Diff {
        /// The policy, YAML or JSON
        file: PathBuf,
    },
    /// Put a file in force; needs the role owner
    Apply {
        /// The policy, YAML or JSON
        file: PathBuf,
        /// Only if this version is still in force, shown by `policy show` and `policy diff`
        #[arg(long, visible_alias = "over", value_name = "VERSION", value_parser = connection::version)]
        if_match: Option<String>,
        /// Even if tenants or keys use a tier, service, tool or scope that it no longer has
        #[arg(long)]
        force: bool,
    },
    /// Sum what shadow rules would have refused
    ShadowReport {
        /// From this time on, a full hour in UTC
        #[arg(long, value_name = "TIME", value_parser = parse::time)]
        from: Option<Timestamp>,
        /// Before this time, a full hour in UTC
        #[arg(long, value_name = "TIME", value_parser = parse::time)]
        to: Option<Timestamp>,
        /// Of this tenant only
        #[arg(long, value_parser = parse::tenant)]
        tenant: Option<TenantId>,
        /// Of this tool only
        #[arg(long)]
        tool: Option<String>,
    },
    /// Show the tiers of the policy in force, verbatim
    Tiers,
    /// Show the services and tools of the policy in force, verbatim
    Tools,
}

impl Arguments {
    pub async fn run(self) -> anyhow::Result<()> {
        match self.action {
            Action::Check { file, against, headers } => {
                check::run(&file, &self.connection, &against, &HeaderMap::from_iter(headers)).await
            }
            Action::Init(arguments) => init::run(arguments).await,
            Action::Diff { file } => {
                let text = read(&file)?;
                let (_, after) = valid(&text).map_err(|invalid| not_valid(&file, &invalid.placed(&text)))?;
                let ledger = self.connection.open()?;
                let in_force = ledger.policy().await?;
                let leaving = match ledger.check_policy(text).await {
                    Ok(checked) => checked.leaving,
                    // A tenant-bound admin may not see other tenants.
                    Err(client::Error::Credential(_)) => {
                        output::note(
                            "only administrators of all tenants can see who uses names that the file no longer has",
                        );
                        Vec::new()
                    }
                    Err(error) => return Err(error.into()),
                };
                let changes = diff::changes(&in_force.document, &after);
                if self.connection.json {
                    return output::json(&json!({
                        "over": in_force.version, "changes": changes, "leaving": leaving,
                    }));
                }
                output::note(&format!("over version {}", in_force.version));
                if changes.is_empty() {
                    output::note("nothing would change");
                }
                for change in &changes {
                    output::line(&change.to_string())?;
                }
                for name in &leaving {
                    output::line(&format!("! {name}"))?;
                }
                if !leaving.is_empty() {
                    output::note(
                        "! marks names that are in use and would be dropped: change their users, or apply with --force",
                    );
                }
                Ok(())
            }
            Action::Apply { file, if_match, force } => {
                let text = read(&file)?;
                let ledger = self.connection.open()?;
                let if_match = if_match.as_deref();
                let applied = if force {
                    ledger.force_policy(text, if_match).await
                } else {
                    ledger.replace_policy(text, if_match).await
                };
                let in_force = applied.map_err(|error| {
                    let is_in_use =
                        error.problem().is_some_and(|problem| problem.kind == Problem::urn("policy_in_use"));
                    let error = anyhow::Error::new(error);
                    if is_in_use {
                        error.context("nothing was changed; --force applies the policy anyway")
                    } else {
                        error
                    }
                })?;
                if self.connection.json {
                    return output::json(&json!({"version": in_force.version}));
                }
                Ok(output::line(&format!("version {} is in force", in_force.version))?)
            }
            Action::ShadowReport { from, to, tenant, tool } => {
                let query = UsageQuery { from, to, tenant_id: tenant, tool, ..UsageQuery::default() };
                let ledger = self.connection.open()?;
                let report = all(async |cursor| ledger.shadow_report(&query, cursor).await).await?;
                if self.connection.json {
                    return output::json(&report);
                }
                let row = |row: &ShadowRow| {
                    [
                        row.would_deny.to_string(),
                        output::or_dash(row.tenant_id.as_ref()),
                        output::or_dash(row.tool.as_ref()),
                        row.calls.to_string(),
                        row.credits.to_string(),
                    ]
                };
                let rows: Vec<_> = report.iter().map(row).collect();
                Ok(output::table(["would deny", "tenant", "tool", "calls", "credits"], &rows)?)
            }
            Action::Tiers => output::json(&self.connection.open()?.tiers().await?),
            Action::Tools => output::json(&self.connection.open()?.tools().await?),
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

fn read(file: &Path) -> anyhow::Result<String> {
    let bytes = fs::read(file).with_context(|| format!("{} can't be read", file.display()))?;
    String::from_utf8(bytes).map_err(|_| anyhow!("{} is not a text in UTF-8", file.display()))
}

/// The policy of a file and its document, or an error with all faults.
pub(super) fn readable(file: &Path) -> anyhow::Result<(Policy, Value)> {
    let text = read(file)?;
    valid(&text).map_err(|invalid| not_valid(file, &invalid.placed(&text)))
}

fn not_valid(file: &Path, invalid: &Invalid) -> anyhow::Error {
    anyhow!("{} is not a valid policy:\n{invalid}", file.display())
}

/// The policy and its document, if it is one.
fn valid(text: &str) -> Result<(Policy, Value), Invalid> {
    let document = policy::yaml::to_json(text)?;
    let policy = Policy::from_json(document.as_bytes())?;
    let document = serde_json::from_str(&document).unwrap_or_default();
    Ok((policy, document))
}

/// The hosts that a service names; none stands for all.
pub(super) fn hosts(document: &Value, service: &str) -> Vec<String> {
    let hosts = document.get("services").and_then(|services| services.get(service)?.get("hosts"));
    let hosts = hosts.and_then(Value::as_array).into_iter().flatten();
    hosts.filter_map(Value::as_str).map(str::to_owned).collect()
}
