//! Invalid documents, and the paths of their faults.

use super::*;
use crate::document::OnUnknown;

/// A valid document, to break one thing at a time.
fn valid_document() -> serde_json::Value {
    serde_json::json!({
        "tiers": {"free": {"rank": 0, "limits": [{"permits": 20, "window": "60s"}]}, "pro": {"rank": 2}},
        "risks": {"read_only": {"scope": "read"}, "local_mutation": {"scope": "generate"},
                  "external_mutation": {"scope": "generate"}, "destructive": {"scope": "admin"}},
        "services": {
            "studio": {"kind": "mcp", "path": "/mcp", "tools": {
                "draw": {"risk": "local_mutation", "price": {"credits": 5, "times":
                    {"argument": "q", "values": {"a": 1, "b": 8}, "default": "a"}},
                    "requires": [{"argument": "q", "value": "b", "tier": "pro"}]},
            }},
            "ci": {"kind": "http", "path": "/api", "hosts": ["ci.example"], "tools": {
                "GET /projects/{project}": {"risk": "read_only", "resource": "project:{project}"},
            }},
        },
    })
}

fn faults(pointer: &str, value: serde_json::Value) -> Vec<String> {
    let mut document = valid_document();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    match document.pointer_mut(parent).unwrap() {
        serde_json::Value::Array(items) => items[name.parse::<usize>().unwrap()] = value,
        object => {
            object.as_object_mut().unwrap().insert(name.replace("~1", "/"), value);
        }
    }
    match Policy::from_json(document.to_string().as_bytes()) {
        Ok(_) => vec![],
        Err(invalid) => invalid.faults().to_vec(),
    }
}

#[test]
fn a_valid_document_is_accepted_and_versioned_by_its_content() {
    let text = valid_document().to_string();
    let policy = Policy::from_json(text.as_bytes()).unwrap();
    assert_eq!(policy.version().as_str().len(), 64);
    assert_eq!(Policy::from_json(text.as_bytes()).unwrap().version(), policy.version());
    let respaced = text.replace("\"rank\":0", "\"rank\": 0");
    assert_ne!(Policy::from_json(respaced.as_bytes()).unwrap().version(), policy.version());
}

