//! `policy init`: a first policy for an MCP server that nobody prepared, from the tools that it lists.

use super::valid;
use crate::mcp::{self, Hints, Server, Tool};
use crate::output;
use anyhow::{Context, anyhow, bail};
use clap::Args;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

/// Most characters of a description that stand in the policy.
const DESCRIPTION_CHARS_MAX: usize = 100;

#[derive(Args)]
pub(super) struct Arguments {
    /// The MCP server's endpoint, such as http://127.0.0.1:9000/mcp
    #[arg(long, value_name = "URL")]
    from: Url,
    /// A header that the server needs, such as 'authorization: Bearer ...'; repeatable
    #[arg(long = "header", value_name = "HEADER", value_parser = mcp::header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The service's name in the policy [default: the server's own name]
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Write the policy to this file, which must not exist yet
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

/// What is proposed for a tool, and why.
struct Proposal {
    risk: &'static str,
    why: &'static str,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { from, headers, service, to } = arguments;
    if let Some(file) = to.as_ref().filter(|file| file.exists()) {
        bail!("{} exists already; choose another file, or move it away", file.display());
    }
    let server = mcp::ask(&from, &HeaderMap::from_iter(headers)).await?;
    let name = service.unwrap_or_else(|| named(&server.name));
    let text = policy(&server, &from, &name);
    valid(&text).map_err(|invalid| {
        anyhow!("no policy can be proposed for what {from} lists:\n{invalid}\n--service NAME gives the service another name")
    })?;
    match &to {
        None => output::line(text.trim_end())?,
        Some(file) => {
            fs::write(file, &text).with_context(|| format!("{} can't be written", file.display()))?;
            output::line(&format!("{}: {} tools of {}", file.display(), server.tools.len(), name))?;
        }
    }
    let scopes: BTreeSet<&str> = server.tools.iter().map(|tool| scope(proposed(tool).risk)).collect();
    let file = to.map_or_else(|| "policy.yaml".to_owned(), |file| file.display().to_string());
    output::note(&format!(
        "The risks are what the server says of its tools: judge them, and set prices. Then\n  \
         agentrelay up --policy {file} --upstream {} --state ./state --port 10000\nand give keys the scopes that they need \
         (--scope {}).",
        from.origin().ascii_serialization(),
        scopes.into_iter().collect::<Vec<_>>().join(",")
    ));
    Ok(())
}

fn proposed(tool: &Tool) -> Proposal {
    let hints = tool.annotations.clone().unwrap_or_default();
    let Hints { read_only_hint, destructive_hint, open_world_hint } = hints;
    let (risk, why) = match (read_only_hint, destructive_hint, open_world_hint) {
        (Some(true), _, _) => ("read_only", "readOnlyHint: true"),
        (_, Some(true), _) => ("destructive", "destructiveHint: true"),
        (_, Some(false), Some(false)) => ("local_mutation", "destructiveHint: false, openWorldHint: false"),
        (_, Some(false), _) => ("external_mutation", "destructiveHint: false"),
        // What MCP says of a tool that changes something and says no more.
        (Some(false), None, _) => ("destructive", "readOnlyHint: false, and no more"),
        (None, None, Some(false)) => ("local_mutation", "openWorldHint: false, and no more"),
        (None, None, _) => ("external_mutation", "it says nothing of its risk: judge"),
    };
    Proposal { risk, why }
}

const fn scope(risk: &str) -> &'static str {
    match risk.as_bytes() {
        b"read_only" => "read",
        b"destructive" => "admin",
        _ => "generate",
    }
}

/// The server's name as one of a service.
fn named(server: &str) -> String {
    let plain = server.chars().map(|letter| match letter {
        'A'..='Z' | 'a'..='z' | '0'..='9' | '_' | '-' => letter.to_ascii_lowercase(),
        _ => '-',
    });
    let name: String = plain.take(64).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "mine".to_owned() } else { name.to_owned() }
}

fn policy(server: &Server, from: &Url, name: &str) -> String {
    let path = match from.path().trim_end_matches('/') {
        "" => "/",
        path => path,
    };
    let mut text = format!(
        "# Proposed by `agentrelay policy init` from what {} {} lists at {from}.
# Every tool is listed, free, with a risk that follows from its annotations. Judge each, then compare with the server:
#
#   agentrelay policy check policy.yaml --against {from}

# Plans. `rank` orders them; a tenant has one, and all its keys share its limits.
tiers:
  free:
    rank: 0
    limits: [{{permits: 20, window: 60s, per: tenant}}]
  pro:
    rank: 1
    limits: [{{permits: 300, window: 60s, per: tenant}}]

# The scope that a key needs for each risk.
risks:
  read_only: {{scope: read}}
  local_mutation: {{scope: generate}}
  external_mutation: {{scope: generate}}
  destructive: {{scope: admin}}

services:
  {name}:
    kind: mcp
    path: {path}
    # What is not listed is refused and not shown in tools/list.
    unlisted: deny
    # `price: {{credits: 2}}` below a tool charges each call; without a price it is free. `limits: [{{permits: 5, window: 60s}}]` bounds
    # how often a key may call it, `requires: [{{tier: pro}}]` which tenants may.
    tools:{}
",
        shown(&server.name),
        shown(&server.version),
        if server.tools.is_empty() { " {}" } else { "" },
    );
    for tool in &server.tools {
        let Proposal { risk, why } = proposed(tool);
        let about = tool.description.as_deref().or(tool.title.as_deref()).unwrap_or_default();
        if let Some(about) = about.lines().map(str::trim).find(|line| !line.is_empty()) {
            let _ = writeln!(text, "      # {}", shown(about));
        }
        let name = serde_yaml_ng::to_string(&tool.name).unwrap_or_default();
        let _ = writeln!(text, "      {}:\n        risk: {risk}    # {why}", name.trim_end());
    }
    text
}

/// On one line, without what is not seen, and not too long.
fn shown(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut letters = line.chars();
    let mut short: String = letters.by_ref().take(DESCRIPTION_CHARS_MAX).collect();
    if letters.next().is_some() {
        short.push_str("...");
    }
    protocol::text::shown(&short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_list_of_tools_becomes_a_policy_with_all_of_them() {
        let tool = |name: &str, hints: Option<Hints>| Tool {
            name: name.into(),
            description: Some("First: line \u{202e}\nsecond".into()),
            annotations: hints,
            ..Tool::default()
        };
        let read_only = Some(Hints { read_only_hint: Some(true), ..Hints::default() });
        let server = Server {
            name: "My Tools!".into(),
            version: "1".into(),
            instructions: String::new(),
            tools: vec![
                tool("add", read_only),
                tool("a: b".trim_end_matches(" b"), None),
                tool("#true", None),
                tool("7", None),
            ],
        };
        let text = policy(&server, &"http://127.0.0.1:1/mcp/".parse().unwrap(), &named(&server.name));
        let (policy, _) = valid(&text).unwrap_or_else(|invalid| panic!("{invalid}\n{text}"));
        let service = &policy.services()[0];
        assert_eq!((service.name.as_str(), service.path()), ("my-tools", "/mcp"));
        for name in ["add", "a:", "#true", "7"] {
            assert!(text.contains(name), "{text}");
        }
        assert!(text.contains("risk: read_only    # readOnlyHint: true"), "{text}");
        let policy::rules::ServiceKind::Mcp(tools) = &service.kind else { panic!("it is MCP") };
        assert_eq!(tools.len(), 4);
    }
}
