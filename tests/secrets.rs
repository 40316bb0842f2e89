//! No secret is anywhere except with its owner: a real run creates every kind of secret, and everything it left behind
//! is searched for each of them.

use harness::agent::unknown_secret;
use harness::{Gate, Request, eventually, mcp, run, stats};
use protocol::admin::{CreateAdminKey, Role, RotateKey};
use protocol::audit::Outcome;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use throwaway::Throwaway;

const PROMPT: &str = "a-very-private-prompt";
/// A part of the database's URL if that is PostgreSQL.
const PASSWORD: &str = "a-very-private-password";

#[test]
fn no_secret_of_a_run_on_sqlite_is_in_any_log_answer_metric_or_file() {
    run(async {
        let gate = Gate::options().start().await;
        let places = places(&gate).await;
        assert!(
            places.contains_key("file ledger.db") && places.contains_key("file ledger.db-wal"),
            "{:?}",
            places.keys()
        );
    });
}

#[test]
fn no_secret_of_a_run_on_postgresql_is_in_any_log_answer_metric_or_dump() {
    run(async {
        let apart = tokio::task::spawn_blocking(|| {
            let server = Throwaway::start().unwrap_or_else(|error| panic!("{error}"));
            let database = server.database().unwrap().replace("ledger@", &format!("ledger:{PASSWORD}@"));
            (server, database)
        });
        let (server, database) = apart.await.unwrap();
        let gate = Gate::options().database(&database).start().await;
        let (mut places, secrets) = used(&gate).await;
        let dump =
            Command::new(server.program("pg_dump")).args(["--inserts", "--dbname", &database]).output();
        let dump = dump.expect("pg_dump can be run");
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
        assert!(String::from_utf8_lossy(&dump.stdout).contains("INSERT INTO public.audit "));
        places.insert("the database".to_owned(), dump.stdout);
        places.insert("the server's log".to_owned(), server.log().into_bytes());
        search(&places, &secrets);
        drop(gate);
        tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
    });
}

async fn places(gate: &Gate) -> BTreeMap<String, Vec<u8>> {
    let (places, secrets) = used(gate).await;
    search(&places, &secrets);
    places
}

