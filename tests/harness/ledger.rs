//! A ledger without a gate: the real `agentrelay serve` in its own directory, on either database, and the calls that
//! filters and operators make.

use crate::agent::NewKey;
use crate::files;
use crate::reaper::Reaper;
use cli::stack::{Credentials, LedgerOptions};
use client::Client;
use protocol::admin::{Balance, CreateTenant, KeyWithSecret};
use protocol::audit::Decision;
use protocol::packed::Packed;
use protocol::uuid::Uuid;
use protocol::{Credits, KeyId, TenantId};
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(1);

/// A directory with a policy and the first credentials of a database, and the processes that serve it.
pub struct Served {
    /// Logs, key files, and the file of an embedded database.
    pub directory: PathBuf,
    /// The URL of the database.
    pub database: String,
    /// The first credentials.
    pub credentials: Credentials,
    /// The processes; an ended one is gone.
    pub ledgers: Vec<Option<cli::stack::Ledger>>,
    addresses: Vec<SocketAddr>,
    reaper: Reaper,
}

/// Where a new embedded database would be.
pub fn embedded(directory: &std::path::Path) -> String {
    format!("sqlite:{}", directory.join("ledger.db").display())
}

/// An empty directory.
pub fn directory(name: &str) -> PathBuf {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let directory = files::process_directory().join(format!("{name}-{number}"));
    fs::create_dir_all(&directory).expect("logs can be written to target");
    directory
}

impl Served {
    /// Initialises the database and starts so many ledgers on it.
    pub async fn start(directory: PathBuf, database: &str, ledgers: usize) -> Served {
        let policy = directory.join("policy.yaml");
        fs::copy(files::shipped_policy(), &policy).expect("the policy can be copied");
        let credentials = Credentials::open(&files::program(), database, &directory)
            .unwrap_or_else(|error| panic!("init: {error}"));
        let mut served = Served {
            directory,
            database: database.to_owned(),
            credentials,
            ledgers: Vec::new(),
            addresses: Vec::new(),
            reaper: Reaper::start(),
        };
        for number in 0..ledgers {
            served.ledgers.push(None);
            served.addresses.push("127.0.0.1:0".parse().expect("an address"));
            served.run(number).await;
        }
        served
    }

    /// Restarts a ledger that has ended, with the same address.
    pub async fn run(&mut self, number: usize) {
        let options = LedgerOptions {
            program: files::program(),
            database: self.database.clone(),
            policy: self.directory.join("policy.yaml"),
            listen: self.addresses[number],
            state_dir: self.directory.clone(),
            name: format!("ledger-{number}"),
        };
        // On a thread that lives as long as the process.
        let started = crate::clock::spawn(cli::stack::Ledger::start(options)).await;
        let ledger = started.expect("no panic").unwrap_or_else(|error| panic!("the ledger: {error}"));
        self.reaper.watch(ledger.pid());
        self.addresses[number] = ledger.address;
        self.ledgers[number] = Some(ledger);
    }

    /// `kill -9`.
    pub fn kill(&mut self, number: usize) {
        self.ledgers[number].take().expect("it runs").kill();
    }

    /// Base URL of one of them.
    pub fn url(&self, number: usize) -> String {
        format!("http://{}", self.addresses[number])
    }

    /// The admin API of the first.
    pub fn admin(&self) -> Client {
        Client::new(&self.url(0), &self.credentials.admin_key).expect("the key is well formed")
    }

    /// The filter API of one ledger.
    pub fn filter(&self, number: usize) -> Filter {
        Filter::new(self.url(number), &self.credentials.filter_key)
    }

    /// A tenant with credits and a key.
    pub async fn payer(&self, credits: u64) -> (TenantId, KeyWithSecret) {
        let admin = self.admin();
        let credits = Some(Credits::new(credits).expect("credits fit"));
        let tenant = CreateTenant { name: "Acme".into(), tier: "pro".into(), credits, budget: None };
        let tenant = admin.create_tenant(&tenant).await.expect("a tenant can be made");
        let key = NewKey::default().body(&tenant.id);
        (tenant.id, admin.create_key(&key).await.expect("a key can be made"))
    }

    /// The balance of a tenant, whose invariant must hold at any moment.
    pub async fn balance(&self, tenant: &TenantId) -> Balance {
        let balance = self.admin().balance(tenant).await.expect("a balance can be read");
        let sum = balance.available.get() + balance.pending.get() + balance.posted.get();
        assert_eq!(balance.granted.get(), sum, "granted = available + pending + posted: {balance:?}");
        balance
    }

