//! The MCP clients that agents really use, behind one interface: connect, take steps, report what the user sees.

use crate::clock::in_time;
use crate::{files, mcp, node, python};
use rmcp::model::{CallToolRequestParams, ClientConfig, ProtocolVersion};
use rmcp::service::{ClientLifecycleMode, ClientServiceExt};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use serde_json::{Value, json};
use std::process::Stdio;
use tokio::process::Command;

/// A client program or library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sdk {
    /// PyPI `mcp` 2.x.
    Python2,
    /// PyPI `mcp` 1.x.
    Python1,
    /// npm `@modelcontextprotocol/client` 2.x.
    TypeScript2,
    /// npm `@modelcontextprotocol/sdk` 1.x.
    TypeScript1,
    /// The crate `rmcp`.
    Rust,
    /// The Inspector's command line. It connects again for each step, and lists before it calls.
    Inspector,
}

/// How a client connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    /// By `initialize`.
    Legacy,
    /// By `server/discover`.
    Modern,
}

impl Sdk {
    /// All of them.
    pub const ALL: [Sdk; 6] =
        [Sdk::Python2, Sdk::Python1, Sdk::TypeScript2, Sdk::TypeScript1, Sdk::Rust, Sdk::Inspector];

    /// The eras that it supports.
    pub fn eras(self) -> &'static [Era] {
        match self {
            Sdk::Python1 | Sdk::TypeScript1 => &[Era::Legacy],
            _ => &[Era::Legacy, Era::Modern],
        }
    }

    /// Connects and takes steps: `["list"]` or `["call", NAME, ARGUMENTS]`. Each result is the server's, or `{"error":
    /// ...}` with what the user is shown.
    pub async fn steps(self, url: &str, secret: &str, era: Era, steps: &[Value]) -> Vec<Value> {
        let mut answers = self.attempt(url, secret, era, steps).await;
        if self == Sdk::Inspector {
            return answers;
        }
        assert_eq!(answers.len(), steps.len() + 1, "{self:?} {era:?}: {answers:?}");
        let connected = answers.remove(0);
        let is_modern = connected["protocolVersion"] == mcp::MODERN;
        assert_eq!(is_modern, era == Era::Modern, "{self:?} {era:?}: {connected}");
        answers
    }

    /// Like [`Sdk::steps`], but it may fail to connect. All but the Inspector first report the result of connecting.
    pub async fn attempt(self, url: &str, secret: &str, era: Era, steps: &[Value]) -> Vec<Value> {
        let mode = match era {
            Era::Legacy => "legacy",
            Era::Modern => mcp::MODERN,
        };
        let texts: Vec<String> = steps.iter().map(Value::to_string).collect();
        let arguments: Vec<&str> = [url, mode].into_iter().chain(texts.iter().map(String::as_str)).collect();
        match self {
            Sdk::Python2 => python::client(url, secret, mode, steps).await,
            Sdk::Python1 => python1(secret, &arguments).await,
            Sdk::TypeScript2 => {
                reported_lines(&node::client("typescript_v2", secret, &arguments).await.stdout)
            }
            Sdk::TypeScript1 => {
                reported_lines(&node::client("typescript_v1", secret, &arguments).await.stdout)
            }
            Sdk::Rust => rust(url, secret, era, steps).await,
            Sdk::Inspector => inspector(url, secret, era, steps).await,
        }
    }
}

fn reported_lines(output: &[u8]) -> Vec<Value> {
    serde_json::from_slice(output)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(output)))
}

async fn python1(secret: &str, arguments: &[&str]) -> Vec<Value> {
    let running = Command::new(files::environment().with_file_name("venv-1.x").join("bin/python"))
        .arg(files::root().join("tests/clients/mcp1_client.py"))
        .args(arguments)
        .env("AGENTRELAY_API_KEY", secret)
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .output();
    let output = in_time("the MCP client", running).await.expect("in time").expect("python can be run");
    reported_lines(&output.stdout)
}

async fn rust(url: &str, secret: &str, era: Era, steps: &[Value]) -> Vec<Value> {
    let config = StreamableHttpClientTransportConfig::with_uri(url).auth_header(secret);
    let lifecycle = match era {
        Era::Legacy => ClientLifecycleMode::Initialize,
        Era::Modern => {
            ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] }
        }
    };
    let transport = StreamableHttpClientTransport::from_config(config);
    let client = match ClientConfig::default().serve_with_lifecycle(transport, lifecycle).await {
        Ok(client) => client,
        Err(error) => return vec![json!({"error": {"type": format!("{error:?}")}})],
    };
    let version = client.peer_info().map(|info| info.protocol_version.to_string());
    let mut answers = vec![json!({"protocolVersion": version})];
    for step in steps {
        let answer = match step[0].as_str() {
            Some("list") => {
                client.list_tools(None).await.map(|list| serde_json::to_value(list).expect("a list is JSON"))
            }
            _ => {
                let mut call =
                    CallToolRequestParams::new(step[1].as_str().expect("a tool has a name").to_owned());
                call.arguments = step[2].as_object().cloned();
                client.call_tool(call).await.map(|result| serde_json::to_value(result).expect("it is JSON"))
            }
        };
        answers.push(answer.unwrap_or_else(
            |error| json!({"error": {"type": format!("{error:?}"), "message": error.to_string()}}),
        ));
    }
    let _ = client.cancel().await;
    answers
}

async fn inspector(url: &str, secret: &str, era: Era, steps: &[Value]) -> Vec<Value> {
    let header = format!("Authorization: Bearer {secret}");
    let mode = match era {
        Era::Legacy => "legacy",
        Era::Modern => "modern",
    };
    let mut answers = Vec::with_capacity(steps.len());
    for step in steps {
        let mut arguments = vec!["--cli", url, "--transport", "http", "--protocol-era", mode];
        arguments.extend(["--header", &header]);
        let pairs: Vec<String> = step[2]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| format!("{name}={}", value.as_str().expect("arguments are strings")))
            .collect();
        match step[0].as_str() {
            Some("list") => arguments.extend(["--method", "tools/list"]),
            _ => {
                arguments.extend(["--method", "tools/call", "--tool-name"]);
                arguments.push(step[1].as_str().expect("a tool has a name"));
                arguments.push("--tool-arg");
                arguments.extend(pairs.iter().map(String::as_str));
            }
        }
        let program = "@modelcontextprotocol/inspector/clients/launcher/build/index.js";
        let output = node::package(program, &arguments).await;
        let shown = String::from_utf8_lossy(&output.stderr).into_owned();
        answers.push(
            serde_json::from_slice(&output.stdout)
                .unwrap_or_else(|_| json!({"error": {"message": shown, "status": output.status.code()}})),
        );
    }
    answers
}
