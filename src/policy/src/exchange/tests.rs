//! Complete exchanges: the order of steps and refusals.

#![allow(clippy::arithmetic_side_effects, clippy::string_slice)]

mod admission;
mod answers;
mod batches;
mod gate_tools;
mod http_arguments;
mod ids;
mod leases;
mod readings;
mod refusals;
mod sessions;

use super::*;
use crate::window::Fleet;
use crate::window::slot;
use protocol::KeyId;
use protocol::api_key::{self, Kind};
use protocol::filter::Action;
use protocol::key::{Grant, KeyRecord, KeySource, KeyState};
use protocol::session::SessionSecret;
use serde_json::{Value, json};

/// Runs one exchange, with real windows and a ledger that answers what the test wants.
struct Gate {
    policy: Arc<Policy>,
    key: Option<Arc<Key>>,
    ledger: ReserveAnswered,
    slot: Vec<u8>,
    now_ms: u64,
    reserved: Vec<ReserveRequest>,
    /// The lease that pays for leased calls, and what it paid.
    lease: Option<LeaseId>,
    spent: Vec<Spending>,
    /// The permits of global limits that the ledger grants.
    share: Option<u32>,
    fleet: Fleet,
    not_found: KeyNotFound,
    /// What the ledger says about the permits beyond this Envoy's share.
    elsewhere: u32,
    shares_asked: u32,
    issues: IssueAnswered,
    asked: Vec<IssueRequest>,
    admission_requests: Vec<AdmissionRequest>,
    admission: AdmissionAnswered,
    /// Why the last request was refused.
    reason: Option<Box<Reason>>,
}

enum Decided {
    Forwarded(Box<Exchange>, Option<Vec<u8>>),
    Refused(Reply),
}

impl Decided {
    fn refusal(self) -> (u16, Value) {
        match self {
            Decided::Refused(reply) => (reply.status, serde_json::from_slice(&reply.body).unwrap()),
            Decided::Forwarded(exchange, _) => panic!("forwarded: {exchange:?}"),
        }
    }

    fn forwarded(self) -> (Exchange, Option<Vec<u8>>) {
        match self {
            Decided::Forwarded(exchange, body) => (*exchange, body),
            Decided::Refused(reply) => panic!("refused: {}", String::from_utf8_lossy(&reply.body)),
        }
    }

    fn header(&self, name: &str) -> Option<String> {
        match self {
            Decided::Refused(reply) => {
                reply.headers.iter().find(|(own, _)| *own == name).map(|(_, value)| value.to_owned())
            }
            Decided::Forwarded(..) => None,
        }
    }
}

fn record() -> KeyRecord {
    KeyRecord { scopes: vec!["read".into(), "generate".into()], ..crate::key::record("key_1", "ten_1") }
}

fn document() -> Value {
    json!({
        "tiers": {"free": {"rank": 0, "limits": [{"permits": 3, "window": "60s"}]},
                  "pro": {"rank": 2, "limits": [{"permits": 100, "window": "60s"}]}},
        "risks": {"read_only": {"scope": "read"}, "local_mutation": {"scope": "generate"},
                  "external_mutation": {"scope": "generate"}, "destructive": {"scope": "admin"}},
        "services": {
            "studio": {"kind": "mcp", "path": "/mcp", "tools": {
                "draw": {"risk": "local_mutation", "price": {"credits": 5, "times":
                    {"argument": "q", "values": {"a": 1, "b": 8}, "default": "a"}},
                    "requires": [{"argument": "q", "value": "b", "tier": "pro"}]},
                "search": {"risk": "read_only", "limits": [{"permits": 1, "window": "10s"}]},
                "wipe": {"risk": "destructive"},
            }},
            "ci": {"kind": "http", "path": "/api", "tools": {
                "GET /p/{id}": {"risk": "read_only", "resource": "project:{id}"},
                "POST /p/{id}": {"risk": "external_mutation", "price": {"credits": 2}},
            }},
        },
    })
}

impl Gate {
    fn new() -> Gate {
        Gate::with(document(), record())
    }

    fn with(document: Value, record: KeyRecord) -> Gate {
        let mut policy = Policy::from_json(document.to_string().as_bytes()).unwrap();
        policy.session_secrets = vec![SessionSecret::new([7; 32], Timestamp::from_millis(0))];
        Gate {
            policy: Arc::new(policy),
            key: Some(Arc::new(Key::new(record))),
            ledger: ReserveAnswered::Reserved,
            slot: Vec::new(),
            now_ms: 1_000_000,
            reserved: Vec::new(),
            lease: None,
            spent: Vec::new(),
            share: None,
            shares_asked: 0,
            fleet: Fleet::default(),
            not_found: KeyNotFound::Unknown,
            elsewhere: 0,
            issues: IssueAnswered::Unavailable,
            asked: Vec::new(),
            admission_requests: Vec::new(),
            admission: AdmissionAnswered::Admitted,
            reason: None,
        }
    }

