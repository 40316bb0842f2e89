//! `policy check`: faults, which no ledger takes, and findings, which it takes but which do not do what they say.

mod dead;

use super::live::{self, Against};
use super::{read, valid};
use crate::commands::connection::{self, Connection};
use crate::output;
use anyhow::bail;
use client::Client;
use policy::Policy;
use policy::plain::nearest;
use policy::rules::Service;
use policy::yaml::places;
use protocol::admin::{NameKind, NameLeaving, PolicyChecked, ToolLeaving};
use reqwest::header::HeaderMap;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// One fault or finding, with its place in the file.
#[derive(Debug, Serialize)]
struct Placed {
    line: Option<usize>,
    column: Option<usize>,
    /// The path, and what is wrong there.
    text: String,
}

pub(super) async fn run(
    file: &Path,
    connection: &Connection,
    against: &[Against],
    headers: &HeaderMap,
) -> anyhow::Result<()> {
    let text = read(file)?;
    let parsed = valid(&text);
    let (policy, document) = match parsed {
        Ok((policy, document)) => (policy, document),
        Err(invalid) => {
            let faults = placed(&text, invalid.faults().iter().cloned());
            show(file, json!({"valid": false, "faults": faults}), &faults, connection.json)?;
            bail!("{} is not a valid policy; nothing was changed", file.display())
        }
    };
    let mut findings = dead::rules(&policy, &document);
    if let Some(ledger) = connection.open_if_given()? {
        findings.extend(in_use(&ledger, &policy, &text).await?);
    }
    for server in against {
        findings.extend(live::differences(&policy, server, headers).await?);
    }
    let findings = placed(&text, findings);
    let version = policy.version();
    show(file, json!({"valid": true, "version": version, "findings": findings}), &findings, connection.json)?;
    if !findings.is_empty() {
        let count = findings.len();
        bail!(
            "{} is valid, but has {count} of these: put in force it would not do what it says there",
            file.display()
        );
    }
    if !connection.json {
        output::line(&format!("{} is valid, version {version}", file.display()))?;
    }
    Ok(())
}

fn placed(text: &str, faults: impl IntoIterator<Item = String>) -> Vec<Placed> {
    let faults: Vec<String> = faults.into_iter().collect();
    let places = places(text, faults.iter().map(String::as_str));
    let placed = faults.into_iter().zip(places).map(|(fault, place)| Placed {
        line: place.map(|at| at.line),
        column: place.map(|at| at.column),
        text: fault,
    });
    placed.collect()
}

fn show(file: &Path, result: Value, faults: &[Placed], as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return output::json(&result);
    }
    for fault in faults {
        match (fault.line, fault.column) {
            (Some(line), Some(column)) => {
                output::shown(&format!("{}:{line}:{column}: {}", file.display(), fault.text))?;
            }
            _ => output::shown(&format!("{}: {}", file.display(), fault.text))?,
        }
    }
    Ok(())
}

