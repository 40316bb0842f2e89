//! Changes of keys and tenants: changes that do not undo each other, budgets, suspension, corrections, agents, and a
//! new policy.

use crate::fixture::{Bench, POLICY, code, expect, is_on_postgresql, report_body};
use crate::policies::document::FILE_BYTES_MAX;
use crate::service::{self, Error};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_changed_only_at_the_given_version_and_filters_are_notified() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(0).await;
    let (key, secret) = bench.key(&tenant).await;
    let path = format!("/v1/keys/{key}");
    let shown = bench.request(Method::GET, &path).send().await.unwrap();
    let etag = shown.headers()["etag"].to_str().unwrap().to_owned();
    let after = bench.get("/filter/v1/changes").await["next"].as_u64().unwrap();
    let change = json!({
        "name": "builds", "scopes": ["read", "generate"], "services": ["studio"],
        "resources": [{"name": "project:42", "expires_at": "2999-01-01T00:00:00Z"}],
        "limits": [{"permits": 3, "window_seconds": 60}], "budget": 50, "reason": "new project",
    });
    let patch = |etag: &str, body: &Value| {
        bench.request(Method::PATCH, &path).header("if-match", etag).json(body).send()
    };
    let changed = expect(patch(&etag, &change).await.unwrap(), StatusCode::OK).await;
    assert_eq!((changed["name"].as_str(), changed["budget"].as_u64()), (Some("builds"), Some(50)));
    let record = expect(bench.resolve(&secret).await, StatusCode::OK).await;
    assert_eq!(record["scopes"], json!(["read", "generate"]));
    assert_eq!(record["resources"][0]["expires_at"], "2999-01-01T00:00:00.000Z");
    assert_eq!(bench.get(&format!("/filter/v1/changes?after={after}")).await["changes"][0]["key_id"], *key);

    let stale = expect(patch(&etag, &change).await.unwrap(), StatusCode::PRECONDITION_FAILED).await;
    assert_eq!(code(&stale), "precondition_failed");
    let clear = json!({"services": null, "resources": null, "budget": null, "reason": "trusted"});
    let cleared = expect(patch("*", &clear).await.unwrap(), StatusCode::OK).await;
    assert!(cleared["services"].is_null() && cleared["budget"].is_null());
    assert_eq!(cleared["limits"][0]["permits"], 3);

    let expired = bench.post(&format!("{path}/expire"), json!({"reason": "pilot"}), StatusCode::OK).await;
    assert_eq!(expired["state"], "expired");
    let again =
        expect(patch("*", &json!({"expires_at": null, "reason": "x"})).await.unwrap(), StatusCode::OK);
    assert_eq!(again.await["state"], "active");
    let trail = bench.get("/v1/audit?kind=key_updated").await;
    assert_eq!(trail["items"].as_array().unwrap().len(), 4);
    let first = &trail["items"][3]["detail"];
    assert_eq!(
        (first["reason"].as_str(), first["before"]["name"].as_str()),
        (Some("new project"), Some("ci"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_limits_key_and_tenant_and_refunds_free_it_again() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(1000).await;
    let (key, _) = bench.key(&tenant).await;
    expect(bench.reserve("r1", &key, 30).await, StatusCode::CREATED).await;
    // Set in the middle of the month, it applies at once and counts earlier calls.
    let path = format!("/v1/keys/{key}");
    let patch = |path: &str, budget: u64| {
        bench.request(Method::PATCH, path).json(&json!({"budget": budget, "reason": "x"})).send()
    };
    expect(patch(&path, 50).await.unwrap(), StatusCode::OK).await;
    let refused = expect(bench.reserve("r2", &key, 21).await, StatusCode::PAYMENT_REQUIRED).await;
    assert_eq!(code(&refused), "quota_exceeded");
    assert!(refused["detail"].as_str().unwrap().contains("the key has spent 30"), "{refused}");
    bench.settle("r1", json!({"action": "post", "credits": 10})).await;
    expect(bench.reserve("r2", &key, 40).await, StatusCode::CREATED).await;
    let shown = bench.get(&format!("{path}/budget")).await;
    assert_eq!((shown["budget"].as_u64(), shown["spent"].as_u64()), (Some(50), Some(50)));
    bench.settle("r2", json!({"action": "void"})).await;
    assert_eq!(bench.get(&format!("{path}/budget")).await["spent"], 10);

    let tenant_path = format!("/v1/tenants/{tenant}");
    expect(patch(&tenant_path, 15).await.unwrap(), StatusCode::OK).await;
    let (second, _) = bench.key(&tenant).await;
    let refused = expect(bench.reserve("r3", &second, 6).await, StatusCode::PAYMENT_REQUIRED).await;
    assert!(refused["detail"].as_str().unwrap().contains("the tenant has spent 10"), "{refused}");
    expect(bench.reserve("r4", &second, 5).await, StatusCode::CREATED).await;
    // The repeated request gets its answer, whatever the budget is by then.
    expect(bench.reserve("r4", &second, 5).await, StatusCode::CREATED).await;
    assert_eq!(bench.get(&format!("{tenant_path}/budget")).await["spent"], 15);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_suspended_resumed_and_moved_to_another_tier() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(10).await;
    let (key, secret) = bench.key(&tenant).await;
    let path = format!("/v1/tenants/{tenant}");
    let reason = json!({"reason": "unpaid"});
    bench.post(&format!("{path}/suspend"), reason.clone(), StatusCode::OK).await;
    assert_eq!(expect(bench.resolve(&secret).await, StatusCode::OK).await["state"], "suspended");
    expect(bench.reserve("r1", &key, 1).await, StatusCode::FORBIDDEN).await;
    let resumed = bench.post(&format!("{path}/resume"), reason, StatusCode::OK).await;
    assert!(resumed["suspended_at"].is_null());
    let patch = |body: Value| bench.request(Method::PATCH, &path).json(&body).send();
    let unknown = patch(json!({"tier": "gold", "reason": "x"})).await.unwrap();
    expect(unknown, StatusCode::BAD_REQUEST).await;
    expect(patch(json!({"tier": "free", "reason": "x"})).await.unwrap(), StatusCode::OK).await;
    let record = expect(bench.resolve(&secret).await, StatusCode::OK).await;
    assert_eq!((record["state"].as_str(), record["tier"].as_str()), (Some("active"), Some("free")));
    let kinds = bench.get(&format!("/v1/audit?tenant_id={tenant}&limit=3")).await;
    let kinds: Vec<_> = kinds["items"].as_array().unwrap().iter().map(|row| row["kind"].clone()).collect();
    assert_eq!(kinds, ["tenant_updated", "tenant_resumed", "tenant_suspended"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_correction_is_a_new_transfer_and_takes_no_more_than_there_is() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(100).await;
    let (key, _) = bench.key(&tenant).await;
    expect(bench.reserve("r1", &key, 40).await, StatusCode::CREATED).await;
    bench.settle("r1", json!({"action": "post", "credits": 40})).await;
    let path = format!("/v1/tenants/{tenant}/corrections");
    let correct =
        |direction: &str, amount: u64| json!({"direction": direction, "amount": amount, "reason": "x"});
    bench.post(&path, correct("refund", 30), StatusCode::CREATED).await;
    assert_eq!(bench.balance(&tenant).await, [100, 90, 0, 10]);
    bench.post(&path, correct("refund", 11), StatusCode::CONFLICT).await;
    bench.post(&path, correct("withdraw", 85), StatusCode::CREATED).await;
    assert_eq!(bench.balance(&tenant).await, [15, 5, 0, 10]);
    bench.post(&path, correct("withdraw", 6), StatusCode::CONFLICT).await;
    bench.post(&path, correct("withdraw", 0), StatusCode::BAD_REQUEST).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_belongs_only_to_an_agent_of_its_tenant() {
    let bench = Bench::start().await;
    let (tenant, other) = (bench.tenant(0).await, bench.tenant(0).await);
    let body = json!({"tenant_id": tenant, "name": "bot"});
    let agent = bench.post("/v1/agents", body, StatusCode::CREATED).await["id"].as_str().unwrap().to_owned();
    let key = |tenant: &str, agent: &str| json!({"tenant_id": tenant, "name": "ci", "scopes": [], "agent_id": agent});
    for body in [key(&other, &agent), key(&tenant, "agt_none")] {
        let refused = bench.post("/v1/keys", body, StatusCode::BAD_REQUEST).await;
        assert!(refused["detail"].as_str().unwrap().starts_with("agent_id"), "{refused}");
    }
    let made = bench.post("/v1/keys", key(&tenant, &agent), StatusCode::CREATED).await;
    assert_eq!(made["source"], "admin");
    let listed = bench.get(&format!("/v1/keys?agent_id={agent}&source=admin")).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    assert_eq!(bench.get("/v1/keys?source=mcp").await["items"], json!([]));
    assert_eq!(bench.get(&format!("/v1/agents/{agent}")).await["name"], "bot");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_takes_only_names_that_the_policy_has_unless_they_are_to_come() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(0).await;
    let key = json!({"tenant_id": tenant, "name": "ci", "scopes": ["raed"], "services": ["stduio"], "tools": ["serach"]});
    let refused = bench.post("/v1/keys", key.clone(), StatusCode::BAD_REQUEST).await;
    let detail = refused["detail"].as_str().unwrap();
    for (field, near) in [("scopes[0]", "`read`"), ("services[0]", "`studio`"), ("tools[0]", "`search`")] {
        let line = detail.lines().find(|line| line.starts_with(field));
        assert!(line.is_some_and(|line| line.ends_with(&format!("did you mean {near}?"))), "{detail}");
    }
    let made = bench.post("/v1/keys?allow_unknown=true", key, StatusCode::CREATED).await;
    let path = format!("/v1/keys/{}", made["id"].as_str().unwrap());
    let patch =
        async |body: &Value| bench.request(Method::PATCH, &path).json(body).send().await.unwrap().status();
    // What it has it may keep; what comes new must be known.
    assert_eq!(patch(&json!({"scopes": ["raed", "read"], "reason": "x"})).await, StatusCode::OK);
    assert_eq!(patch(&json!({"scopes": ["raed", "reda"], "reason": "x"})).await, StatusCode::BAD_REQUEST);
    assert_eq!(patch(&json!({"services": ["studoi"], "reason": "x"})).await, StatusCode::BAD_REQUEST);
    for body in [json!({"name": "x", "tier": "por"}), json!({"name": "x", "tier": "por", "credits": 5})] {
        let refused = bench.post("/v1/tenants", body, StatusCode::BAD_REQUEST).await;
        assert!(refused["detail"].as_str().unwrap().contains("did you mean `pro`?"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn administrators_cannot_say_that_another_key_asked_for_theirs() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(0).await;
    let key = |source: &str| json!({"tenant_id": tenant, "name": "ci", "scopes": [], "source": source});
    for source in ["mcp", "delegation"] {
        let refused = bench.post("/v1/keys", key(source), StatusCode::BAD_REQUEST).await;
        assert!(refused["detail"].as_str().unwrap().contains("`source`"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_policy_is_put_in_force_as_a_whole_or_not_at_all() {
    let bench = Bench::start().await;
    let before = bench.request(Method::GET, "/v1/policy").send().await.unwrap();
    let etag = before.headers()["etag"].to_str().unwrap().to_owned();
    let put = |etag: &str, text: String| {
        bench.request(Method::PUT, "/v1/policy").header("if-match", etag).body(text).send()
    };
    let faulty = put(&etag, POLICY.replace("permits: 20", "permits: -1")).await.unwrap();
    let faulty = expect(faulty, StatusCode::BAD_REQUEST).await;
    assert!(faulty["detail"].as_str().unwrap().contains("tiers.free.limits[0].permits"), "{faulty}");
    // The largest file that is allowed.
    let padded = |bytes: usize| {
        let text = POLICY.replace("permits: 20", "permits: 25") + "# ";
        text.clone() + &"x".repeat(bytes - text.len())
    };
    let text = padded(FILE_BYTES_MAX);
    expect(put(&etag, padded(FILE_BYTES_MAX + 1)).await.unwrap(), StatusCode::PAYLOAD_TOO_LARGE).await;
    expect(put("\"other\"", text.clone()).await.unwrap(), StatusCode::PRECONDITION_FAILED).await;
    let after = expect(put(&etag, text.clone()).await.unwrap(), StatusCode::OK).await;
    assert_eq!(bench.get("/v1/tiers").await["free"]["limits"][0]["permits"], 25);
    let described = &bench.get("/openapi.json").await["paths"]["/v1/policy"]["put"]["requestBody"]["content"];
    assert!(
        described["application/yaml"].is_object() && described["application/json"].is_object(),
        "{described}"
    );
    // A shared database holds it for every ledger, and the files stay unchanged.
    let file = if is_on_postgresql() { POLICY } else { text.as_str() };
    assert_eq!(std::fs::read_to_string(bench.policy_path()).unwrap(), file);
    let fact = &bench.get("/v1/audit?kind=policy_in_force&limit=1").await["items"][0];
    assert_eq!(fact["detail"]["version"], after["version"]);
    assert!(fact["actor"].as_str().unwrap().starts_with("adm_"), "{fact}");
    // Requests that a shadow rule would have refused are not in the list of refusals, but in a report of their own.
    let tenant = bench.tenant(0).await;
    let (key, _) = bench.key(&tenant).await;
    let mut decision = super::decision("allowed", &key, &tenant, "search", 0);
    decision["would_deny"] = json!("rate_limited");
    let batch = report_body("b1", [decision]);
    bench.post("/filter/v1/report", batch, StatusCode::OK).await;
    let report = bench.get("/v1/policy/shadow-report").await;
    let row = json!({
        "would_deny": "rate_limited", "tenant_id": tenant, "tool": "search", "calls": 1, "credits": 0,
    });
    assert_eq!(report["items"], json!([row]));

    // With an embedded database the file decides at a start, even if it has an earlier policy; with a shared database
    // an earlier policy is an old copy.
    std::fs::write(bench.policy_path(), POLICY).unwrap();
    let bench = bench.restart().await;
    let permits = if is_on_postgresql() { 25 } else { 20 };
    assert_eq!(bench.get("/v1/tiers").await["free"]["limits"][0]["permits"], permits);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_key_is_rotated_with_grace_and_revoked_and_every_step_is_in_the_trail() {
    let bench = Bench::start().await;
    let made = bench.post("/v1/filter-keys", json!({"name": "cluster west"}), StatusCode::CREATED).await;
    let (id, first) = (made["id"].as_str().unwrap(), made["secret"].as_str().unwrap().to_owned());
    let opens = async |secret: &str| {
        let answer = bench.ask_as(secret, &Method::GET, "/filter/v1/changes", &Value::Null).await;
        answer.status() == StatusCode::OK
    };
    assert!(opens(&first).await);
    let path = format!("/v1/filter-keys/{id}");
    let rotate = async |grace: u64| {
        let body = json!({"grace_seconds": grace, "reason": "yearly"});
        let rotated = bench.post(&format!("{path}/rotate"), body, StatusCode::OK).await;
        assert_eq!(rotated["id"], made["id"]);
        rotated["secret"].as_str().unwrap().to_owned()
    };
    let second = rotate(3600).await;
    assert!(opens(&first).await && opens(&second).await);
    let third = rotate(0).await;
    assert!(!opens(&first).await && !opens(&second).await && opens(&third).await);
    let short = rotate(1).await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(15);
    while opens(&third).await {
        assert!(std::time::Instant::now() < deadline, "the grace never ended");
        crate::fixture::pace().await;
    }
    assert!(opens(&short).await && opens(&bench.credentials.filter_key).await);

    let listed = bench.get("/v1/filter-keys").await;
    let names: Vec<&str> =
        listed["items"].as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["first", "cluster west"]);
    assert!(!listed.to_string().contains("arf_") && listed["items"][1]["revoked_at"].is_null());

    bench.post(&format!("{path}/revoke"), json!({"reason": "gone"}), StatusCode::OK).await;
    assert!(!opens(&short).await);
    let refused = bench.post(&format!("{path}/rotate"), json!({}), StatusCode::CONFLICT).await;
    assert_eq!(code(&refused), "conflict");
    for action in ["rotate", "revoke"] {
        let none = format!("/v1/filter-keys/flt_none/{action}");
        bench.post(&none, json!({"reason": "x"}), StatusCode::NOT_FOUND).await;
    }
    let trail = bench.get("/v1/audit?limit=6").await;
    let facts: Vec<&Value> = trail["items"].as_array().unwrap().iter().collect();
    let kinds: Vec<&str> = facts.iter().map(|fact| fact["kind"].as_str().unwrap()).collect();
    let rotated = "service_credential_rotated";
    let (created, revoked) = ("service_credential_created", "service_credential_revoked");
    assert_eq!(kinds[..5], [revoked, rotated, rotated, rotated, created]);
    assert_eq!(
        (&facts[0]["detail"]["reason"], &facts[1]["detail"]["grace_seconds"]),
        (&json!("gone"), &json!(1))
    );
    // Ids of one API are not ids of the other.
    bench.post(&format!("/v1/admin-keys/{id}/revoke"), json!({"reason": "x"}), StatusCode::NOT_FOUND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_database_has_one_server_and_any_number_of_readers() {
    if is_on_postgresql() {
        return;
    }
    let bench = Bench::start().await;
    let config = || Bench::config(&bench.directory);
    let refused = service::start(config()).await.err().unwrap();
    assert!(matches!(refused, Error::Served(..)), "{refused}");
    let said = refused.to_string();
    assert!(said.contains("ledger.db.lock") && said.contains("stop that one first"), "{said}");
    // Also under another name of the same file.
    let link = bench.directory.path().join("link.db");
    std::os::unix::fs::symlink("ledger.db", &link).unwrap();
    let linked = crate::Config { database: crate::Database::Sqlite(link), ..config() };
    assert!(matches!(service::start(linked).await, Err(Error::Served(..))));

    let database = config().database;
    assert_eq!(crate::check(&database, None).unwrap(), Vec::<String>::new());
    crate::backup(&database, &bench.directory.path().join("copy.db"), None).unwrap();
    assert!(matches!(crate::init(&database, |_| Ok(())), Err(Error::AlreadyInitialised(_))));
    bench.tenant(5).await;
    let bench = bench.restart().await;
    bench.tenant(5).await;
}
