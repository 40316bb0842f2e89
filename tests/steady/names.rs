//! Texts that people write for others contain no invisible characters, wherever they are written.

use super::on_both::Ledger;
use harness::ledger::{directory, embedded};
use harness::{Request, files, policy, run};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

/// One of each kind: a line break, a bidirectional control, zero width, a filler, a tag, a private character, a
/// selector.
const HIDDEN: [char; 12] = [
    '\n',
    '\u{85}',
    '\u{202e}',
    '\u{2066}',
    '\u{200b}',
    '\u{200d}',
    '\u{feff}',
    '\u{ad}',
    '\u{3164}',
    '\u{e0041}',
    '\u{e000}',
    '\u{fe0f}',
];

#[test]
fn no_visible_text_contains_invisible_characters() {
    run(async {
        let ledger = Ledger::embedded("names").await;
        let (tenant, key) = ledger.served.payer(100).await;
        let (tenant, key) = (tenant.to_string(), key.key.id.to_string());
        let address = ledger.served.url(0).trim_start_matches("http://").parse().unwrap();
        let send = async |method: &str, path: &str, body: &Value| {
            let request = match method {
                "PATCH" => Request::new("PATCH", path),
                _ => Request::post(path),
            };
            let request =
                request.key(&ledger.served.credentials.admin_key).header("content-type", "application/json");
            let request = request.body(body.to_string().as_bytes());
            request.send(address).await
        };
        let made = send("POST", "/v1/filter-keys", &json!({"name": "f"})).await.json();
        let filter = made["id"].as_str().unwrap().to_owned();
        let made = send("POST", "/v1/admin-keys", &json!({"name": "a", "role": "auditor"})).await.json();
        let admin = made["id"].as_str().unwrap().to_owned();
        let create = |field: &str, value: Value| {
            let mut body = json!({"tenant_id": tenant, "name": "k", "scopes": ["read"]});
            body[field] = value;
            body
        };
        // Every text that the API accepts, with its place.
        type Body<'b> = Box<dyn Fn(&str) -> Value + 'b>;
        let cases: Vec<(&str, String, Body<'_>)> = vec![
            ("POST", "/v1/tenants".into(), Box::new(|text| json!({"name": text, "tier": "pro"}))),
            ("PATCH", format!("/v1/tenants/{tenant}"), Box::new(|text| json!({"name": text, "reason": "x"}))),
            ("PATCH", format!("/v1/tenants/{tenant}"), Box::new(|text| json!({"name": "n", "reason": text}))),
            ("POST", format!("/v1/tenants/{tenant}/suspend"), Box::new(|text| json!({"reason": text}))),
            ("POST", format!("/v1/tenants/{tenant}/resume"), Box::new(|text| json!({"reason": text}))),
            (
                "POST",
                format!("/v1/tenants/{tenant}/credits"),
                Box::new(|text| json!({"amount": 1, "reason": text})),
            ),
            ("POST", "/v1/agents".into(), Box::new(|text| json!({"tenant_id": tenant, "name": text}))),
            ("POST", "/v1/keys?allow_unknown=true".into(), Box::new(|text| create("name", json!(text)))),
            ("POST", "/v1/keys?allow_unknown=true".into(), Box::new(|text| create("scopes", json!([text])))),
            (
                "POST",
                "/v1/keys?allow_unknown=true".into(),
                Box::new(|text| create("services", json!([text]))),
            ),
            ("POST", "/v1/keys?allow_unknown=true".into(), Box::new(|text| create("tools", json!([text])))),
            (
                "POST",
                "/v1/keys?allow_unknown=true".into(),
                Box::new(|text| create("resources", json!([text]))),
            ),
            ("PATCH", format!("/v1/keys/{key}"), Box::new(|text| json!({"name": text, "reason": "x"}))),
            (
                "PATCH",
                format!("/v1/keys/{key}?allow_unknown=true"),
                Box::new(|text| json!({"tools": [text], "reason": "x"})),
            ),
            (
                "POST",
                format!("/v1/keys/{key}/rotate"),
                Box::new(|text| json!({"grace_seconds": 9, "reason": text})),
            ),
            ("POST", format!("/v1/keys/{key}/expire"), Box::new(|text| json!({"reason": text}))),
            ("POST", format!("/v1/keys/{key}/revoke"), Box::new(|text| json!({"reason": text}))),
            ("POST", "/v1/filter-keys".into(), Box::new(|text| json!({"name": text}))),
            (
                "POST",
                format!("/v1/filter-keys/{filter}/rotate"),
                Box::new(|text| json!({"grace_seconds": 9, "reason": text})),
            ),
            ("POST", format!("/v1/filter-keys/{filter}/revoke"), Box::new(|text| json!({"reason": text}))),
            ("POST", "/v1/admin-keys".into(), Box::new(|text| json!({"name": text, "role": "auditor"}))),
            ("POST", format!("/v1/admin-keys/{admin}/revoke"), Box::new(|text| json!({"reason": text}))),
        ];
        for (method, path, body) in &cases {
            for hidden in HIDDEN {
                let answer = send(method, path, &body(&format!("ad{hidden}min"))).await;
                let words = answer.text();
                assert_eq!(answer.status, 400, "{path} {}: {words}", hidden.escape_unicode());
                assert!(
                    words.contains(&hidden.escape_unicode().to_string().replace('\\', "\\\\")),
                    "{path}: {words}"
                );
            }
        }
        // The same places accept names of any script. The last one ends the key.
        for (method, path, body) in &cases {
            let answer = send(method, path, &body("Zoë-日本語-می\u{200c}خواهم-👩\u{200d}💻")).await;
            assert!((200..300).contains(&answer.status), "{method} {path}: {}", answer.text());
        }
        ledger.end().await;
    });
}

#[test]
fn neither_a_policy_nor_a_recovering_operator_can_hide_characters() {
    run(async {
        let place = directory("names-files");
        let file = place.join("policy.yaml");
        for hidden in HIDDEN {
            let mut hides = policy::shipped();
            let name = format!("gold{hidden}en");
            hides["tiers"][name.as_str()] = policy::yaml("{rank: 9}");
            fs::write(&file, serde_yaml_ng::to_string(&hides).unwrap()).unwrap();
            let check = Command::new(files::program()).args(["policy", "check"]).arg(&file).output().unwrap();
            let words = String::from_utf8_lossy(&check.stdout).into_owned();
            let escaped = hidden.escape_unicode().to_string();
            assert!(!check.status.success() && words.contains(&escaped), "{escaped}: {words}");
            assert!(hidden == '\n' || !words.contains(hidden), "{escaped} is shown");
        }
        let database = embedded(&place);
        let agentrelay = |arguments: &[&str]| {
            Command::new(files::program()).args(arguments).args(["--database", &database]).output().unwrap()
        };
        assert!(agentrelay(&["init"]).status.success());
        let recover = agentrelay(&["admin-keys", "recover", "--name", "ad\u{202e}min", "--reason", "lost"]);
        assert!(!recover.status.success() && recover.stdout.is_empty());
    });
}
