//! What a live MCP server lists, against what the policy says of its tools.

use crate::mcp::{self, Server, Tool};
use anyhow::{anyhow, bail};
use policy::rules::{Service, ServiceKind};
use policy::{Policy, plain};
use reqwest::Url;
use reqwest::header::HeaderMap;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// `URL`, or `SERVICE=URL`.
#[derive(Debug, Clone)]
pub struct Against {
    service: Option<String>,
    url: Url,
}

impl fmt::Display for Against {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

/// Parses it.
pub fn against(text: &str) -> Result<Against, String> {
    let (service, url) = match text.split_once('=') {
        Some((service, url)) if !service.contains(':') => (Some(service.to_owned()), url),
        _ => (None, text),
    };
    let url = url.parse().map_err(|_| "write the URL of an MCP endpoint, or SERVICE=URL".to_owned())?;
    Ok(Against { service, url })
}

/// One line for each difference, with its path first.
pub async fn differences(
    policy: &Policy,
    against: &Against,
    headers: &HeaderMap,
) -> anyhow::Result<Vec<String>> {
    let (service, tools) = chosen(policy, against)?;
    let server = mcp::ask(&against.url, headers).await?;
    Ok(compared(service, tools, &server))
}

/// The MCP service that is meant: the named one, else the one with the URL's path, else the only one.
fn chosen<'p>(
    policy: &'p Policy,
    against: &Against,
) -> anyhow::Result<(&'p Service, &'p BTreeMap<String, policy::Tool>)> {
    let all: Vec<_> = policy
        .services()
        .iter()
        .filter_map(|service| match &service.kind {
            ServiceKind::Mcp(tools) => Some((service, tools)),
            ServiceKind::Http(_) => None,
        })
        .collect();
    let names: Vec<&str> = all.iter().map(|(service, _)| service.name.as_str()).collect();
    if let Some(name) = &against.service {
        let found = all.into_iter().find(|(service, _)| service.name == *name);
        let near =
            plain::nearest(name, &names).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        return found.ok_or_else(|| anyhow!("the policy has no MCP service `{name}`{near}"));
    }
    let path = against.url.path().trim_end_matches('/');
    let by_path = all.iter().find(|(service, _)| service.path().trim_end_matches('/') == path);
    match (by_path, all.as_slice()) {
        (Some(found), _) | (None, [found]) => Ok(*found),
        (None, []) => bail!("the policy has no MCP service, and only those list their tools"),
        (None, _) => {
            bail!(
                "no service of the policy has the path {path}: say which is meant, as in --against {}={}",
                names.join("|"),
                against.url
            )
        }
    }
}

fn compared(service: &Service, tools: &BTreeMap<String, policy::Tool>, server: &Server) -> Vec<String> {
    let at = format!("services.{}", service.name);
    let mut found = Vec::new();
    for tool in &server.tools {
        let path = format!("{at}.tools.{}", tool.name);
        match tools.get(&tool.name) {
            Some(rule) => of_tool(&path, rule, tool, &mut found),
            None if service.unlisted.is_some() || service.gate_tool(&tool.name).is_some() => {}
            None => found.push(format!(
                "{at}.tools: the server has `{}`, which is missing here and so refused",
                tool.name
            )),
        }
    }
    let listed: Vec<&str> = server.tools.iter().map(|tool| tool.name.as_str()).collect();
    for name in tools.keys().filter(|name| !listed.contains(&name.as_str())) {
        let near = plain::nearest(name, &listed).map(|near| format!("; it has `{near}`")).unwrap_or_default();
        found.push(format!(
            "{at}.tools.{name}: the server has no such tool, it is gone or has another name{near}"
        ));
    }
    let all: Vec<u64> = tools.values().flat_map(prices).collect();
    for stated in stated(&server.instructions).into_iter().filter(|stated| !stated.agrees(&all)) {
        found.push(format!(
            "{at}: the server's instructions say \"{}\", the policy {}",
            stated.text,
            words(&all)
        ));
    }
    found
}