    /// Runs `agentrelay` as an operator does, with the address of the first ledger.
    pub fn operator(&self, arguments: &[&str]) -> Output {
        operator(&self.url(0), &self.credentials.admin_key, arguments)
    }

    /// The status of `/readyz`, without a credential.
    pub async fn ready(&self, number: usize) -> u16 {
        self.filter(number).status("/readyz").await
    }

    /// The invariants that the rows violate, checked in the database itself.
    pub async fn broken_laws(&self) -> Vec<String> {
        let database = self.database.parse().expect("a database");
        tokio::task::spawn_blocking(move || ledger::check(&database, None).expect("the rows can be read"))
            .await
            .expect("no panic")
    }
}

/// Runs `agentrelay` as an operator does.
pub fn operator(url: &str, admin_key: &str, arguments: &[&str]) -> Output {
    Command::new(files::program())
        .args(arguments)
        .env("AGENTRELAY_LEDGER", url)
        .env("AGENTRELAY_ADMIN_KEY", admin_key)
        .output()
        .expect("the program can be run")
}

/// The UUID that stands for a name such as `r1`, whose bytes it holds; a UUID stands for itself.
pub fn uuid_of(name: &str) -> Uuid {
    Uuid::parse(name).unwrap_or_else(|| {
        let mut bytes = [0; 16];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Uuid::from_bits(u128::from_be_bytes(bytes))
    })
}

/// Calls a ledger as a filter does.
#[derive(Clone)]
pub struct Filter {
    http: reqwest::Client,
    url: String,
    key: String,
}

impl Filter {
    /// Calls the ledger at this URL with a filter's key.
    pub fn new(url: String, key: &str) -> Filter {
        let http = client::http().no_proxy().timeout(std::time::Duration::from_secs(15)).build();
        Filter { http: http.expect("an HTTP client"), url, key: key.to_owned() }
    }

    /// The status of the answer to a reservation; `None` if there was no answer.
    pub async fn reserve(&self, id: &str, key: &KeyId, credits: u64, ttl_seconds: u32) -> Option<u16> {
        let body = json!({
            "reservation_id": uuid_of(id), "key_id": key, "service": "studio", "tool": "image_generate",
            "credits": credits, "ttl_seconds": ttl_seconds, "policy_version": "v1",
        });
        self.post("/filter/v1/reserve", &body).await
    }

    /// The same for a settlement: `post` of so many credits, or `void`.
    pub async fn settle(&self, id: &str, post: Option<u64>) -> Option<u16> {
        let id = uuid_of(id);
        let settlement = match post {
            Some(credits) => json!({"reservation_id": id, "action": "post", "credits": credits}),
            None => json!({"reservation_id": id, "action": "void"}),
        };
        let batch = json!({"batch_id": id, "envoy": "e1", "settlements": [settlement]});
        self.post("/filter/v1/report", &batch).await
    }

    /// The same for a report of decisions.
    pub async fn report(&self, batch_id: &str, decisions: impl IntoIterator<Item = Value>) -> Option<u16> {
        let decision = |decision| serde_json::from_value::<Decision>(decision).expect("it is a decision");
        let Packed { subjects, rows } = decisions.into_iter().map(decision).collect();
        let batch = json!({"batch_id": uuid_of(batch_id), "envoy": "e1", "subjects": subjects, "rows": rows});
        self.post("/filter/v1/report", &batch).await
    }

    /// The status of the answer to any body.
    pub async fn post(&self, path: &str, body: &Value) -> Option<u16> {
        let request = self.http.post(format!("{}{path}", self.url)).bearer_auth(&self.key).json(body);
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        // An answer counts only when it has arrived completely.
        answer.bytes().await.ok()?;
        Some(status)
    }

    /// The state of the key with that secret; `None` if there was no answer.
    pub async fn resolve(&self, secret: &str) -> Option<String> {
        let body = json!({"hash": protocol::api_key::KeyHash::of(secret.as_bytes())});
        let request =
            self.http.post(format!("{}/filter/v1/resolve", self.url)).bearer_auth(&self.key).json(&body);
        let answer = request.send().await.ok()?.error_for_status().ok()?;
        let record: Value = answer.json().await.ok()?;
        record["state"].as_str().map(str::to_owned)
    }

    /// The status of a page that needs no credential.
    pub async fn status(&self, path: &str) -> u16 {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await;
        answer.map_or(0, |answer| answer.status().as_u16())
    }
}
