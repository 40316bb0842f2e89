//! Filters on the SDK that decide nothing. One does nothing at all, which is the minimum cost of any wasm filter. The
//! other, with the configuration `headers`, sets what AgentRelay sets on a free GET and shows in the access log, which
//! is the minimum cost of AgentRelay.

use proxy_wasm::hostcalls::{set_map_value, set_property};
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel, MapType};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Warn);
    proxy_wasm::set_root_context(|_| Box::new(Root { sets_headers: false }));
}}

/// As long as the real ones.
const REQUEST: [(&str, &str); 6] = [
    ("x-agentrelay-tool", "GET /projects/{project}/builds"),
    ("x-agentrelay-request-id", "0199f1d2-b3c4-7d5e-8f6a-000000000001"),
    ("x-agentrelay-key-id", "key_0199f1d2b3c47d5e8f6a000000000001"),
    ("x-agentrelay-tenant-id", "ten_0199f1d2b3c47d5e8f6a000000000001"),
    ("x-agentrelay-tier", "enterprise"),
    ("x-agentrelay-scopes", "read generate"),
];
const RESPONSE: [(&str, &str); 5] = [
    ("ratelimit-policy", "\"key-60s\";q=1000000;w=60, \"tool-60s\";q=1000000;w=60"),
    ("ratelimit", "\"key-60s\";r=999999;t=60, \"tool-60s\";r=999999;t=60"),
    ("x-ratelimit-limit", "1000000"),
    ("x-ratelimit-remaining", "999999"),
    ("x-ratelimit-reset", "60"),
];
const PROPERTIES: [(&str, &str); 3] = [
    ("agentrelay_outcome", "allowed"),
    ("agentrelay_key_id", "key_0199f1d2b3c47d5e8f6a000000000001"),
    ("agentrelay_tool", "GET /projects/{project}/builds"),
];

struct Root {
    sets_headers: bool,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        self.sets_headers = self.get_plugin_configuration().as_deref() == Some(b"headers");
        true
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(if self.sets_headers { Box::new(Headers) } else { Box::new(NoopFilter) })
    }
}

struct NoopFilter;

impl Context for NoopFilter {}

impl HttpContext for NoopFilter {}

struct Headers;

impl Context for Headers {}

// No host refuses these calls. If one did, only the cost of that call would be missing.
impl HttpContext for Headers {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let _ = set_map_value(MapType::HttpRequestHeaders, "authorization", None);
        for (name, value) in REQUEST {
            let _ = set_map_value(MapType::HttpRequestHeaders, name, Some(value));
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        for (name, value) in RESPONSE {
            let _ = set_map_value(MapType::HttpResponseHeaders, name, Some(value));
        }
        Action::Continue
    }

    fn on_log(&mut self) {
        for (name, value) in PROPERTIES {
            let _ = set_property(vec![name], Some(value.as_bytes()));
        }
    }
}