/// Creates every kind of secret and uses it correctly and incorrectly. Returns what was left behind, and the secrets.
async fn used(gate: &Gate) -> (BTreeMap<String, Vec<u8>>, Vec<String>) {
    let (one, other) = (gate.agent("hobby").await, gate.agent("pro").await);
    let rotated =
        gate.admin.rotate_key(&one.key, &RotateKey { grace_seconds: 600, reason: None }).await.unwrap();
    let admin =
        CreateAdminKey { name: "on call".into(), role: Role::Operator, tenant_id: Some(one.tenant.clone()) };
    let admin = gate.admin.create_admin_key(&admin).await.unwrap();
    let (unknown, credentials) = (unknown_secret(), gate.credentials());
    let secrets: Vec<String> = [
        &one.secret,
        &other.secret,
        &rotated.secret,
        &admin.secret,
        &unknown,
        &credentials.admin_key,
        &credentials.filter_key,
    ]
    .into_iter()
    .cloned()
    .collect();

    let mut answers = Vec::new();
    for request in [
        mcp::post(&mcp::search()).key(&rotated.secret),
        mcp::post(&mcp::image("ultra_plus")).key(&one.secret),
        Request::post("/api/v1/mcp/projects/1/trigger").key(&one.secret),
        mcp::post(&mcp::search()).key(&unknown),
        mcp::post(&mcp::search()).key(&one.secret).header("x-api-key", &other.secret),
        mcp::post(&mcp::search())
            .header("authorization", [b"Bearer ", one.secret.as_bytes(), b"\xff"].concat()),
        mcp::post(&mcp::search()).header("x-api-key", [b"\xff", other.secret.as_bytes()].concat()),
        mcp::post(&mcp::search()).header("authorization", &one.secret),
        mcp::post(&mcp::search()).header("x-agentrelay-key-id", &one.secret),
        mcp::post(&mcp::search()).key(&credentials.filter_key),
        mcp::post(&mcp::search()).key(&admin.secret),
        Request::get(format!("/nowhere?api_key={}", one.secret)),
        Request::get(format!("/api/v1/mcp/projects/1/builds?key={}", other.secret)).key(&other.secret),
        mcp::post(&mcp::call("image_generate", json!({"prompt": PROMPT}))).key(&other.secret),
        mcp::post(&mcp::call("image_generate", json!({"prompt": PROMPT, "quality": PROMPT})))
            .key(&other.secret),
        mcp::post_bytes(format!("{{\"{PROMPT}").as_bytes()).key(&other.secret),
    ] {
        answers.push(request.send(gate.address).await);
    }
    // The ledger is called with the wrong key, in the wrong place, and with a key in its address.
    for request in [
        Request::get("/v1/tenants").key(&one.secret),
        Request::get("/filter/v1/policy").key(&credentials.admin_key),
        Request::get(format!("/v1/keys/{}", other.secret)).key(&credentials.admin_key),
        Request::get(format!("/v1/keys?tenant_id={}", other.secret)).key(&admin.secret),
        Request::get(format!("/nowhere?key={}", credentials.filter_key)),
    ] {
        answers.push(request.send(gate.ledger_address).await);
    }
    gate.decisions(&other, Outcome::Allowed, 2).await;
    eventually("the audit trail is sealed", async || {
        let status = gate.admin.audit_status().await.unwrap();
        if status.sealed == status.newest { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;

    let mut secrets = secrets;
    secrets.push(audit_key(gate.directory()));
    let mut places = BTreeMap::new();
    for path in
        ["/config_dump?include_eds", "/stats?format=json", "/stats/prometheus", "/clusters", "/server_info"]
    {
        let text = Request::get(path).send(gate.envoy.admin).await.text();
        places.insert(format!("Envoy's {path}"), text.into_bytes());
    }
    for path in
        ["/v1/keys", "/v1/admin-keys", "/v1/tenants", "/v1/audit?limit=1000", "/v1/audit/export", "/v1/usage"]
    {
        let text = Request::get(path).key(&credentials.admin_key).send(gate.ledger_address).await.text();
        places.insert(format!("the ledger's {path}"), text.into_bytes());
    }
    places.insert("the ledger's /metrics".into(), stats::ledger(gate.ledger_address).await.into_bytes());
    for (number, answer) in answers.iter().enumerate() {
        // A tool may return to its caller what it was given.
        if answer.status != 200 {
            places.insert(format!("answer {number}"), format!("{answer:?}").into_bytes());
        }
    }
    files(gate.directory(), &mut places);
    let log = |name: &str| places.keys().any(|place| place == name);
    assert!(log("file ledger.log") && log("file envoy.log") && log("file envoy.yaml"), "{:?}", places.keys());
    (places, secrets)
}

/// Every file except those whose purpose is to keep a secret.
fn files(directory: &Path, places: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(directory).expect("the directory can be read").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_secret = ["admin-key", "filter-key", "audit-key"].iter().any(|kept| name.ends_with(kept));
        if entry.path().is_file() && !is_secret {
            places.insert(format!("file {name}"), fs::read(entry.path()).expect("the file can be read"));
        }
    }
}

/// The key that signs the audit trail.
fn audit_key(directory: &Path) -> String {
    let files = fs::read_dir(directory).expect("the directory can be read").flatten();
    let mut keys = files.filter(|file| file.file_name().to_string_lossy().ends_with("audit-key"));
    let key = keys.next().expect("there is a key that signs the trail");
    fs::read_to_string(key.path()).expect("it is text").trim().to_owned()
}

fn search(places: &BTreeMap<String, Vec<u8>>, secrets: &[String]) {
    let searched: usize = places.values().map(Vec::len).sum();
    assert!(places.len() > 25 && searched > 500_000, "there was little to search: {:?}", places.keys());
    let is_in = |bytes: &[u8], part: &str| bytes.windows(part.len()).any(|window| window == part.as_bytes());
    for (place, bytes) in places {
        for secret in secrets {
            // The random part alone, and a half of it: a removed prefix or a damaged end does not help.
            for part in [&secret[4..44], &secret[10..30]] {
                // A refused client may be told which address it requested, but nobody else.
                assert!(!is_in(bytes, part), "a secret is in {place}: {}", String::from_utf8_lossy(bytes));
            }
        }
        assert!(!is_in(bytes, PROMPT), "a body is in {place}");
        assert!(!is_in(bytes, PASSWORD), "the database's password is in {place}");
    }
}
