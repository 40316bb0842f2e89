//! What the ledger answers to times written as dates, and to limits without effect.

use super::{said, served};
use harness::ledger::Served;
use harness::run;
use serde_json::{Value, json};

/// Runs a command that must succeed, and returns its JSON.
fn json_of(served: &Served, arguments: &[&str]) -> Value {
    let output = served.operator(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
}

fn id_of(served: &Served, arguments: &[&str]) -> String {
    text(&json_of(served, arguments)["id"])
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

#[test]
fn a_limit_that_the_tiers_own_always_precedes_is_taken_with_a_warning() {
    run(async {
        let served = served("warnings").await;
        let tenant = id_of(&served, &["tenants", "create", "--name", "Acme", "--tier", "pro"]);
        let create = |limits: &[&str]| {
            let limits: Vec<&str> = limits.iter().flat_map(|limit| ["--limit", limit]).collect();
            json_of(
                &served,
                &[&["keys", "create", "--tenant", &tenant, "--name", "k", "--scope", "read"][..], &limits]
                    .concat(),
            )
        };
        let key = create(&["1000/60s", "100/10s"]);
        let warning =
            "the limit of 1000 in 60 s is never reached: tier pro has 300 in 60 s, which counts too";
        assert_eq!(key["warnings"], json!([warning]));
        assert!(create(&["299/60s", "1000/3600s"])["warnings"].is_null());
        // People see it too, then and later, and a tenant with another tier has none.
        let id = text(&key["id"]);
        let shown = served.operator(&["keys", "show", &id]);
        assert!(String::from_utf8_lossy(&shown.stdout).contains(warning), "{shown:?}");
        let updated = json_of(&served, &["keys", "update", &id, "--limit", "300/30s", "--reason", "test"]);
        assert!(
            text(&updated["warnings"][0]).starts_with("the limit of 300 in 30 s is never reached"),
            "{updated}"
        );
        json_of(&served, &["tenants", "update", &tenant, "--tier", "enterprise", "--reason", "test"]);
        assert!(json_of(&served, &["keys", "show", &id])["warnings"].is_null());
    });
}

/// Where a time is asked, in queries and bodies, a date is one.
#[test]
fn a_date_is_a_time_wherever_one_is_asked() {
    run(async {
        let served = served("dates").await;
        let http = client::http().build().expect("a client");
        let url = |path: &str| format!("{}{path}", served.url(0));
        let get = async |path: &str| {
            let answer = http
                .get(url(path))
                .bearer_auth(&served.credentials.admin_key)
                .send()
                .await
                .expect("an answer");
            (answer.status().as_u16(), answer.json::<Value>().await.expect("JSON"))
        };
        let post = async |path: &str, body: Value| {
            let sent = http.post(url(path)).bearer_auth(&served.credentials.admin_key).json(&body);
            let answer = sent.send().await.expect("an answer");
            (answer.status().as_u16(), answer.json::<Value>().await.expect("JSON"))
        };
        let (status, tenant) = post("/v1/tenants", json!({"name": "Acme", "tier": "pro"})).await;
        assert_eq!(status, 201, "{tenant}");
        let grants = json!([{"name": "studio", "expires_at": "2090-02-01"}]);
        let key = json!({"tenant_id": tenant["id"], "name": "k", "scopes": ["read"], "expires_at": "2090-03-01", "services": grants});
        let (status, key) = post("/v1/keys", key).await;
        assert_eq!(status, 201, "{key}");
        assert_eq!(key["expires_at"], "2090-03-01T00:00:00.000Z", "{key}");
        assert_eq!(key["services"][0]["expires_at"], "2090-02-01T00:00:00.000Z", "{key}");
        for path in ["/v1/audit", "/v1/usage", "/v1/policy/shadow-report"] {
            let (from, to) =
                (format!("{path}?from=2026-11-01&to=2090-01-01"), format!("{path}?from=2090-01-01"));
            let (status, since) = get(&from).await;
            assert_eq!(status, 200, "{path}: {since}");
            let (status, later) = get(&to).await;
            assert_eq!((status, later["items"].as_array().map_or(0, Vec::len)), (200, 0), "{path}: {later}");
            for wrong in ["yesterday", "2026-02-30", "2026-11"] {
                let (status, said) = get(&format!("{path}?from={wrong}")).await;
                assert_eq!(status, 400, "{path}: {said}");
                let detail = said["detail"].as_str().unwrap_or_default();
                for part in ["from", "a date such as 2026-11-22", "a time such as 2026-11-22T20:00:00Z"] {
                    assert!(detail.contains(part), "{path}: {detail}");
                }
            }
        }
        let rows = get("/v1/audit?from=2026-11-01&to=2090-01-01").await.1;
        assert!(rows["items"].as_array().is_some_and(|rows| rows.len() >= 2), "{rows}");
    });
}