/// What tenants and keys use and the policy lacks.
async fn in_use(ledger: &Client, policy: &Policy, text: &str) -> anyhow::Result<Vec<String>> {
    let PolicyChecked { leaving, tools_leaving, .. } = match ledger.check_policy(text.to_owned()).await {
        Ok(checked) => checked,
        Err(client::Error::Unavailable { ledger, cause, .. }) => {
            output::note(&format!(
                "the ledger at {ledger} does not answer ({cause}), so names that tenants and keys use were not checked"
            ));
            return Ok(Vec::new());
        }
        Err(client::Error::Credential(_)) => {
            output::note(
                "names that tenants and keys use were not checked: this admin key may not see those of all tenants",
            );
            return Ok(Vec::new());
        }
        Err(error) => return Err(error.into()),
    };
    // Tiers also where the policy in force lacks them already.
    let mut tiers: BTreeMap<String, NameLeaving> = BTreeMap::new();
    for tenant in connection::all(async |cursor| ledger.tenants(cursor).await).await? {
        if policy.tier(&tenant.tier).is_none() {
            let tier = tiers.entry(tenant.tier.clone()).or_insert_with(|| NameLeaving {
                kind: NameKind::Tier,
                name: tenant.tier,
                used_by: 0,
                ids: Vec::new(),
            });
            tier.used_by = tier.used_by.saturating_add(1);
            if tier.ids.len() < 10 {
                tier.ids.push(tenant.id.to_string());
            }
        }
    }
    let others = leaving.into_iter().filter(|name| name.kind != NameKind::Tier);
    let users: Vec<NameLeaving> = tiers.into_values().chain(others).collect();
    let mut tools = Vec::new();
    if !tools_leaving.is_empty() {
        let in_force = ledger.policy().await?.document;
        let added = |service: &str, tool: &str| {
            in_force.pointer(&pointer(&["services", service, "tools", tool])).is_none()
        };
        tools.extend(tools_leaving.iter().filter_map(|tool| going(policy, tool, &users, &added)));
    }
    let names = users.iter().map(|name| {
        let table = if name.kind == NameKind::Tier { "tiers" } else { "services" };
        format!("{table}: {name}, and the policy lacks it")
    });
    Ok(names.chain(tools).collect())
}

/// A JSON pointer (RFC 6901): names of HTTP tools have slashes.
fn pointer(path: &[&str]) -> String {
    path.iter().map(|name| format!("/{}", name.replace('~', "~0").replace('/', "~1"))).collect()
}

/// A tool that goes while keys, calls or leases depend on it: which of those that are added it may have become, and what will
/// happen.
fn going(
    policy: &Policy,
    leaving: &ToolLeaving,
    users: &[NameLeaving],
    is_added: &dyn Fn(&str, &str) -> bool,
) -> Option<String> {
    let ToolLeaving { service, tool, pending, open_leases } = leaving;
    let keys = |kind: NameKind, name: &str| {
        users.iter().find(|user| user.kind == kind && user.name == name).map_or(0, |user| user.used_by)
    };
    let (of_tool, of_service) = (keys(NameKind::Tool, tool), keys(NameKind::Service, service));
    let leases = open_leases.unwrap_or(0);
    if of_tool == 0 && of_service == 0 && *pending == 0 && leases == 0 {
        return None;
    }
    let rules = policy.services().iter().find(|own| own.name == *service);
    let (path, gone) = match rules {
        Some(_) => (format!("services.{service}.tools"), format!("`{tool}` goes")),
        None => ("services".to_owned(), format!("`{tool}` goes with its service `{service}`")),
    };
    let tools = rules.into_iter().flat_map(Service::tools);
    let added: Vec<&str> =
        tools.map(|tool| tool.name.as_str()).filter(|name| is_added(service, name)).collect();
    let near = match added.as_slice() {
        [only] => Some(*only),
        several => nearest(tool, several),
    };
    let renamed = near.map_or_else(String::new, |near| format!("; was it renamed to `{near}`, which is new"));
    let unlisted = rules.and_then(|rules| rules.unlisted.as_ref());
    let calls = if unlisted.is_some() {
        "new calls go by the rule `unlisted`"
    } else {
        "new calls are refused with 404"
    };
    let mut then = vec![calls.to_owned()];
    if of_tool > 0 {
        then.push(format!("grants of {of_tool} keys name it, and allow nothing"));
    }
    if of_service > 0 {
        then.push(format!("grants of {of_service} keys name its service, and allow nothing"));
    }
    if *pending > 0 {
        then.push(format!(
            "{pending} of its calls are reserved and in progress, and are settled as they were reserved"
        ));
    }
    if leases > 0 {
        then.push(format!(
            "{leases} leases are open, which name no tool: its calls in progress are paid from them, and the rest is for other tools"
        ));
    }
    let mark = if renamed.is_empty() { "." } else { "?" };
    Some(format!("{path}: {gone}{renamed}{mark} In force: {}", then.join("; ")))
}