    /// The id that the gate's tenant gets for a session of its MCP service.
    fn session(&self, id: &str) -> String {
        let (now, tenant) = (Timestamp::from_millis(self.now_ms), "ten_1");
        crate::session::sign(&self.policy.session_secrets, now, tenant, "studio", id.as_bytes()).unwrap()
    }

    fn now(&self) -> Now {
        Now { wall: Timestamp::from_millis(self.now_ms), monotonic: Monotonic(self.now_ms) }
    }

    fn request(&mut self, method: &str, path: &str, body: Option<&[u8]>) -> Decided {
        self.request_with(method, path, body, &[])
    }

    fn request_with(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
        more: &[(&str, &str)],
    ) -> Decided {
        let bearer = format!("Bearer {}", secret());
        let mut headers: Vec<(&[u8], &[u8])> = vec![
            (b":method", method.as_bytes()),
            (b":path", path.as_bytes()),
            (b":authority", b"gate"),
            (b"authorization", bearer.as_bytes()),
        ];
        if !more.iter().any(|(name, _)| *name == "content-type") {
            headers.push((b"content-type", b"application/json"));
        }
        headers.extend(more.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        let id = EventId::parse("0192f0c0-0000-7000-8000-000000000001").unwrap();
        let (mut exchange, mut step) =
            Exchange::begin(self.policy.clone(), id, &headers, body.is_none(), self.now());
        loop {
            step = match step {
                Step::Admit(admission_requests) => {
                    self.admission_requests.push(admission_requests);
                    exchange.admission_answered(self.admission)
                }
                Step::FindKey(hash) => {
                    assert_eq!(hash, KeyHash::of(secret().as_bytes()));
                    match &self.key {
                        Some(key) => exchange.key_found(key.clone(), self.now()),
                        None => exchange.key_not_found(self.not_found, &self.fleet, self.now()),
                    }
                }
                Step::ReadBody { .. } => exchange.body(body.unwrap(), self.now()),
                Step::AskWindows { asks, is_unavailable } => {
                    let fingerprint = exchange.key().unwrap().fingerprint;
                    let (now, fleet) = (Monotonic(self.now_ms), Fleet { is_unavailable, ..self.fleet });
                    let (next, verdicts) = slot::take(&self.slot, fingerprint, &asks, &fleet, now).unwrap();
                    self.slot = next;
                    exchange.windows_asked(&verdicts)
                }
                Step::AskShares { rules } => {
                    self.shares_asked += 1;
                    exchange.shares_answered(self.answer_shares(&rules))
                }
                Step::Spend(spending) => {
                    self.spent.push(spending);
                    exchange.spent(self.lease)
                }
                Step::Reserve(request) => {
                    self.reserved.push(request);
                    exchange.reserve_answered(self.ledger)
                }
                Step::Issue(request) => {
                    self.asked.push(request);
                    exchange.issue_answered(self.issues.clone())
                }
                Step::Forward { body } => return Decided::Forwarded(Box::new(exchange), body),
                Step::Refuse(reply) => {
                    self.reason = exchange.reason.take();
                    return Decided::Refused(reply);
                }
            }
        }
    }

    fn call(&mut self, tool: &str, arguments: Value) -> Decided {
        let body = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call",
                          "params": {"name": tool, "arguments": arguments}});
        self.request("POST", "/mcp", Some(body.to_string().as_bytes()))
    }

    fn method(&mut self, method: &str) -> Decided {
        let body = json!({"jsonrpc": "2.0", "id": "m", "method": method, "params": {}});
        self.request("POST", "/mcp", Some(body.to_string().as_bytes()))
    }
}

fn secret() -> String {
    let mut next = 1u8;
    api_key::mint(Kind::Agent, || {
        next = next.wrapping_add(5);
        next
    })
}