#[test]
fn every_fault_names_its_path() {
    use serde_json::json;
    for (pointer, value, path) in [
        (
            "/tiers/pro/limits",
            json!([{"permits": 1, "windw": "1s"}]),
            "tiers.pro.limits[0].windw: there is no field `windw`; did you mean `window`?",
        ),
        (
            "/tiers/pro/limits",
            json!([{"permits": 1, "window": "1 s"}]),
            "tiers.pro.limits[0].window: it must be a time",
        ),
        (
            "/tiers/pro/limits",
            json!([{"permits": 1, "window": 60}]),
            "tiers.pro.limits[0].window: it must be a time",
        ),
        ("/tiers/pro/limits", json!([{"permits": 0, "window": "1s"}]), "tiers.pro.limits[0]: permits"),
        ("/tiers/pro/limits", json!([{"permits": 1, "window": "2d"}]), "tiers.pro.limits[0]: permits"),
        (
            "/tiers/pro/limits",
            json!([{"permits": 1, "window": "1m"}, {"permits": 2, "window": "60s"}]),
            "tiers.pro.limits[1]: has the same window",
        ),
        ("/tiers/a b", json!({"rank": 1}), "tiers.a b: a name"),
        ("/risks/read_only", json!({}), "risks.read_only: the field `scope` is missing"),
        ("/services/studio/kind", json!("grpc"), "services.studio.kind: there is no"),
        ("/services/studio/path", json!("/mcp//"), "services.studio.path: begin with"),
        (
            "/services/studio/tools/a\u{a0}b",
            json!({"risk": "read_only"}),
            "services.studio.tools.a\u{a0}b: an MCP tool's name",
        ),
        ("/services/studio/path", json!("/a/../mcp"), "services.studio.path: begin with"),
        ("/services/studio/body_bytes_max", json!(9), "services.studio.body_bytes_max: from"),
        ("/services/studio/upgrades", json!(true), "services.studio.upgrades: an MCP"),
        ("/services/studio/unlisted", json!("allow"), "services.studio.unlisted: it must be"),
        ("/services/studio/unlisted", json!({"risk": "none"}), "services.studio.unlisted.risk: there is no"),
        (
            "/services/studio/tools/draw/price/credits",
            json!(0),
            "services.studio.tools.draw.price.credits: at least 1",
        ),
        (
            "/services/studio/tools/draw/price/overrun_credits_max",
            json!(3),
            "services.studio.tools.draw.price.overrun_credits_max: only a cost that the upstream reports",
        ),
        (
            "/services/studio/tools/draw/price",
            json!({"credits": 5, "upstream_cost": true, "overrun_credits_max": 1, "reserve": "leased"}),
            "services.studio.tools.draw.price.overrun_credits_max: a call on leased credits",
        ),
        (
            "/services/studio/tools/draw/price",
            json!({"credits": 5, "upstream_cost": true, "overrun_credits_max": 9_007_199_254_740_990u64}),
            "services.studio.tools.draw.price.overrun_credits_max: the cost grows",
        ),
        (
            "/services/ci/tools/GET ~1projects~1{project}/on_unknown",
            json!("refund"),
            "services.ci.tools.GET /projects/{project}.on_unknown: only a call with a price",
        ),
        (
            "/services/studio/unlisted",
            json!({"risk": "read_only", "on_unknown": "charge"}),
            "services.studio.unlisted.on_unknown: only a call with a price",
        ),
        (
            "/services/studio/gate_tools",
            json!({"list_services": {"risk": "read_only", "on_unknown": "refund"}}),
            "services.studio.gate_tools.list_services.on_unknown: only a call with a price",
        ),
        (
            "/services/studio/tools/draw/on_unknown",
            json!("never"),
            "services.studio.tools.draw.on_unknown: there is no",
        ),
        (
            "/services/studio/tools/draw/price/credits",
            json!(1.5),
            "services.studio.tools.draw.price.credits: it must be a whole number",
        ),
        (
            "/services/studio/tools/draw/price/credits",
            json!(9_007_199_254_740_991u64),
            "services.studio.tools.draw.price.times.values: the price grows",
        ),
        (
            "/services/studio/tools/draw/price/times/default",
            json!("c"),
            "services.studio.tools.draw.price.times.default",
        ),
        (
            "/services/studio/tools/draw/price/times/values/a",
            json!(0),
            "services.studio.tools.draw.price.times.values",
        ),
        (
            "/services/studio/tools/draw/requires/0",
            json!({"tier": "gold"}),
            "services.studio.tools.draw.requires[0].tier",
        ),
        (
            "/services/studio/tools/draw/requires/0",
            json!({"argument": "q", "tier": "pro"}),
            "services.studio.tools.draw.requires[0]: give",
        ),
        (
            "/services/studio/tools/draw/scopes",
            json!([]),
            "services.studio.tools.draw.scopes: name at least one",
        ),
        (
            "/services/studio/tools/a b",
            json!({"risk": "read_only"}),
            "services.studio.tools.a b: an MCP tool's name",
        ),
        (
            "/services/ci/tools/LIST ~1a",
            json!({"risk": "read_only"}),
            "services.ci.tools.LIST /a: the method",
        ),
        (
            "/services/ci/tools/GET ~1projects~1{id}",
            json!({"risk": "read_only"}),
            "services.ci.tools.GET /projects/{project}: matches the same paths",
        ),
        (
            "/services/ci/tools/GET ~1a",
            json!({"risk": "read_only", "price": {"credits": 1, "upstream_cost": true}}),
            "services.ci.tools.GET /a.price.upstream_cost: only MCP results",
        ),
        (
            "/tiers/pro/limits",
            json!([{"permits": 1, "window": "60s", "on_ledger_outage": "deny"}]),
            "tiers.pro.limits[0].on_ledger_outage: only a limit with `global: true`",
        ),
        (
            "/tiers/pro/limits",
            json!([{"permits": 1, "window": "60s", "per": "tenant"}, {"permits": 2, "window": "60s", "per": "tenant"}]),
            "tiers.pro.limits[1]: has the same window and `per`",
        ),
        ("/settings", json!({"reservation_ttl": "2h"}), "settings.reservation_ttl: from"),
        (
            "/settings",
            json!({"unknown_keys_on_ledger_outage": {"tier": "gold", "scopes": ["read"]}}),
            "settings.unknown_keys_on_ledger_outage.tier: is none of `tiers`",
        ),
    ] {
        let found = faults(pointer, value);
        assert!(found.iter().any(|fault| fault.starts_with(path)), "{pointer}: {found:?}");
    }
}

