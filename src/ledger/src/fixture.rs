//! For tests: a ledger on its own database, and requests to it over a real socket.
//!
//! The tests of the API do not depend on the database. They run on SQLite, and again in a process that uses PostgreSQL,
//! see [`on_postgresql`].

use crate::{Config, Credentials, Database, Running, init, start};
use proptest::strategy::Strategy;
use proptest::test_runner::{Config as ProptestConfig, RngSeed, TestCaseError, TestRunner};
use protocol::audit::Decision;
use protocol::packed::Packed;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use tempfile::TempDir;
use throwaway::Throwaway;
use uuid::Uuid;

pub(crate) const POLICY: &str = r#"
tiers:
  free: {rank: 0, limits: [{permits: 20, window: 60s}]}
  pro: {rank: 1, limits: [{permits: 300, window: 60s}]}
risks:
  read_only: {scope: read}
  local_mutation: {scope: generate}
  external_mutation: {scope: generate}
  destructive: {scope: admin}
services:
  studio:
    kind: mcp
    path: /mcp
    tools:
      image_generate: {risk: local_mutation}
      search: {risk: read_only}
"#;

/// Tells a process of tests to use PostgreSQL.
const STORE: &str = "AGENTRELAY_TEST_STORE";
const POSTGRES: &str = "postgres";

/// True in the process that runs the tests on PostgreSQL.
pub(crate) fn is_on_postgresql() -> bool {
    std::env::var(STORE).is_ok_and(|store| store == POSTGRES)
}

/// Runs the tests whose names begin with this again, on PostgreSQL, and returns how many there were.
pub(crate) fn on_postgresql(tests: &str) -> u32 {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([tests, "--test-threads=4"])
        .env(STORE, POSTGRES)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "on PostgreSQL: {said}{}", String::from_utf8_lossy(&output.stderr));
    let (_, passed) = said.rsplit_once("test result: ok. ").expect("a summary");
    passed.split(' ').next().unwrap().parse().unwrap()
}

/// All data in the database of a [`Bench`], if it is PostgreSQL.
pub(crate) fn dump(directory: &TempDir) -> Option<Vec<u8>> {
    let url = std::fs::read_to_string(directory.path().join("database")).ok()?;
    let program = apart(|| server().program("pg_dump"));
    let output = Command::new(program).args(["--inserts", "--dbname", &url]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(output.stdout)
}

/// One server for all tests that run at the same time; the last of them stops it.
pub(crate) fn server() -> Arc<Throwaway> {
    static SHARED: Mutex<Weak<Throwaway>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let server = Arc::new(Throwaway::start().unwrap_or_else(|error| panic!("{error}")));
        *shared = Arc::downgrade(&server);
        server
    })
}

/// Runs blocking work on a thread where that is allowed.
pub(crate) fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

/// A running ledger, with credentials for both of its APIs.
pub(crate) struct Bench {
    pub(crate) directory: TempDir,
    pub(crate) credentials: Credentials,
    pub(crate) running: Running,
    pub(crate) client: reqwest::Client,
}