#[test]
fn a_priced_call_is_reserved_at_the_arguments_price_and_tells_upstream_who_called() {
    let mut gate = Gate::new();
    let (exchange, _) = gate.call("draw", json!({"q": "b"})).forwarded();
    assert_eq!(gate.reserved[0].credits.get(), 40);
    assert_eq!(gate.reserved[0].tool, "draw");
    let set = |name: &str| {
        exchange.headers_to_set().find(|(own, _)| *own == name).map(|(_, value)| value.into_owned())
    };
    assert_eq!(set("x-agentrelay-key-id").as_deref(), Some("key_1"));
    assert_eq!(set("x-agentrelay-tenant-id").as_deref(), Some("ten_1"));
    assert_eq!(set("x-agentrelay-tier").as_deref(), Some("pro"));
    assert_eq!(set("x-agentrelay-scopes").as_deref(), Some("read generate"));
    assert_eq!(set("x-agentrelay-tool").as_deref(), Some("draw"));
    assert_eq!(set("x-agentrelay-request-id"), Some(exchange.id().to_string()));
    assert_eq!(set("x-agentrelay-agent-id"), None);
    assert!(exchange.headers_to_remove().any(|name| name == "authorization"));
}

#[test]
fn a_free_tool_calls_no_ledger() {
    let mut gate = Gate::new();
    gate.call("search", json!({})).forwarded();
    assert_eq!(gate.reserved, []);
}

#[test]
fn refusals_come_in_their_fixed_order() {
    // Each case breaks one more thing than the case after it, so the first refusal that applies must win.
    let mut gate = Gate::new();
    let bad_body = b"{".as_slice();
    gate.key = None;
    assert_eq!(gate.request("POST", "/mcp", Some(bad_body)).refusal().0, 401);

    let full = |mut record: KeyRecord| {
        record.tier = "free".into();
        let mut gate = Gate::with(document(), record);
        for _ in 0..3 {
            gate.method("prompts/list").forwarded();
        }
        gate
    };
    assert_eq!(full(record()).request("POST", "/mcp", Some(bad_body)).refusal().0, 429);
    assert_eq!(full(record()).call("nothing", json!({})).refusal().0, 429);
    assert_eq!(full(record()).call("wipe", json!({})).refusal().0, 429);

    let mut gate = Gate::new();
    assert_eq!(gate.request("POST", "/mcp", Some(bad_body)).refusal().1["error"]["code"], -32700);
    assert_eq!(gate.call("nothing", json!({})).refusal().1["error"]["code"], 40401);

    let mut free = record();
    free.tier = "free".into();
    free.scopes = vec![];
    let mut gate = Gate::with(document(), free.clone());
    assert_eq!(gate.call("draw", json!({"q": "b"})).refusal().1["error"]["code"], 40301);
    free.scopes = vec!["generate".into(), "read".into()];
    let mut gate = Gate::with(document(), free);
    gate.ledger = ReserveAnswered::QuotaExceeded(None);
    assert_eq!(gate.call("draw", json!({"q": "b"})).refusal().1["error"]["code"], 40302);
    assert_eq!(gate.call("draw", json!({"q": "a"})).refusal().1["error"]["code"], 40201);
    gate.ledger = ReserveAnswered::Unavailable;
    assert_eq!(gate.call("draw", json!({"q": "a"})).refusal().1["error"]["code"], 50301);
}

#[test]
fn a_full_window_reports_the_correct_retry_time() {
    let mut gate = Gate::new();
    gate.call("search", json!({})).forwarded();
    let refused = gate.call("search", json!({}));
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert_eq!(refused.refusal().1["error"]["data"]["retryAfterSeconds"], seconds);
    gate.now_ms += seconds * 1000;
    gate.call("search", json!({})).forwarded();
}

#[test]
fn the_wait_of_a_full_key_includes_the_tools_own_window() {
    let mut document = document();
    document["tiers"]["pro"]["limits"] = json!([{"permits": 1, "window": "2s"}]);
    let mut gate = Gate::with(document, record());
    gate.call("search", json!({})).forwarded();
    let refused = gate.call("search", json!({}));
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!(seconds >= 10, "{seconds}");
    gate.now_ms += seconds * 1000;
    gate.call("search", json!({})).forwarded();
}

#[test]
fn an_inactive_key_is_refused() {
    for (state, expires_at, status) in [
        (KeyState::Active, Some(1_000_001), None),
        (KeyState::Active, Some(1_000_000), Some(401)),
        (KeyState::Revoked, None, Some(401)),
        (KeyState::Suspended, None, Some(401)),
        (KeyState::Expired, None, Some(401)),
    ] {
        let mut own = record();
        own.state = state;
        own.expires_at = expires_at.map(Timestamp::from_millis);
        let decided = Gate::with(document(), own).method("prompts/list");
        match status {
            None => drop(decided.forwarded()),
            Some(status) => {
                assert_eq!(
                    decided.header("www-authenticate").as_deref(),
                    Some("Bearer error=\"invalid_token\"")
                );
                assert_eq!(decided.refusal().0, status);
            }
        }
    }
}

