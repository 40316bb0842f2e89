//! `agentrelay call`: one call of an MCP tool as an agent makes it, to see what the gate does with it.

use crate::mcp;
use crate::output;
use anyhow::{Context, bail};
use clap::Args;
use protocol::api_key::{self, Kind};
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde_json::{Value, json};

/// Call a tool through the gate, as an agent does
#[derive(Args)]
#[command(after_help = "Examples:
  export AGENTRELAY_KEY=ark_...
  agentrelay call search '{\"query\": \"lighthouses\"}'
  agentrelay call add '{\"a\": 1, \"b\": 2}' --gate https://gate.example.com/mcp")]
pub struct Arguments {
    /// The tool's name
    tool: String,
    /// Its arguments, as a JSON object
    #[arg(default_value = "{}", value_parser = object)]
    arguments: Value,
    /// The gate's URL, with the path of the service
    #[arg(long, value_name = "URL", env = "AGENTRELAY_GATE", default_value = "http://127.0.0.1:10000/mcp")]
    gate: Url,
    /// The agent's key, which only the environment holds: `ps` would show it
    #[arg(long, value_name = "KEY", env = "AGENTRELAY_KEY", hide_env_values = true, hide = true)]
    key: Option<String>,
}

fn object(text: &str) -> Result<Value, String> {
    let read: Option<Value> = serde_json::from_str(text).ok();
    read.filter(Value::is_object)
        .ok_or_else(|| "write the arguments as JSON, such as '{\"a\": 1}'".to_owned())
}

impl Arguments {
    pub async fn run(self) -> anyhow::Result<()> {
        let Some(key) = self.key else {
            bail!(
                "no key was given: set AGENTRELAY_KEY to the secret that `agentrelay keys create` showed, ark_..."
            );
        };
        if !api_key::is_well_formed(Kind::Agent, key.trim().as_bytes()) {
            bail!(
                "AGENTRELAY_KEY is malformed: it must start with ark_, and a character may be missing or changed"
            );
        }
        let mut credential = HeaderValue::from_str(&format!("Bearer {}", key.trim()))?;
        credential.set_sensitive(true);
        let headers = HeaderMap::from_iter([(AUTHORIZATION, credential)]);
        let result = mcp::call(&self.gate, &headers, &self.tool, self.arguments).await;
        let result = result.with_context(|| format!("{} was not called", self.tool))?;
        output::json(&result)?;
        if result.get("isError") == Some(&json!(true)) {
            bail!("the tool failed, or the call was refused: the result says why");
        }
        Ok(())
    }
}