#[test]
fn limits_of_one_window_may_differ_in_whose_requests_they_count() {
    let mut document = valid_document();
    document["tiers"]["pro"]["limits"] = serde_json::json!([
        {"permits": 1, "window": "60s"},
        {"permits": 5, "window": "60s", "per": "agent"},
        {"permits": 9, "window": "60s", "per": "tenant", "global": true, "on_ledger_outage": "allow"},
    ]);
    let policy = Policy::from_json(document.to_string().as_bytes()).unwrap();
    let limits = &policy.tier("pro").unwrap().limits;
    let names: Vec<&str> = limits.iter().map(LimitRule::name).collect();
    assert_eq!(names, ["key", "agent", "tenant"]);
    assert!(limits[0].id != limits[1].id && limits[1].id != limits[2].id);
}

#[test]
fn several_faults_are_reported_at_once() {
    let mut document = valid_document();
    document["tiers"]["pro"]["limits"] = serde_json::json!([{"permits": 0, "window": "1s"}]);
    document["services"]["studio"]["path"] = "mcp".into();
    let invalid = Policy::from_json(document.to_string().as_bytes()).unwrap_err();
    assert_eq!(invalid.faults().len(), 2, "{invalid}");
}

#[test]
fn a_path_belongs_to_the_most_specific_service() {
    let mut document = valid_document();
    document["services"]["root"] = serde_json::json!({"kind": "http", "path": "/", "tools": {}});
    let policy = Policy::from_json(document.to_string().as_bytes()).unwrap();
    let service = |host: &str, path: &str| {
        policy
            .service_for(host.as_bytes(), path.as_bytes())
            .map(|index| policy.services()[index].name.as_str())
    };
    assert_eq!(service("any", "/mcp"), Some("studio"));
    assert_eq!(service("any", "/mcp/x"), Some("root"));
    assert_eq!(service("CI.example:443", "/api/projects/1"), Some("ci"));
    assert_eq!(service("ci.example", "/apix"), Some("root"));
    assert_eq!(service("other", "/api/projects/1"), Some("root"));
}

#[cfg(feature = "yaml")]
#[test]
fn the_shipped_policy_is_valid() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../envoy/policy.yaml");
    let json = crate::yaml::to_json(&std::fs::read_to_string(path).unwrap()).unwrap();
    let policy = Policy::from_json(json.as_bytes()).unwrap();
    let permits = |tier: &str| policy.tier(tier).unwrap().limits[0].limit.permits;
    assert_eq!(["free", "hobby", "pro", "enterprise"].map(permits), [20, 60, 300, 1000]);
}

#[test]
fn on_unknown_decides_who_pays_for_an_unknown_result() {
    use serde_json::json;
    let mut document = valid_document();
    document["services"]["studio"]["unlisted"] =
        json!({"risk": "read_only", "price": {"credits": 1}, "on_unknown": "refund"});
    document["services"]["studio"]["tools"]["draw"]["on_unknown"] = json!("charge");
    let policy = Policy::from_json(document.to_string().as_bytes()).unwrap();
    let studio = policy.services().iter().find(|service| service.name == "studio").unwrap();
    let ServiceKind::Mcp(tools) = &studio.kind else { panic!("it is MCP") };
    assert_eq!(tools["draw"].on_unknown, OnUnknown::Charge);
    assert_eq!(studio.unlisted.as_ref().unwrap().on_unknown, OnUnknown::Refund);
}