#[test]
fn grants_restrict_a_key_to_names_until_they_expire() {
    let grant = |name: &str, ends: Option<u64>| {
        Some(vec![Grant { name: name.into(), expires_at: ends.map(Timestamp::from_millis) }])
    };
    let status = |own: KeyRecord| match Gate::with(document(), own).request("GET", "/api/p/42", None) {
        Decided::Forwarded(..) => 200,
        refused => refused.refusal().0,
    };
    assert_eq!(status(record()), 200);
    assert_eq!(status(KeyRecord { resources: grant("project:42", None), ..record() }), 200);
    assert_eq!(status(KeyRecord { resources: grant("project:42", Some(1_000_001)), ..record() }), 200);
    assert_eq!(status(KeyRecord { resources: grant("project:42", Some(1_000_000)), ..record() }), 403);
    assert_eq!(status(KeyRecord { resources: grant("project:4", None), ..record() }), 403);
    assert_eq!(status(KeyRecord { resources: Some(vec![]), ..record() }), 403);
    assert_eq!(status(KeyRecord { services: grant("studio", None), ..record() }), 403);
    assert_eq!(status(KeyRecord { tools: grant("GET /p/{id}", None), ..record() }), 200);
    assert_eq!(status(KeyRecord { tools: grant("POST /p/{id}", None), ..record() }), 403);
    assert_eq!(status(KeyRecord { tier: "gone".into(), ..record() }), 403);
}

#[test]
fn a_scope_refusal_names_all_that_is_needed() {
    let mut gate = Gate::new();
    let refused = gate.call("wipe", json!({}));
    assert_eq!(
        refused.header("www-authenticate").as_deref(),
        Some("Bearer error=\"insufficient_scope\", scope=\"admin\"")
    );
    assert_eq!(refused.refusal().1["id"], 7);
}

#[test]
fn requests_that_match_no_rule_are_refused() {
    let mut gate = Gate::new();
    for (method, path, status) in [
        ("GET", "/", 404),
        ("GET", "/api", 404),
        ("GET", "/api/p/1/", 404),
        ("DELETE", "/api/p/1", 404),
        ("GET", "/api/../api/p/1", 400),
        ("GET", "/api/p/%2e%2e", 400),
        ("GET", "//api/p/1", 400),
        ("PUT", "/mcp", 405),
        ("CONNECT", "/mcp", 400),
    ] {
        assert_eq!(gate.request(method, path, None).refusal().0, status, "{method} {path}");
    }
    let upgrade = gate.request_with("GET", "/api/p/1", None, &[("upgrade", "websocket")]);
    assert_eq!(upgrade.refusal().0, 400);
}

#[test]
fn unlisted_tools_pass_only_by_an_explicit_rule() {
    let mut document = document();
    document["services"]["studio"]["unlisted"] = json!({"risk": "read_only", "price": {"credits": 3}});
    let mut gate = Gate::with(document, record());
    let (exchange, _) = gate.call("anything", json!({})).forwarded();
    assert_eq!(exchange.subject(), Some("unlisted"));
    assert_eq!(gate.reserved[0].credits.get(), 3);
}

#[test]
fn a_shadow_rule_is_recorded_and_not_enforced() {
    let mut document = document();
    document["risks"]["destructive"]["shadow"] = json!(true);
    document["tiers"]["pro"]["limits"] = json!([{"permits": 1, "window": "60s", "shadow": true}]);
    let mut gate = Gate::with(document, record());
    let (exchange, _) = gate.call("wipe", json!({})).forwarded();
    let decision = exchange.finish(End::Complete, "e", gate.now()).decision;
    assert_eq!((decision.would_deny, decision.reason), (Some(Outcome::InsufficientScope), None));
    let reason = decision.would_deny_reason.map(|reason| *reason);
    assert!(matches!(reason, Some(Reason::Scope { .. })), "{reason:?}");
    let (exchange, _) = gate.method("prompts/list").forwarded();
    let decision = exchange.finish(End::Complete, "e", gate.now()).decision;
    assert_eq!((decision.would_deny, decision.reason), (Some(Outcome::RateLimited), None));
    let reason = decision.would_deny_reason.map(|reason| *reason);
    let is_limit = matches!(&reason, Some(Reason::Limit { of, permits: 1, .. }) if of == "tier");
    assert!(is_limit, "{reason:?}");
}

#[test]
fn only_tools_with_on_ledger_outage_allow_pass_during_an_outage() {
    let mut document = document();
    document["services"]["studio"]["tools"]["draw"]["price"]["on_ledger_outage"] = json!("allow");
    let mut gate = Gate::with(document, record());
    gate.ledger = ReserveAnswered::Unavailable;
    let (exchange, _) = gate.call("draw", json!({})).forwarded();
    assert_eq!(exchange.finish(End::Complete, "e", gate.now()).settlement, None);
    gate.ledger = ReserveAnswered::KeyInactive;
    assert_eq!(gate.call("draw", json!({})).refusal().0, 401);
}

