//! Calls of HTTP services whose price or tier depends on an argument.

use super::*;

fn gate() -> Gate {
    let mut document = document();
    document["services"]["ci"]["tools"]["POST /p/{id}"] = json!({
        "risk": "external_mutation",
        "price": {"credits": 2, "times": {"argument": "size", "values": {"small": 1, "large": 5}, "default": "small"}},
        "requires": [{"argument": "target", "value": "prod", "tier": "ultra"}],
    });
    document["tiers"]["ultra"] = json!({"rank": 9});
    Gate::with(document, record())
}

/// The credits reserved for a call, or the refusal.
fn price(target: &str, body: Option<&str>) -> Result<u64, (u16, String)> {
    let mut gate = gate();
    match gate.request("POST", target, body.map(str::as_bytes)) {
        Decided::Forwarded(..) => Ok(gate.reserved[0].credits.get()),
        refused @ Decided::Refused(_) => {
            let (status, body) = refused.refusal();
            Err((status, body.to_string()))
        }
    }
}

#[test]
fn an_argument_in_query_or_body_decides_the_price() {
    for (target, body, credits) in [
        ("/api/p/1", None, 2),
        ("/api/p/1", Some("{}"), 2),
        ("/api/p/1?size=large", None, 10),
        ("/api/p/1?other=1&size=l%61rge", Some(r#"{"note": "x"}"#), 10),
        ("/api/p/1", Some(r#"{"size": "large"}"#), 10),
        ("/api/p/1?target=staging", Some(r#"{"size": "small"}"#), 2),
    ] {
        assert_eq!(price(target, body), Ok(credits), "{target} {body:?}");
    }
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    for (target, body, status) in [
        ("/api/p/1?size=small&size=large", None, 400),
        ("/api/p/1?size=small", Some(r#"{"size": "large"}"#), 400),
        ("/api/p/1?Size=large", None, 400),
        ("/api/p/1?size[]=large", None, 400),
        ("/api/p/1", Some("size=large"), 400),
        ("/api/p/1?size=huge", None, 400),
        ("/api/p/1?target=prod", None, 403),
        ("/api/p/1?target=PROD", None, 403),
        ("/api/p/1", Some(r#"{"target": "prod"}"#), 403),
        ("/api/p/1", Some(r#"{"target": ["prod"]}"#), 403),
    ] {
        let refused = price(target, body).unwrap_err();
        assert_eq!(refused.0, status, "{target} {body:?}: {refused:?}");
    }
}

#[test]
fn a_body_of_another_kind_is_refused_only_where_arguments_decide() {
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let (status, body) = gate().request_with("POST", "/api/p/1", Some(b"size=large"), &form).refusal();
    assert_eq!(status, 400, "{body}");
    Gate::new().request_with("POST", "/api/p/1", Some(b"size=large"), &form).forwarded();
}

#[test]
fn what_is_not_listed_may_have_a_price_and_limits() {
    let mut document = document();
    document["services"]["ci"]["unlisted"] = json!({
        "risk": "read_only", "price": {"credits": 3}, "limits": [{"permits": 1, "window": "60s", "per": "tenant"}],
    });
    let mut gate = Gate::with(document, record());
    gate.request("DELETE", "/api/other", None).forwarded();
    assert_eq!(gate.reserved[0].credits.get(), 3);
    let (status, body) = gate.request("GET", "/api/another", None).refusal();
    assert_eq!(status, 429, "{body}");
    assert!(
        body.to_string().contains("this tenant's limit for calls of this tool, 1 in 60 s by tool "),
        "{body}"
    );
}

#[test]
fn a_method_in_the_query_is_refused_at_every_service() {
    let mut gate = Gate::with(document(), KeyRecord { tier: "pro".into(), ..record() });
    let ping = br#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#;
    for (method, path, body) in [("GET", "/api/p/1", None), ("POST", "/mcp", Some(ping.as_slice()))] {
        gate.request(method, &format!("{path}?method=DELETE"), body).forwarded();
        let (status, _) = gate.request(method, &format!("{path}?a=1&_method=DELETE"), body).refusal();
        assert_eq!(status, 400, "{method} {path}");
    }
}
