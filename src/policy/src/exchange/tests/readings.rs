//! Headers, paths and names that some servers read differently.

use super::super::*;
use super::{Decided, Gate, document, record};
use proptest::prelude::*;
use protocol::key::{Grant, KeyRecord};
use serde_json::json;

#[test]
fn reserved_headers_are_recognised_in_every_spelling() {
    for name in [
        "x-agentrelay-tier",
        "X-AgentRelay-Tier",
        "x_agentrelay_tier",
        "x-agentrelay-",
        "x-agentrelay_x",
        "x.agentrelay.tenant.id",
        "x!agentrelay~tier",
        "x-forwarded-uri",
        "x.forwarded.uri",
        "x_original_uri",
        "x-http-path-override",
        "x-method-override",
        "x-http-method",
        "x-original-http-method",
        "x-rewrite-uri",
        "x-original-path",
        "x-replaced-path",
        "x-waws-unencoded-url",
        "x.forwarded.host",
        "x_host",
        "script_name",
        "x.api.key",
        "content_type",
        "mcp.session.id",
        "transfer.encoding",
    ] {
        assert!(is_reserved_header(name.as_bytes()), "{name}");
        assert!(is_reserved_trailer(name.as_bytes()), "{name}");
    }
    for name in [
        "x-agentrelay",
        "x-agent-relay-x",
        "xx-agentrelay-x",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-prefix",
        "access-control-request-method",
        "x-feature-override",
        "x-callback-url",
        "x-url",
        "x-http",
        "x-forwarded-proto",
        "x-request-id",
        ":path",
        "",
    ] {
        assert!(!is_reserved_header(name.as_bytes()), "{name}");
    }
    for name in ["x-api-key", "content-type", "mcp-session-id", "authorization", "transfer-encoding"] {
        assert!(!is_reserved_header(name.as_bytes()), "{name}");
        assert!(is_reserved_trailer(name.as_bytes()), "{name}");
    }
}

proptest! {
    /// A name is reserved if it equals a reserved name when only letters and digits count.
    #[test]
    fn no_separator_hides_a_reserved_name(
        separators in proptest::collection::vec("[-_.!#$%&\'*+^`|~]", 3),
        rest in "[a-z_.-]{1,9}",
    ) {
        let separators: Vec<char> = separators.iter().flat_map(|one| one.chars()).collect();
        let [first, second, ..] = separators.as_slice() else { return Ok(()) };
        let name = format!("x{first}agentrelay{second}{rest}");
        prop_assert!(is_reserved_header(name.as_bytes()), "{}", name);
    }
}

#[test]
fn a_second_credential_under_a_lookalike_name_is_refused() {
    let ping = json!({"jsonrpc": "2.0", "id": 7, "method": "ping"}).to_string();
    for name in ["x_api_key", "x.api.key", "x!api!key", "x-api.key"] {
        let decided = Gate::new().request_with("POST", "/mcp", Some(ping.as_bytes()), &[(name, "other")]);
        assert_eq!(decided.refusal().0, 401, "{name}");
    }
}

#[test]
fn a_body_that_servers_could_decode_differently_is_refused() {
    let ping = json!({"jsonrpc": "2.0", "id": 7, "method": "ping"}).to_string();
    let status = |headers: &[(&str, &str)]| match Gate::new().request_with(
        "POST",
        "/mcp",
        Some(ping.as_bytes()),
        headers,
    ) {
        Decided::Forwarded(..) => 200,
        Decided::Refused(reply) => reply.status,
    };
    for plain in [
        "application/json",
        "Application/JSON",
        "application/json;charset=utf-8",
        "application/json; charset=UTF-8",
        "application/json;   Charset=Utf-8",
    ] {
        assert_eq!(status(&[("content-type", plain)]), 200, "{plain}");
    }
    for other in [
        "",
        " ",
        "text/plain",
        "application/json;",
        "application/json; ",
        "application/json ; charset=utf-8",
        "application/json; charset =utf-8",
        "application/json; charset= utf-8",
        "application/json; charset=utf-8;",
        "application/json; charset=utf-8; charset=utf-7",
        "application/json; charset=\"utf-8\"",
        "application/json; charset=utf8",
        "application/json; charset=utf-7",
        "application/json; charset*=utf-8\'\'utf-7",
        "application/json; boundary=x",
        "application/json, application/json",
        "application/json;\tcharset=utf-8",
        "application/json\u{a0}",
        "application/json; charset=utf-8\u{a0}",
        "application/json\0",
        "application/vnd.api+json",
    ] {
        assert_eq!(status(&[("content-type", other)]), 400, "{other:?}");
    }
    assert_eq!(status(&[("content-type", "application/json"), ("content-type", "application/json")]), 400);
    let json = ("content-type", "application/json");
    for (codings, expected) in [
        (&["identity"][..], 200),
        (&["Identity"], 400),
        (&[""], 400),
        (&["gzip"], 400),
        (&["identity, gzip"], 400),
        (&["identity", "identity"], 400),
    ] {
        let mut headers = vec![json];
        headers.extend(codings.iter().map(|coding| ("content-encoding", *coding)));
        assert_eq!(status(&headers), expected, "{codings:?}");
    }
    for version in ["2025-11-25, 2026-07-28", "2025-11-25\u{a0}", "2025-11-25;x"] {
        assert_eq!(status(&[json, ("mcp-protocol-version", version)]), 400, "{version:?}");
    }
}

/// The usual policy, with a catch-all service and a rule for unlisted tools.
fn document_with_catch_all() -> serde_json::Value {
    let mut document = document();
    let rule = json!({"risk": "read_only"});
    document["services"]["ci"]["unlisted"] = rule.clone();
    document["services"]["ci"]["tools"]["POST /p/{id}/trigger"] = json!({"risk": "destructive"});
    document["services"]["all"] = json!({"kind": "http", "path": "/", "unlisted": rule, "tools": {}});
    document
}

