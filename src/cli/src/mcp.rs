//! A client that asks an MCP server over HTTP who it is and which tools it has, in either era of the protocol, and
//! calls one.

mod answer;

use anyhow::{Context, anyhow, bail};
use reqwest::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// The longest wait for all of one answer.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Most pages of a list.
const PAGES_MAX: usize = 200;
/// The protocol with `initialize`, and the one without.
const LEGACY: &str = "2025-11-25";
const MODERN: &str = "2026-07-28";
const VERSION: &str = "mcp-protocol-version";
const SESSION: &str = "mcp-session-id";

/// What a server says of itself.
#[derive(Debug)]
pub struct Server {
    /// Its name, or nothing.
    pub name: String,
    /// Its version, or nothing.
    pub version: String,
    /// What it tells models about all of its tools.
    pub instructions: String,
    /// Its tools, in its order.
    pub tools: Vec<Tool>,
}

/// One tool.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// Its name for people.
    #[serde(default)]
    pub title: Option<String>,
    /// What it does.
    #[serde(default)]
    pub description: Option<String>,
    /// What it says about its risk.
    #[serde(default)]
    pub annotations: Option<Hints>,
    /// The JSON Schema of its arguments.
    #[serde(default)]
    pub input_schema: Value,
}

/// The annotations of a tool. They are what the server claims.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hints {
    /// It changes nothing.
    pub read_only_hint: Option<bool>,
    /// It may undo or overwrite.
    pub destructive_hint: Option<bool>,
    /// It acts on others than the server.
    pub open_world_hint: Option<bool>,
}

/// Asks the server at this URL, with these headers in each request.
pub async fn ask(url: &Url, headers: &HeaderMap) -> anyhow::Result<Server> {
    let mut session = Session::new(url, headers)?;
    let about = session.open().await.with_context(|| format!("{url} was asked for its tools"))?;
    let tools = session.tools().await.with_context(|| format!("{url} was asked for its tools"));
    session.close().await;
    let text = |path: &str| about.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(Server {
        name: text("/serverInfo/name"),
        version: text("/serverInfo/version"),
        instructions: text("/instructions"),
        tools: tools?,
    })
}

/// The result of one call of a tool, in a session of its own.
pub async fn call(url: &Url, headers: &HeaderMap, tool: &str, arguments: Value) -> anyhow::Result<Value> {
    let mut session = Session::new(url, headers)?;
    session.open().await?;
    let params = json!({"name": tool, "arguments": arguments});
    if session.modern {
        session.headers.insert("mcp-name", HeaderValue::from_str(tool)?);
    }
    let result = session.request("tools/call", params).await;
    session.close().await;
    Ok(result?.1)
}

/// A header as it is written on a command line: `NAME: VALUE`.
pub fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let read = || {
        let (name, value) = text.split_once(':')?;
        let mut value = HeaderValue::from_str(value.trim()).ok()?;
        value.set_sensitive(true);
        Some((name.trim().parse::<HeaderName>().ok()?, value))
    };
    read().ok_or_else(|| "a header is NAME: VALUE, such as 'authorization: Bearer ...'".to_owned())
}

struct Session {
    http: reqwest::Client,
    url: Url,
    headers: HeaderMap,
    modern: bool,
    id: u64,
}

impl Session {
    fn new(url: &Url, headers: &HeaderMap) -> anyhow::Result<Session> {
        let http =
            client::http().no_proxy().timeout(TIMEOUT).build().context("no HTTP client can be made")?;
        Ok(Session { http, url: url.clone(), headers: headers.clone(), modern: false, id: 0 })
    }

    /// What the server says of itself. A server that knows no `initialize` is asked in the modern era.
    async fn open(&mut self) -> anyhow::Result<Value> {
        let info = json!({"name": "agentrelay", "version": env!("CARGO_PKG_VERSION")});
        let initialize = json!({"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": info});
        let refused = match self.request("initialize", initialize).await {
            Ok((headers, about)) => {
                let version = about.get("protocolVersion").and_then(Value::as_str).unwrap_or(LEGACY);
                self.headers.insert(VERSION, HeaderValue::from_str(version)?);
                if let Some(session) = headers.get(SESSION) {
                    self.headers.insert(SESSION, session.clone());
                }
                let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
                self.send(&initialized).await?;
                return Ok(about);
            }
            Err(refused) => refused,
        };
        self.modern = true;
        self.headers.insert(VERSION, HeaderValue::from_static(MODERN));
        // The first refusal says more about a server of neither era.
        self.request("server/discover", json!({})).await.map(|(_, about)| about).map_err(|_| refused)
    }

    async fn tools(&mut self) -> anyhow::Result<Vec<Tool>> {
        let mut tools = Vec::new();
        let mut cursor = Value::Null;
        for _ in 0..PAGES_MAX {
            let params = if cursor.is_null() { json!({}) } else { json!({"cursor": cursor}) };
            let (_, page) = self.request("tools/list", params).await?;
            let listed = page.get("tools").cloned().unwrap_or_default();
            let listed: Vec<Tool> =
                serde_json::from_value(listed).map_err(|_| anyhow!("its list of tools is not one of MCP"))?;
            tools.extend(listed);
            cursor = page.get("nextCursor").cloned().unwrap_or_default();
            if cursor.is_null() {
                return Ok(tools);
            }
        }
        bail!("its list of tools does not end")
    }

    /// Ends a session, which the server may refuse.
    async fn close(&self) {
        if self.headers.contains_key(SESSION) {
            let request = self.http.delete(self.url.clone()).headers(self.headers.clone());
            let _ = request.send().await;
        }
    }

    /// The result of a request, and the headers of its answer.
    async fn request(&mut self, method: &str, mut params: Value) -> anyhow::Result<(HeaderMap, Value)> {
        self.id = self.id.saturating_add(1);
        if self.modern
            && let Some(params) = params.as_object_mut()
        {
            let meta = json!({
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo": {"name": "agentrelay", "version": env!("CARGO_PKG_VERSION")},
            });
            params.insert("_meta".to_owned(), meta);
            self.headers.insert("mcp-method", HeaderValue::from_str(method)?);
        }
        let message = json!({"jsonrpc": "2.0", "id": self.id, "method": method, "params": params});
        let answer = self.send(&message).await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let message = answer::of(answer, self.id).await.map_err(|fault| unlike_mcp(status, &fault))?;
        if let Some(error) = message.get("error") {
            let text = error.get("message").and_then(Value::as_str).unwrap_or("an error without words");
            bail!("it answered {method} with {}: {text}", status.as_u16());
        }
        let result = message.get("result").cloned();
        Ok((headers, result.ok_or_else(|| unlike_mcp(status, "neither result nor error"))?))
    }

    async fn send(&self, message: &Value) -> anyhow::Result<Response> {
        let request = self.http.post(self.url.clone()).headers(self.headers.clone());
        let request = request.header(ACCEPT, "application/json, text/event-stream").json(message);
        request.send().await.map_err(|error| anyhow!(client::in_words(&error, &self.url)))
    }
}

fn unlike_mcp(status: StatusCode, fault: &str) -> anyhow::Error {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            anyhow!("it answered {status}: give its credential, as in --header 'authorization: Bearer ...'")
        }
        StatusCode::NOT_FOUND => {
            anyhow!("it answered {status}: is this the path of its MCP endpoint, often /mcp?")
        }
        _ => anyhow!("it does not answer as an MCP server does: {status}, {fault}"),
    }
}