impl Bench {
    pub(crate) async fn start() -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let database = Bench::database(&directory);
        Bench::start_in(directory, &database).await
    }

    /// On an empty database.
    pub(crate) async fn start_on(database: &Database) -> Bench {
        Bench::start_in(tempfile::tempdir().unwrap(), database).await
    }

    async fn start_in(directory: TempDir, database: &Database) -> Bench {
        std::fs::write(directory.path().join("policy.yaml"), POLICY).unwrap();
        let credentials = init(database, |_| Ok(())).unwrap();
        let config = Config { database: database.clone(), ..Bench::config(&directory) };
        let running = start(config).await.unwrap();
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        Bench { directory, credentials, running, client: reqwest::Client::new() }
    }

    /// Another ledger on the same shared database, with this text in a policy file of its own.
    pub(crate) async fn start_second(&self, database: &Database, policy: &str) -> Bench {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("policy.yaml"), policy).unwrap();
        let config = Config { database: database.clone(), ..Bench::config(&directory) };
        let running = start(config).await.unwrap();
        let (credentials, client) = (self.credentials.clone(), self.client.clone());
        Bench { directory, credentials, running, client }
    }

    /// Stops it and starts it again on the same file.
    pub(crate) async fn restart(self) -> Bench {
        let Bench { directory, credentials, running, client } = self;
        running.shutdown().await;
        let running = start(Bench::config(&directory)).await.unwrap();
        Bench { directory, credentials, running, client }
    }

    fn database(directory: &TempDir) -> Database {
        if !is_on_postgresql() {
            return Database::Sqlite(directory.path().join("ledger.db"));
        }
        // It ends with the process.
        static SERVER: OnceLock<Arc<Throwaway>> = OnceLock::new();
        let kept = directory.path().join("database");
        let url = std::fs::read_to_string(&kept).unwrap_or_else(|_| {
            let url = apart(|| SERVER.get_or_init(server).database().unwrap());
            // A restart finds the same file.
            std::fs::write(&kept, &url).unwrap();
            url
        });
        url.parse().unwrap()
    }

    pub(crate) fn config(directory: &TempDir) -> Config {
        let policy = directory.path().join("policy.yaml");
        let audit_key = Some(directory.path().join("audit-key"));
        let listen = "127.0.0.1:0".parse().unwrap();
        Config { audit_key, ..Config::new(listen, Bench::database(directory), policy) }
    }

    pub(crate) fn policy_path(&self) -> PathBuf {
        self.directory.path().join("policy.yaml")
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let secret = if path.starts_with("/filter") {
            &self.credentials.filter_key
        } else {
            &self.credentials.admin_key
        };
        self.client.request(method, format!("http://{}{path}", self.running.address)).bearer_auth(secret)
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let response = self.request(Method::GET, path).send().await.unwrap();
        expect(response, StatusCode::OK).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value, status: StatusCode) -> Value {
        expect(self.request(Method::POST, path).json(&body).send().await.unwrap(), status).await
    }

    /// A credential of an administrator.
    pub(crate) async fn admin(&self, role: &str, tenant_id: Option<&str>) -> (String, String) {
        let body = json!({"name": role, "role": role, "tenant_id": tenant_id});
        let key = self.post("/v1/admin-keys", body, StatusCode::CREATED).await;
        (key["id"].as_str().unwrap().to_owned(), key["secret"].as_str().unwrap().to_owned())
    }

    /// Uses another credential.
    pub(crate) async fn ask_as(&self, secret: &str, method: &Method, path: &str, body: &Value) -> Response {
        let url = format!("http://{}{path}", self.running.address);
        let request = self.client.request(method.clone(), url).bearer_auth(secret);
        let request = if *method == Method::GET { request } else { request.json(body) };
        request.send().await.unwrap()
    }

    pub(crate) async fn tenant(&self, credits: u64) -> String {
        let body = json!({"name": "Acme", "tier": "pro", "credits": credits});
        let tenant = self.post("/v1/tenants", body, StatusCode::CREATED).await;
        tenant["id"].as_str().unwrap().to_owned()
    }

    /// A key's id and secret.
    pub(crate) async fn key(&self, tenant_id: &str) -> (String, String) {
        let body = json!({"tenant_id": tenant_id, "name": "ci", "scopes": ["read", "generate"]});
        let key = self.post("/v1/keys", body, StatusCode::CREATED).await;
        (key["id"].as_str().unwrap().to_owned(), key["secret"].as_str().unwrap().to_owned())
    }

    pub(crate) async fn resolve(&self, secret: &str) -> Response {
        let hash = protocol::api_key::KeyHash::of(secret.as_bytes());
        self.request(Method::POST, "/filter/v1/resolve").json(&json!({"hash": hash})).send().await.unwrap()
    }

    pub(crate) async fn reserve(&self, id: &str, key_id: &str, credits: u64) -> Response {
        let body = reserve_body(id, key_id, credits, 60);
        self.request(Method::POST, "/filter/v1/reserve").json(&body).send().await.unwrap()
    }

    pub(crate) async fn settle(&self, id: &str, action: Value) -> Value {
        let mut settlement = json!({"reservation_id": uuid_of(id)});
        settlement.as_object_mut().unwrap().extend(action.as_object().unwrap().clone());
        let body = json!({"batch_id": new_uuid(), "envoy": "e1", "settlements": [settlement]});
        self.post("/filter/v1/report", body, StatusCode::OK).await
    }

    pub(crate) async fn balance(&self, tenant_id: &str) -> [u64; 4] {
        let balance = self.get(&format!("/v1/tenants/{tenant_id}/balance")).await;
        ["granted", "available", "pending", "posted"].map(|name| balance[name].as_u64().unwrap())
    }
}

/// The UUID that stands for a name such as `r1`, whose bytes it holds; a UUID stands for itself. In the order of the names.
pub(crate) fn uuid_of(name: &str) -> String {
    if Uuid::parse_str(name).is_ok() {
        return name.to_owned();
    }
    let mut bytes = [0; 16];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    Uuid::from_bytes(bytes).to_string()
}

/// A new UUID.
pub(crate) fn new_uuid() -> String {
    Uuid::now_v7().to_string()
}

pub(crate) fn reserve_body(id: &str, key_id: &str, credits: u64, ttl_seconds: u32) -> Value {
    json!({
        "reservation_id": uuid_of(id), "key_id": key_id, "service": "studio", "tool": "image_generate",
        "credits": credits, "ttl_seconds": ttl_seconds, "policy_version": "v1",
    })
}

/// A report of decisions.
pub(crate) fn report_body(batch_id: &str, decisions: impl IntoIterator<Item = Value>) -> Value {
    let decisions =
        decisions.into_iter().map(|decision| serde_json::from_value::<Decision>(decision).unwrap());
    let Packed { subjects, rows } = decisions.collect();
    json!({"batch_id": uuid_of(batch_id), "envoy": "e1", "subjects": subjects, "rows": rows})
}

/// The pause between two polls: without it a fast machine reaches the rate limit of one credential.
pub(crate) async fn pace() {
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
}

/// The JSON of an answer that must have this status.
pub(crate) async fn expect(response: Response, status: StatusCode) -> Value {
    let found = response.status();
    let text = response.text().await.unwrap();
    assert_eq!(found, status, "{text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The stable code of a problem document.
pub(crate) fn code(problem: &Value) -> &str {
    problem["type"].as_str().unwrap().strip_prefix("urn:agentrelay:problem:").unwrap()
}

/// Runs so many random cases. A failure prints the seed, and the variable that repeats the run with it.
pub(crate) fn seeded<S: Strategy>(
    variable: &str,
    cases: u32,
    strategy: &S,
    judge: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let seed = std::env::var(variable).map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed),
        ..ProptestConfig::default()
    };
    TestRunner::new(config)
        .run(strategy, judge)
        .unwrap_or_else(|failure| panic!("{failure}\nto repeat: {variable}={seed}"));
}
