//! Rust servers: axum with serde alone at `/mcp`, and the MCP SDK at `/sdk`.

use crate::clock;
use axum::body::Bytes;
use axum::extract::{Path, Query};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use rmcp::handler::server::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ReadResourceRequestParams, ReadResourceResponse,
    ReadResourceResult, ServerCapabilities, ServerConfig,
};
use rmcp::service::{RequestContext, RoleServer};
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

/// The calls that were executed, in order.
#[derive(Clone, Default)]
struct Executed(Arc<Mutex<Vec<String>>>);

impl Executed {
    fn run(&self, what: &str) {
        self.0.lock().expect("no test panics in here").push(what.trim().to_owned());
    }

    fn call(&self, name: &str, depth: Option<&Value>) {
        self.run(&format!("{name} {}", depth.and_then(Value::as_str).unwrap_or_default()));
    }

    fn read(&self, uri: &str) {
        self.run(&format!("read {}", uri.strip_prefix("docs://").unwrap_or(uri)));
    }
}

impl ServerHandler for Executed {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().enable_resources().build())
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, rmcp::ErrorData> {
        self.call(&request.name, request.arguments.as_ref().and_then(|given| given.get("depth")));
        Ok(CallToolResult::success(Vec::new()).into())
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, rmcp::ErrorData> {
        self.read(&request.uri);
        Ok(ReadResourceResult::new(Vec::new()).into())
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Message {
    id: Value,
    method: String,
    params: Params,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Params {
    name: String,
    uri: String,
    arguments: Value,
    #[serde(rename = "ref")]
    reference: Value,
    notifications: Value,
}

async fn answer(ran: Executed, Json(message): Json<Message>) -> Json<Value> {
    let Message { id, method, params } = message;
    match method.as_str() {
        "tools/call" => ran.call(&params.name, params.arguments.get("depth")),
        "resources/read" => ran.read(&params.uri),
        "completion/complete" => ran.read(params.reference["uri"].as_str().unwrap_or_default()),
        "subscriptions/listen" => {
            let wanted = params.notifications["resourceSubscriptions"].as_array();
            wanted.into_iter().flatten().filter_map(Value::as_str).for_each(|uri| ran.read(uri));
        }
        _ => {}
    }
    Json(json!({"jsonrpc": "2.0", "id": id, "result": {}}))
}

/// What servers read of arguments: of the query as pairs, of the body as JSON.
async fn draw(Query(pairs): Query<Vec<(String, String)>>, body: Bytes) -> Json<Value> {
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let read = |name: &str| -> Vec<String> {
        let given = pairs.iter().filter(|(own, _)| own == name).map(|(_, value)| value.clone());
        let sent = body.get(name).filter(|value| !value.is_null());
        let sent = sent.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        given.chain(sent).collect()
    };
    let numbers: Vec<f64> = read("pages").iter().filter_map(|text| text.parse().ok()).collect();
    let flags: Vec<bool> = read("deep").iter().map(|text| text == "true").collect();
    Json(json!({"texts": read("size"), "numbers": numbers, "flags": flags}))
}

/// Starts them on a free port. They listen as long as the test process lives.
pub(crate) async fn start() -> SocketAddr {
    let ran = Executed::default();
    let (sdk, mcp, trigger, told) = (ran.clone(), ran.clone(), ran.clone(), ran);
    let config =
        StreamableHttpServerConfig::default().with_legacy_session_mode(false).with_json_response(true);
    let sdk =
        StreamableHttpService::new(move || Ok(sdk.clone()), Arc::new(NeverSessionManager::default()), config);
    let app = Router::new()
        .route_service("/sdk", sdk)
        .route("/mcp", post(move |message| answer(mcp, message)))
        .route(
            "/api/projects/{project}/trigger",
            post(async move |Path(project): Path<String>| {
                trigger.run(&format!("trigger {project}"));
                "{}"
            }),
        )
        .route("/draw/{what}", any(draw))
        .route("/ran", get(async move || Json(told.0.lock().expect("no test panics in here").clone())));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    clock::spawn(async move { axum::serve(listener, app).await.expect("it serves") });
    address
}
