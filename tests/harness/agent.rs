//! Callers: a key, and how to call with it.

use crate::http1::Request;
use crate::mcp;
use crate::response::Response;
use crate::upstream::answer::SESSION;
use protocol::admin::CreateKey;
use protocol::key::{Concurrency, Grant, Limit};
use protocol::{KeyId, TenantId, Timestamp};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

/// A caller with its key.
#[derive(Debug, Clone)]
pub struct Agent {
    /// The gate it calls.
    pub gate: SocketAddr,
    /// The tenant.
    pub tenant: TenantId,
    /// The key's id.
    pub key: KeyId,
    /// The credential.
    pub secret: String,
}

impl Agent {
    /// A request with this agent's credential.
    pub fn with_key(&self, request: Request) -> Request {
        request.key(&self.secret)
    }

    /// The POST that carries an MCP message, with the credential.
    pub fn post(&self, message: &Value) -> Request {
        self.with_key(mcp::post(message))
    }

    /// A GET, with the credential.
    pub fn get(&self, target: &str) -> Request {
        self.with_key(Request::get(target))
    }

    /// Sends an MCP message.
    pub async fn call(&self, message: &Value) -> Response {
        self.send(mcp::post(message)).await
    }

    /// Sends any request with the credential.
    pub async fn send(&self, request: Request) -> Response {
        self.with_key(request).send(self.gate).await
    }

    /// Begins a session to which the upstream gives this id. Returns the id that its clients get.
    pub async fn session(&self, id: impl AsRef<[u8]>) -> String {
        let opened = mcp::post(&mcp::initialize()).header(SESSION, id);
        let response = self.send(opened).await;
        let session = response.header("mcp-session-id");
        session.unwrap_or_else(|| panic!("no session: {response:?}")).to_owned()
    }

    /// [`Agent::call`] for parallel calls, which must own their data.
    pub fn owned_call(&self, message: Value) -> impl Future<Output = Response> + Send + 'static + use<> {
        let agent = self.clone();
        async move { agent.call(&message).await }
    }
}

/// The permissions of a new key.
#[derive(Debug, Clone)]
pub struct NewKey {
    scopes: Vec<String>,
    services: Option<Vec<Grant>>,
    tools: Option<Vec<Grant>>,
    resources: Option<Vec<Grant>>,
    limits: Option<Vec<Limit>>,
    concurrency: Option<Concurrency>,
    expires_at: Option<Timestamp>,
}

impl Default for NewKey {
    fn default() -> NewKey {
        NewKey::with_scopes(&["read", "generate"])
    }
}

impl NewKey {
    /// A key with these scopes.
    pub fn with_scopes(scopes: &[&str]) -> NewKey {
        NewKey {
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            services: None,
            tools: None,
            resources: None,
            limits: None,
            concurrency: None,
            expires_at: None,
        }
    }

    /// Restricts it to services.
    pub fn services(mut self, names: &[&str]) -> NewKey {
        self.services = Some(names.iter().map(|name| grant(name, None)).collect());
        self
    }

    /// Restricts it to tools.
    pub fn tools(mut self, names: &[&str]) -> NewKey {
        self.tools = Some(names.iter().map(|name| grant(name, None)).collect());
        self
    }

    /// Restricts it to a resource, in addition to others.
    pub fn resource(mut self, name: &str, expires_at: Option<Timestamp>) -> NewKey {
        self.resources.get_or_insert_default().push(grant(name, expires_at));
        self
    }

    /// Adds a limit to those of its tier.
    pub fn limit(mut self, permits: u32, window_seconds: u32) -> NewKey {
        self.limits.get_or_insert_default().push(Limit { permits, window_seconds });
        self
    }

    /// Limits the requests and streams that it may have in progress on a worker.
    pub fn concurrency(mut self, requests: u32, streams: u32) -> NewKey {
        self.concurrency = Some(Concurrency { requests, streams });
        self
    }

    /// Sets its expiry.
    pub fn expires_at(mut self, end: Timestamp) -> NewKey {
        self.expires_at = Some(end);
        self
    }

    pub fn body(self, tenant: &TenantId) -> CreateKey {
        CreateKey {
            tenant_id: tenant.clone(),
            name: "test".into(),
            scopes: self.scopes,
            services: self.services,
            tools: self.tools,
            resources: self.resources,
            limits: self.limits,
            concurrency: self.concurrency,
            expires_at: self.expires_at,
            agent_id: None,
            budget: None,
        }
    }
}

fn grant(name: &str, expires_at: Option<Timestamp>) -> Grant {
    Grant { name: name.to_owned(), expires_at }
}

/// The time so many milliseconds from now.
pub fn from_now(millis: u64) -> Timestamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    Timestamp::from_millis(u64::try_from(now).expect("before the year 9999")).plus_millis(millis)
}

/// A well-formed credential that no ledger knows.
pub fn unknown_secret() -> String {
    protocol::api_key::mint(protocol::api_key::Kind::Agent, rand::random)
}