fn of_tool(path: &str, rule: &policy::Tool, tool: &Tool, found: &mut Vec<String>) {
    let prices = prices(rule);
    let texts = [tool.title.as_deref(), tool.description.as_deref()];
    for stated in texts.into_iter().flatten().flat_map(stated).filter(|stated| !stated.agrees(&prices)) {
        found.push(format!(
            "{path}: the server's text says \"{}\", the policy {}",
            stated.text,
            words(&prices)
        ));
    }
    let Some(times) = rule.price.as_ref().and_then(|price| price.times.as_ref()) else { return };
    let Some(arguments) = tool.input_schema.get("properties").and_then(Value::as_object) else { return };
    let Some(argument) = arguments.get(&times.argument) else {
        found.push(format!("{path}.price.times.argument: the tool has no argument `{}`", times.argument));
        return;
    };
    let values =
        argument.get("enum").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    for value in values.filter(|value| !times.values.contains_key(*value)) {
        found
            .push(format!("{path}.price.times.values: `{value}` has no price, so a call with it is refused"));
    }
}

/// All that a call of the tool can cost; 0 if it is free.
fn prices(rule: &policy::Tool) -> Vec<u64> {
    let Some(price) = &rule.price else { return vec![0] };
    let credits = price.credits.get();
    match &price.times {
        None => vec![credits],
        Some(times) => {
            times.values.values().map(|factor| credits.saturating_mul(u64::from(*factor))).collect()
        }
    }
}

fn words(prices: &[u64]) -> String {
    let mut prices = prices.to_vec();
    prices.sort_unstable();
    prices.dedup();
    match prices.as_slice() {
        [] | [0] => "that it is free".to_owned(),
        all => format!("{} credits", all.iter().map(u64::to_string).collect::<Vec<_>>().join("/")),
    }
}

/// A price as a text states it: "5 credits", "5/15/25 credits", "1-20 credits".
#[derive(Debug, PartialEq, Eq)]
struct Stated {
    text: String,
    numbers: Vec<u64>,
    is_range: bool,
}

impl Stated {
    fn agrees(&self, prices: &[u64]) -> bool {
        if self.is_range {
            let (first, last) = (self.numbers.iter().min(), self.numbers.iter().max());
            return (first, last) == (prices.iter().min(), prices.iter().max());
        }
        self.numbers.iter().all(|number| prices.contains(number))
    }
}

fn stated(text: &str) -> Vec<Stated> {
    let folded = text.to_lowercase();
    let mut found = Vec::new();
    for (before, _) in folded.match_indices("credit").filter_map(|(place, _)| folded.split_at_checked(place))
    {
        let begin = before
            .trim_end_matches(|letter: char| letter.is_ascii_digit() || " -–/,to".contains(letter))
            .len();
        let Some(phrase) =
            before.get(begin..).map(|phrase| phrase.trim_matches(|letter: char| " -–/,to".contains(letter)))
        else {
            continue;
        };
        let numbers: Vec<u64> = phrase
            .split(|letter: char| !letter.is_ascii_digit())
            .filter_map(|number| number.parse().ok())
            .collect();
        if !numbers.is_empty() {
            let is_range = numbers.len() == 2 && ["-", "–", "to"].iter().any(|mark| phrase.contains(mark));
            found.push(Stated { text: format!("{phrase} credits"), numbers, is_range });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_in_texts_are_found_and_compared() {
        for (text, numbers, is_range) in [
            ("Draws an image. Costs 5 credits.", vec![5], false),
            ("5/15/25/40 Credits by quality", vec![5, 15, 25, 40], false),
            ("1-20 credits for each call", vec![1, 20], true),
            ("from 1 to 20 credits", vec![1, 20], true),
            ("1 credit", vec![1], false),
        ] {
            let found = stated(text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert_eq!((&found[0].numbers, found[0].is_range), (&numbers, is_range), "{text}");
        }
        assert_eq!(stated("Buy more credits; credit cards, all 7 of them."), []);
        let agrees = |text: &str, prices: &[u64]| stated(text)[0].agrees(prices);
        assert!(agrees("5/15/25/40 credits", &[5, 15, 25, 40]) && !agrees("1-20 credits", &[5, 15, 25, 40]));
        assert!(agrees("5-40 credits", &[5, 15, 25, 40]) && !agrees("5 credits", &[0]));
    }
}