#[test]
fn a_service_may_ask_for_refusals_that_the_model_can_read() {
    let mut document = document();
    document["services"]["studio"]["refusals"] = json!("mcp-tool");
    let mut gate = Gate::with(document, record());
    gate.ledger = ReserveAnswered::QuotaExceeded(None);
    let (status, answer) = gate.call("draw", json!({})).refusal();
    assert_eq!((status, &answer["result"]["isError"]), (200, &json!(true)));
    assert_eq!(answer["result"]["_meta"]["agentrelay/refusal"]["reason"], "quota_exceeded");
    assert_eq!(gate.request("POST", "/mcp", Some(b"{")).refusal().0, 400);
    gate.key = None;
    assert_eq!(gate.call("draw", json!({})).refusal().0, 401);
}

#[test]
fn a_value_without_a_price_is_refused_before_the_tools_window_counts_it() {
    let mut gate = Gate::new();
    for quality in [json!("c"), json!(""), json!(1), json!(null), json!(["a"])] {
        let (status, answer) = gate.call("draw", json!({"q": quality})).refusal();
        assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32602)), "{quality}");
    }
    assert_eq!(gate.reserved, []);
}

#[test]
fn arguments_that_decide_the_price_must_have_the_right_case() {
    let mut gate = Gate::new();
    for name in ["Q", "\u{51}"] {
        let (status, answer) = gate.call("draw", json!({name: "b"})).refusal();
        assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32602)), "{name}");
    }
    gate.call("draw", json!({"q": "a", "Other": "b"})).forwarded();
    // Arguments that decide nothing may be written as the tool likes.
    gate.call("search", json!({"Q": "b"})).forwarded();
}

#[test]
fn within_a_session_a_404_becomes_a_400() {
    let mut gate = Gate::new();
    let own = gate.session("s");
    let unknown = br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"nothing"}}"#;
    let method = br#"{"jsonrpc":"2.0","id":7,"method":"no/such"}"#;
    for (body, code) in [(unknown.as_slice(), 40401), (method, -32601)] {
        for (session, expected) in [(&[][..], 404), (&[("mcp-session-id", own.as_str())], 400)] {
            let (status, answer) = gate.request_with("POST", "/mcp", Some(body), session).refusal();
            assert_eq!(
                (status, &answer["error"]["code"], &answer["id"]),
                (expected, &json!(code), &json!(7))
            );
        }
    }
}

#[test]
fn only_a_post_has_a_body() {
    let mut gate = Gate::new();
    for method in ["GET", "DELETE"] {
        gate.request(method, "/mcp", Some(b"")).forwarded();
        let bearer = format!("Bearer {}", secret());
        let headers: [(&[u8], &[u8]); 3] =
            [(b":method", method.as_bytes()), (b":path", b"/mcp"), (b"authorization", bearer.as_bytes())];
        let id = EventId::parse("0192f0c0-0000-7000-8000-000000000001").unwrap();
        let (mut exchange, _) = Exchange::begin(gate.policy.clone(), id, &headers, false, gate.now());
        let step = exchange.key_found(gate.key.clone().unwrap(), gate.now());
        assert!(matches!(step, Step::ReadBody { bytes_max: 0 }), "{step:?}");
        let Step::Refuse(reply) = exchange.body_too_large(0) else { panic!("not refused") };
        assert_eq!(reply.status, 400);
    }
}

#[test]
fn a_notification_stream_subscribes_only_to_readable_resources() {
    let mut document = document();
    document["services"]["studio"]["resources"] =
        json!({"ok:*": {"risk": "read_only"}, "admin:*": {"risk": "destructive"}});
    let mut gate = Gate::with(document, record());
    let mut listen = |uris: Value| {
        let body = json!({"jsonrpc": "2.0", "id": 7, "method": "subscriptions/listen",
                          "params": {"notifications": {"toolsListChanged": true, "resourceSubscriptions": uris}}});
        gate.request("POST", "/mcp", Some(body.to_string().as_bytes()))
    };
    listen(json!(["ok:1", "ok:2"])).forwarded();
    listen(json!(null)).forwarded();
    assert_eq!(listen(json!(["ok:1", "admin:1"])).refusal().0, 403);
    assert_eq!(listen(json!(["ok:1", "other:1"])).refusal().0, 404);
    assert_eq!(listen(json!("ok:1")).refusal().0, 400);
}