#[test]
fn unlisted_paths_pass_unless_a_server_may_read_them_as_a_route() {
    let status = |document: serde_json::Value, method: &str, path: &str| match Gate::with(document, record())
        .request(method, path, None)
    {
        Decided::Forwarded(..) => 200,
        Decided::Refused(reply) => reply.status,
    };
    for (method, path) in [
        ("POST", "/api/p/1/other"),
        ("POST", "/api/P2/1/trigger"),
        ("POST", "/api/p/1/trigger/x"),
        ("PUT", "/api/p/1/Trigger"),
        ("GET", "/Else/where/"),
        ("GET", "/mcp/x"),
        ("GET", "/apis/p/1"),
    ] {
        assert_eq!(status(document_with_catch_all(), method, path), 200, "{method} {path}");
    }
    for (method, path) in [
        ("POST", "/api/p/1/TRIGGER"),
        ("POST", "/api/p/1/trigger/"),
        ("POST", "/api/p/1/trigger.json"),
        ("post", "/api/p/1/trigger"),
        ("POST", "/API/p/1/trigger"),
        ("GET", "/Api"),
        ("POST", "/MCP"),
        ("POST", "/mcp/"),
        ("POST", "/mcp."),
    ] {
        assert_eq!(status(document_with_catch_all(), method, path), 400, "{method} {path}");
    }
    let mut sensitive = document_with_catch_all();
    for service in ["ci", "studio"] {
        sensitive["services"][service]["case_sensitive"] = json!(true);
    }
    for (path, expected) in
        [("/api/p/1/TRIGGER", 200), ("/API/p/1/trigger", 200), ("/MCP", 200), ("/api/p/1/trigger/", 400)]
    {
        assert_eq!(status(sensitive.clone(), "POST", path), expected, "{path}");
    }
}

#[test]
fn a_host_with_a_final_dot_is_the_same_host() {
    let mut document = document_with_catch_all();
    document["services"]["ci"]["hosts"] = json!(["gate"]);
    let policy = Policy::from_json(document.to_string().as_bytes()).unwrap();
    let name =
        |host: &[u8]| policy.service_for(host, b"/api/p/1").map(|at| policy.services()[at].name.as_str());
    for (host, service) in [(&b"gate"[..], "ci"), (b"GATE.", "ci"), (b"gate.:80", "ci"), (b"other", "all")] {
        assert_eq!(name(host), Some(service));
    }
}

#[test]
fn a_grant_is_for_the_resource_as_it_is_written() {
    let granted = |name: &str| Some(vec![Grant { name: name.to_owned(), expires_at: None }]);
    for (grant, path, status) in [
        ("project:42", "/api/p/42", 200),
        ("project:a b", "/api/p/a%20b", 200),
        ("project:42", "/api/p/42%20", 403),
        ("project:42", "/api/p/42.", 403),
        ("project:42", "/api/p/042", 403),
        ("project:42", "/api/p/42/", 404),
        ("project:a", "/api/p/A", 403),
        ("project:A", "/api/p/a", 403),
        ("project:s", "/api/p/%C5%BF", 403),
    ] {
        let key = KeyRecord { resources: granted(grant), ..record() };
        let decided = Gate::with(document(), key).request("GET", path, None);
        let seen = match decided {
            Decided::Forwarded(..) => 200,
            Decided::Refused(reply) => reply.status,
        };
        assert_eq!(seen, status, "{grant} {path}");
    }
}

#[test]
fn only_names_that_the_gate_relies_on_must_have_the_right_case() {
    let status = |params: &str| {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
        match Gate::new().request("POST", "/mcp", Some(body.as_bytes())) {
            Decided::Forwarded(..) => 200,
            Decided::Refused(reply) => reply.status,
        }
    };
    assert_eq!(status(r#"{"name":"search","arguments":{"N":1,"n":2,"Name":3,"name":4}}"#), 200);
    assert_eq!(status(r#"{"name":"search","arguments":{},"Arguments":{}}"#), 400);
    assert_eq!(status(r#"{"name":"search","Task":{}}"#), 400);
    assert_eq!(status(r#"{"name":"search","_Meta":{}}"#), 400);
    assert_eq!(status(r#"{"name":"search","arguments":{"a":{"__proto__":{}}}}"#), 400);
    assert_eq!(status(r#"{"name":"draw","arguments":{"q":"a","Q":"b"}}"#), 400);
}

#[test]
fn an_argument_that_may_be_read_as_the_premium_value_needs_its_tier() {
    let mut document = document();
    let free = KeyRecord { tier: "free".into(), ..record() };
    let requires = json!([{"argument": "depth", "value": "Deep", "tier": "pro"}]);
    document["services"]["studio"]["tools"]["search"]["requires"] = requires;
    for (depth, status) in [
        (json!("Deep"), 403),
        (json!("deep"), 403),
        (json!("DEEP"), 403),
        (json!(" Deep\n"), 403),
        (json!("Deep\u{200b}"), 403),
        (json!("\u{ff24}eep"), 403),
        (json!(["Deep"]), 403),
        (json!(null), 403),
        (json!("deeper"), 200),
        (json!(""), 200),
    ] {
        let status_of =
            match Gate::with(document.clone(), free.clone()).call("search", json!({"depth": depth})) {
                Decided::Forwarded(..) => 200,
                Decided::Refused(reply) => reply.status,
            };
        assert_eq!(status_of, status, "{depth}");
    }
}
