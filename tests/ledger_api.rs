//! The ledger alone, as its operators use it: the whole command line against `agentrelay serve`, its API under
//! schemathesis, and no secret in anything that it leaves behind.

use cli::stack::{Credentials, Ledger, LedgerOptions};
use harness::files;
use harness::ledger::Filter;
use protocol::uuid::Uuid;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A running ledger in its own directory.
struct Served {
    directory: PathBuf,
    credentials: Credentials,
    ledger: Ledger,
}

async fn serve(name: &str) -> Served {
    let directory = files::process_directory().join(name);
    fs::create_dir_all(&directory).expect("the directory can be made");
    let policy = directory.join("policy.yaml");
    fs::copy(files::shipped_policy(), &policy).expect("the policy can be copied");
    let database = format!("sqlite:{}", directory.join("ledger.db").display());
    let credentials =
        Credentials::open(&files::program(), &database, &directory).expect("a database can be made");
    let ledger = Ledger::start(LedgerOptions {
        program: files::program(),
        database,
        policy,
        listen: "127.0.0.1:0".parse().expect("an address"),
        state_dir: directory.clone(),
        name: "ledger".to_owned(),
    });
    let ledger = ledger.await.expect("the ledger starts");
    Served { directory, credentials, ledger }
}

impl Served {
    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(files::program())
            .args(arguments)
            .env("AGENTRELAY_LEDGER", self.ledger.url())
            .env("AGENTRELAY_ADMIN_KEY", &self.credentials.admin_key)
            .output()
            .expect("the program can be run")
    }

    /// Runs a command that must succeed, and returns its JSON.
    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }

    async fn get(&self, path: &str) -> String {
        let request = client::http().build().expect("a client").get(format!("{}{path}", self.ledger.url()));
        request.send().await.expect("an answer").text().await.expect("a text")
    }

    fn id(&self, arguments: &[&str]) -> String {
        text(&self.json(arguments)["id"])
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_does_what_the_api_does_and_leaves_no_secret_behind() {
    let served = serve("operator").await;
    let mut secrets = vec![served.credentials.admin_key.clone(), served.credentials.filter_key.clone()];

    let tenant = served.id(&[
        "tenants",
        "create",
        "--name",
        "Acme",
        "--tier",
        "pro",
        "--credits",
        "100",
        "--budget",
        "90",
    ]);
    let agent = served.json(&["agents", "create", "--tenant", &tenant, "--name", "bot"]);
    let agent = text(&agent["id"]);
    let made = served
        .json(&["keys", "create", "--tenant", &tenant, "--name", "ci", "--scope", "read", "--agent", &agent]);
    let (key, secret) = (text(&made["id"]), text(&made["secret"]));
    secrets.push(secret);
    let updated = served.json(&[
        "keys",
        "update",
        &key,
        "--scope",
        "read,generate",
        "--resource",
        "project:1@2999-01-01T00:00:00Z",
        "--limit",
        "10/60s",
        "--budget",
        "5",
        "--reason",
        "more work",
    ]);
    assert_eq!(updated["scopes"][1], "generate");
    assert_eq!(served.json(&["keys", "list", "--agent", &agent, "--state", "active"])[0]["id"], *key);
    assert_eq!(served.json(&["keys", "budget", &key])["budget"], 5);
    let shown = served.run(&["keys", "show", &key]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let first = |line: &str| line.split("  ").next().map(str::to_owned);
    let names: Vec<String> = shown.lines().filter_map(first).collect();
    assert!(
        ["source", "parent", "version"].iter().all(|name| names.iter().any(|known| known == name)),
        "{shown}"
    );
    everything_is_cleared(&served, &key);
    let rotated = served.json(&["keys", "rotate", &key, "--grace", "60", "--reason", "routine"]);
    secrets.push(text(&rotated["secret"]));
    assert_eq!(served.json(&["keys", "expire", &key, "--reason", "over"])["state"], "expired");
    served.json(&["keys", "update", &key, "--expires", "never", "--all-resources", "--reason", "not over"]);
    assert_eq!(served.json(&["keys", "show", &key])["resources"], Value::Null);
    assert_eq!(served.json(&["keys", "revoke", &key, "--reason", "left"])["state"], "revoked");

    let credit = ["tenants", "credit", &tenant, "50", "--reason", "top-up", "--idempotency-key", "top-up-1"];
    let lost = served.run(&[&credit[..], &["--ledger", "http://127.0.0.1:1"]].concat());
    let said = String::from_utf8_lossy(&lost.stderr);
    assert!(!lost.status.success() && said.contains("again with --idempotency-key top-up-1"), "{said}");
    assert_eq!(served.json(&credit), served.json(&credit));
    served.json(&["tenants", "correct", &tenant, "withdraw", "20", "--reason", "mistake"]);
    assert_eq!(served.json(&["tenants", "balance", &tenant])["available"], 130);
    served.json(&[
        "tenants",
        "update",
        &tenant,
        "--tier",
        "free",
        "--budget",
        "none",
        "--reason",
        "downgrade",
    ]);
    let version = text(&served.json(&["tenants", "show", &tenant])["version"]);
    let rename =
        ["tenants", "update", &tenant, "--name", "Acme 2", "--reason", "name", "--if-match", &version];
    served.json(&rename);
    assert!(!served.run(&rename).status.success(), "a tenant was changed over what was not seen");
    served.json(&["tenants", "suspend", &tenant, "--reason", "unpaid"]);
    assert!(served.json(&["tenants", "show", &tenant])["suspended_at"].is_string());
    served.json(&["tenants", "resume", &tenant, "--reason", "paid"]);
    assert_eq!(served.json(&["tenants", "budget", &tenant])["budget"], Value::Null);
    assert_eq!(served.json(&["tenants", "list"])[0]["tier"], "free");

    let admin =
        served.json(&["admin-keys", "create", "--name", "Acme", "--role", "operator", "--tenant", &tenant]);
    secrets.push(text(&admin["secret"]));
    let admin = text(&admin["id"]);
    assert_eq!(served.json(&["admin-keys", "list", "--tenant", &tenant])[0]["id"], *admin);
    served.json(&["admin-keys", "revoke", &admin, "--reason", "left"]);
    assert_eq!(served.json(&["agents", "show", &agent])["name"], "bot");
    let filter = served.json(&["filter-keys", "create", "--name", "west"]);
    secrets.push(text(&filter["secret"]));
    let filter = text(&filter["id"]);
    let rotated = served.json(&["filter-keys", "rotate", &filter, "--grace", "60", "--reason", "yearly"]);
    secrets.push(text(&rotated["secret"]));
    assert_eq!(served.json(&["filter-keys", "list"])[1]["name"], "west");
    served.json(&["filter-keys", "revoke", &filter, "--reason", "gone"]);
    for read in [
        ["agents", "list"],
        ["leases", "list"],
        ["reservations", "list"],
        ["policy", "show"],
        ["policy", "tiers"],
        ["policy", "tools"],
        ["policy", "shadow-report"],
        ["audit", "key"],
        ["audit", "status"],
    ] {
        served.json(&read);
    }
    served.json(&["usage", "--group-by", "agent,outcome", "--tenant", &tenant]);

    let request = Uuid::from_bits(0x0192_f0c0_0000_7000_8000_0000_0000_0001).to_string();
    let decision = json!({
        "id": request, "at": "2026-11-01T00:00:00Z", "outcome": "allowed", "key_id": key, "tenant_id": tenant,
        "service": "studio", "tool": "search", "credits": 0, "status": 200, "duration_ms": 12, "policy_version": "v1",
        "envoy": "e1",
    });
    let filter = Filter::new(served.ledger.url(), &served.credentials.filter_key);
    assert_eq!(filter.report("batch", [decision]).await, Some(200));
    let explained = served.json(&["explain", &request]);
    assert!(explained["sentences"][0].is_string(), "{explained}");

    policies(&served);
    audits(&served);
    backups(&served);

    let metrics = served.get("/metrics").await;
    fs::write(served.directory.join("metrics.txt"), &metrics).expect("metrics can be kept");
    every_operation_was_asked_for(&served, &metrics).await;
    let Served { directory, ledger, .. } = served;
    ledger.stop().await;
    grep(&directory, &secrets);
}

/// Everything that a key is given can be removed again, completely or down to one item.
fn everything_is_cleared(served: &Served, key: &str) {
    let update =
        |arguments: &[&str]| served.json(&[&["keys", "update", key, "--reason", "test"], arguments].concat());
    let bounded = update(&["--concurrency", "20/2"]);
    assert_eq!(bounded["concurrency"], serde_json::json!({"requests": 20, "streams": 2}));
    assert_eq!(update(&["--concurrency", "none"])["concurrency"], Value::Null);
    let given = [
        "--resource",
        "user:bob@example.com",
        "--resource",
        "a,b",
        "--tool",
        "c,d@2999-01-01T00:00:00Z",
        "--allow-unknown",
    ];
    let held = update(&given);
    assert_eq!(held["resources"], serde_json::json!(["user:bob@example.com", "a,b"]));
    assert_eq!(held["tools"][0]["name"], "c,d");
    assert!(held["agent_id"].is_string(), "{held}");
    let tenant = text(&held["tenant_id"]);
    let bare = served.json(&["keys", "create", "--tenant", &tenant, "--name", "bare", "--no-tools"]);
    assert_eq!((&bare["tools"], &bare["services"]), (&serde_json::json!([]), &Value::Null));
    let nothing = update(&["--no-scopes", "--no-services", "--no-tools", "--no-resources", "--no-limits"]);
    for field in ["scopes", "services", "tools", "resources", "limits"] {
        assert_eq!(nothing[field], serde_json::json!([]), "{field}");
    }
    let free = ["--all-services", "--all-tools", "--all-resources", "--agent", "none", "--budget", "none"];
    let free = update(&free);
    for field in ["services", "tools", "resources", "agent_id", "budget", "expires_at"] {
        assert_eq!(free[field], Value::Null, "{field}");
    }
    let version = text(&served.json(&["keys", "show", key])["version"]);
    update(&["--scope", "read", "--if-match", &version]);
    let again =
        served.run(&["keys", "update", key, "--no-scopes", "--reason", "test", "--if-match", &version]);
    assert!(
        String::from_utf8_lossy(&again.stderr).contains("read it again"),
        "it was changed over what was not seen"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trail_is_verified_with_the_ledgers_key_and_those_that_the_operator_names() {
    let served = serve("trail").await;
    served.json(&["tenants", "create", "--name", "Acme", "--tier", "pro"]);
    let former = text(&served.json(&["audit", "key"])["public_key"]);
    let Served { directory, credentials, ledger } = served;
    // It seals the rest before it ends. The next one finds no key file next to its database and creates one.
    let options = ledger.stop().await;
    let key = directory.join("ledger.db.audit-key");
    fs::rename(&key, directory.join("former-audit-key")).expect("it has a key");
    let database = options.database.clone();
    let ledger = Ledger::start(options).await.expect("the ledger starts");
    let served = Served { directory, credentials, ledger };
    served.json(&["tenants", "create", "--name", "Other", "--tier", "pro"]);
    assert_ne!(text(&served.json(&["audit", "key"])["public_key"]), former);

    let copy = served.directory.join("copy.db");
    let check = ["ledger", "check", "--database", &database];
    let backup = ["backup", "--database", &database, "--to", copy.to_str().expect("a plain path")];
    for command in [&["audit", "verify"][..], &check, &backup] {
        let refused = served.run(command);
        let said = String::from_utf8_lossy(&refused.stderr);
        let named = said.contains(&format!("checkpoint 1 is signed by {former}, which is not trusted"));
        assert!(!refused.status.success() && named, "{command:?}: {said}");
        let _ = fs::remove_file(&copy);
        let taken = served.run(&[command, &["--public-key", &former]].concat());
        assert!(taken.status.success(), "{command:?}: {}", String::from_utf8_lossy(&taken.stderr));
    }
    fs::remove_file(&key).expect("it has a key again");
    let unheld = served.run(&check);
    let said = String::from_utf8_lossy(&unheld.stderr);
    assert!(unheld.status.success() && said.contains("Any signing key was accepted"), "{said}");
    served.ledger.stop().await;
}

/// By the command line alone, and each must succeed: the ledger counted it.
async fn every_operation_was_asked_for(served: &Served, metrics: &str) {
    let document: Value = serde_json::from_str(&served.get("/openapi.json").await).expect("it is JSON");
    let mut operations = 0;
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for method in methods.as_object().expect("methods").keys() {
            let method = method.to_ascii_uppercase();
            operations += 1;
            let words = command_for(&method, path);
            let help = served.run(&[&words[..], &["--help"]].concat());
            let help = String::from_utf8_lossy(&help.stdout).into_owned();
            let example = format!("agentrelay {}", words.join(" "));
            assert!(help.contains("Examples:") && help.contains(&example), "{method} {path}: {help}");
            let counted = format!("http_requests_total{{method=\"{method}\",route=\"{path}\",status=\"2");
            assert!(metrics.contains(&counted), "`{example}` never did {method} {path}");
        }
    }
    assert!(operations > 30, "{operations}");
}

/// The command for an operation of the API. An operation without a command fails the test.
fn command_for(method: &str, path: &str) -> Vec<&'static str> {
    let words = match (method, path) {
        ("POST", "/v1/tenants") => "tenants create",
        ("GET", "/v1/tenants") => "tenants list",
        ("GET", "/v1/tenants/{id}") => "tenants show",
        ("PATCH", "/v1/tenants/{id}") => "tenants update",
        ("POST", "/v1/tenants/{id}/suspend") => "tenants suspend",
        ("POST", "/v1/tenants/{id}/resume") => "tenants resume",
        ("POST", "/v1/tenants/{id}/credits") => "tenants credit",
        ("POST", "/v1/tenants/{id}/corrections") => "tenants correct",
        ("GET", "/v1/tenants/{id}/balance") => "tenants balance",
        ("GET", "/v1/tenants/{id}/budget") => "tenants budget",
        ("POST", "/v1/keys") => "keys create",
        ("GET", "/v1/keys") => "keys list",
        ("GET", "/v1/keys/{id}") => "keys show",
        ("PATCH", "/v1/keys/{id}") => "keys update",
        ("GET", "/v1/keys/{id}/budget") => "keys budget",
        ("POST", "/v1/keys/{id}/rotate") => "keys rotate",
        ("POST", "/v1/keys/{id}/expire") => "keys expire",
        ("POST", "/v1/keys/{id}/revoke") => "keys revoke",
        ("POST", "/v1/agents") => "agents create",
        ("GET", "/v1/agents") => "agents list",
        ("GET", "/v1/agents/{id}") => "agents show",
        ("GET", "/v1/leases") => "leases list",
        ("GET", "/v1/reservations") => "reservations list",
        ("POST", "/v1/admin-keys") => "admin-keys create",
        ("GET", "/v1/admin-keys") => "admin-keys list",
        ("POST", "/v1/admin-keys/{id}/revoke") => "admin-keys revoke",
        ("POST", "/v1/filter-keys") => "filter-keys create",
        ("GET", "/v1/filter-keys") => "filter-keys list",
        ("POST", "/v1/filter-keys/{id}/rotate") => "filter-keys rotate",
        ("POST", "/v1/filter-keys/{id}/revoke") => "filter-keys revoke",
        ("GET", "/v1/usage") => "usage",
        ("GET", "/v1/audit") => "audit list",
        ("GET", "/v1/decisions/{id}") => "explain",
        ("GET", "/v1/audit/key") => "audit key",
        ("GET", "/v1/audit/status") => "audit status",
        ("GET", "/v1/audit/export") => "audit export",
        ("GET", "/v1/policy") => "policy show",
        ("PUT", "/v1/policy") => "policy apply",
        ("POST", "/v1/policy/check") => "policy diff",
        ("GET", "/v1/policy/shadow-report") => "policy shadow-report",
        ("GET", "/v1/tiers") => "policy tiers",
        ("GET", "/v1/tools") => "policy tools",
        other => panic!("no command is known for {other:?}: the command line does all that the API does"),
    };
    words.split(' ').collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_takes_every_field_and_parameter_of_its_operation() {
    let served = serve("fields").await;
    let document: Value = serde_json::from_str(&served.get("/openapi.json").await).expect("it is JSON");
    let mut missing = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let words = command_for(&method.to_ascii_uppercase(), path);
            let help = served.run(&[&words[..], &["--help"]].concat());
            let help = String::from_utf8_lossy(&help.stdout).into_owned();
            // In the help each argument begins a line.
            let taken: Vec<&str> = help.lines().filter_map(|line| line.split_whitespace().next()).collect();
            let wanted = fields(&document, operation).into_iter().filter_map(|field| argument_for(&field));
            missing.extend(
                wanted
                    .filter(|argument| !taken.contains(&argument.as_str()))
                    .map(|argument| format!("`{}` has no {argument}", words.join(" "))),
            );
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    served.ledger.stop().await;
}

/// The names of its parameters and of the fields of its body.
fn fields(document: &Value, operation: &Value) -> Vec<String> {
    let parameters = operation["parameters"].as_array().expect("parameters").iter();
    let mut found: Vec<String> = parameters.map(|parameter| text(&parameter["name"])).collect();
    let Some(body) = operation.get("requestBody") else { return found };
    match body["content"]["application/json"]["schema"].get("$ref") {
        Some(schema) => {
            let schema = document.pointer(text(schema).trim_start_matches('#')).expect("it is described");
            found.extend(schema["properties"].as_object().expect("fields").keys().cloned());
        }
        // A body that has no fields of its own is a file.
        None => found.push("file".to_owned()),
    }
    found
}

/// The option for a field: the field's own name, except for these.
fn argument_for(field: &str) -> Option<String> {
    Some(match field {
        // Lists are printed completely.
        "cursor" | "limit" => return None,
        "id" | "amount" | "direction" | "file" => format!("<{}>", field.to_ascii_uppercase()),
        "tenant_id" | "key_id" | "agent_id" | "reservation_id" | "request_id" => {
            format!("--{}", field.trim_end_matches("_id"))
        }
        "scopes" | "services" | "tools" | "resources" | "limits" => {
            format!("--{}", field.trim_end_matches('s'))
        }
        "expires_at" => "--expires".to_owned(),
        "grace_seconds" => "--grace".to_owned(),
        _ => format!("--{}", field.to_ascii_lowercase().replace('_', "-")),
    })
}

fn policies(served: &Served) {
    let file = served.directory.join("policy.yaml");
    let changed = served.directory.join("changed.yaml");
    let policy = fs::read_to_string(&file).expect("the policy can be read");
    fs::write(&changed, policy.replacen("permits: 20", "permits: 21", 1)).expect("it can be written");
    let changed = changed.to_str().expect("a plain path");
    let diff = served.json(&["policy", "diff", changed]);
    assert_eq!(diff["changes"].as_array().expect("a list").len(), 1, "{diff}");
    let over = text(&diff["over"]);
    served.json(&["policy", "apply", changed, "--over", &over]);
    let again = served.run(&["policy", "apply", changed, "--over", &over]);
    assert!(!again.status.success(), "a policy was replaced that was not the one seen");
    assert_eq!(served.json(&["policy", "diff", changed])["changes"], serde_json::json!([]));
}

fn audits(served: &Served) {
    let seen = served.json(&["audit", "verify"]);
    assert_eq!((&seen["valid"], &seen["day"]), (&Value::from(true), &Value::Null));
    let key = text(&served.json(&["audit", "key"])["public_key"]);
    let export = served.directory.join("trail.jsonl");
    let file = export.to_str().expect("a plain path");
    assert!(served.run(&["audit", "export", "--to", file]).status.success());
    let whole = served.json(&["audit", "verify", file, "--public-key", &key]);
    assert!(whole["rows"].as_u64() > Some(10), "{whole}");
    let trail = fs::read_to_string(&export).expect("the export can be read");
    by_day(served, &trail, &key);
    fs::write(&export, trail.replacen("top-up", "top-up!", 1)).expect("it can be written");
    let found = served.run(&["audit", "verify", file, "--public-key", &key]);
    let said = String::from_utf8_lossy(&found.stderr);
    assert!(!found.status.success() && said.contains("was changed"), "{said}");
    let listed = served.run(&["audit", "list", "--kind", "key_updated"]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains("more work"));
}

/// The trail in exports of one day: today's has everything, another day's nothing, and each verifies alone.
fn by_day(served: &Served, trail: &str, key: &str) {
    let newest = trail.lines().rev().find_map(|line| {
        let line: Value = serde_json::from_str(line).expect("a line is JSON");
        line["recorded_at"].as_str().map(|moment| moment[..10].to_owned())
    });
    let today = newest.expect("the trail has rows");
    let file = served.directory.join("day.jsonl");
    let path = file.to_str().expect("a plain path");
    for (day, has_rows) in [(today.as_str(), true), ("2020-01-01", false)] {
        assert!(served.run(&["audit", "export", "--day", day, "--to", path]).status.success());
        let verified = served.json(&["audit", "verify", path, "--public-key", key]);
        assert_eq!(verified["rows"].as_u64() > Some(10), has_rows, "{day}: {verified}");
        let online = served.json(&["audit", "verify", "--day", day]);
        assert_eq!(online["day"], format!("{day}T00:00:00.000Z"));
    }
    assert!(!served.run(&["audit", "export", "--day", "yesterday"]).status.success());
    // Dropped and removed rows are reported, also if there are none.
    let status = served.json(&["audit", "status"]);
    assert_eq!((&status["decisions_dropped"], &status["removed"]), (&Value::from(0), &Value::from(0)));
}

fn backups(served: &Served) {
    let database = format!("sqlite:{}", served.directory.join("ledger.db").display());
    let copy = served.directory.join("copy.db");
    let copy = copy.to_str().expect("a plain path");
    let copied = served.json(&["backup", "--database", &database, "--to", copy]);
    let restored = format!("sqlite:{}", served.directory.join("restored.db").display());
    assert_eq!(served.json(&["restore", "--from", copy, "--database", &restored]), copied);
}

/// Checks that no secret is in any file but the two that keep the first keys.
fn grep(directory: &Path, secrets: &[String]) {
    let mut searched = 0;
    for file in fs::read_dir(directory).expect("the directory can be read").flatten() {
        if ["admin-key", "filter-key"].iter().any(|kept| file.file_name() == *kept) {
            continue;
        }
        let bytes = fs::read(file.path()).expect("the file can be read");
        searched += bytes.len();
        for secret in secrets {
            // Only the random part, so that a removed prefix does not hide it.
            let body = secret.as_bytes().get(4..44).expect("a secret has 50 characters");
            let found = bytes.windows(body.len()).any(|window| window == body);
            assert!(!found, "a secret is in {}", file.path().display());
        }
    }
    assert!(searched > 100_000, "there was little to search");
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_no_fault_of_the_server_and_no_break_of_the_schema() {
    let served = serve("schemathesis").await;
    served.id(&["tenants", "create", "--name", "Acme", "--tier", "pro"]);
    // All checks but two: a valid body can still name a tier or an object that does not exist, and access between
    // tenants is tested by the ledger's own tests over the same document.
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,\
                  response_headers_conformance,response_schema_conformance,unsupported_method,\
                  negative_data_rejection,missing_required_header,allow_header_conformance,use_after_free,\
                  ensure_resource_availability,ignored_auth";
    let output = Command::new(files::environment().join("bin/schemathesis"))
        .current_dir(&served.directory)
        .args(["run", &format!("{}/openapi.json", served.ledger.url())])
        .args(["--header", &format!("Authorization: Bearer {}", served.credentials.admin_key)])
        .args(["--checks", checks, "--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "30"])
        // A shared machine is sometimes slow, which is not a fault of the server.
        .args(["--suppress-health-check", "too_slow", "--request-timeout", "60"])
        // It would revoke the credential that it uses.
        .args(["--exclude-path", "/v1/admin-keys/{id}/revoke", "--seed", "1", "--no-color"])
        .output()
        .expect("schemathesis can be run: run scripts/test, or set AGENTRELAY_ENVIRONMENT");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("No issues found") || said.contains("passed"), "{said}");
}

#[test]
fn the_golden_document_is_valid_openapi() {
    let program = "import schemathesis, sys; schemathesis.openapi.from_path(sys.argv[1]).validate()";
    let output = Command::new(files::environment().join("bin/python"))
        .args(["-c", program])
        .arg(files::root().join("tests/golden/openapi.json"))
        .output()
        .expect("python can be run: run scripts/test, or set AGENTRELAY_ENVIRONMENT");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_unit_and_the_image_start_the_ledger_with_options_that_it_has() {
    let shipped = |name: &str| {
        fs::read_to_string(files::root().join("envoy").join(name)).expect("the file can be read")
    };
    let unit = shipped("agentrelay.service");
    let unit =
        unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/agentrelay ")).expect("it starts");
    let image = shipped("Containerfile");
    let image = image.lines().find_map(|line| line.strip_prefix("CMD ")).expect("it starts");
    let image: Vec<String> = serde_json::from_str(image).expect("it is a list");
    let unit: Vec<String> = unit.split(' ').map(str::to_owned).collect();
    for arguments in [unit, image] {
        // Arguments before it are parsed first, so an unknown option is still an error.
        let output = Command::new(files::program()).args(&arguments).arg("--help").output();
        let output = output.expect("the program can be run");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
