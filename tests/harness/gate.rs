//! A running gate: ledger, Envoy with the real filter and the shipped configuration, and an upstream behind it.
//!
//! Tests that do not disturb each other share one ([`Gate::shared`]) and create their own tenants and keys there. A
//! test that kills something, changes the policy, or counts everything starts its own.

use crate::agent::{Agent, NewKey};
use crate::clock::{self, eventually};
use crate::files;
use crate::http1::Request;
use crate::mcp;
use crate::reaper::Reaper;
use crate::relay::Relay;
use crate::stats;
use crate::upstream::Upstream;
use cli::stack::{
    Credentials, Edit, Envoy, EnvoyBinary, EnvoyOptions, Filter, Ledger, LedgerOptions, bootstrap,
};
use client::{AuditQuery, Client};
use protocol::admin::{AuditRow, Balance, CreateTenant, Reason};
use protocol::audit::Outcome;
use protocol::{Credits, TenantId};
use serde_json::Value;
use serde_yaml_ng::Value as Yaml;
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::{OnceCell, Semaphore};

/// Taken while a gate starts, because each one compiles the filter on the same two cores.
static STARTING: Semaphore = Semaphore::const_new(2);
static SHARED: OnceCell<Gate> = OnceCell::const_new();

/// The filter's configuration in Envoy's.
const FILTER: &str = "static_resources/listeners/gate/filter_chains/0/filters/\
    envoy.filters.network.http_connection_manager/typed_config/http_filters/agentrelay/typed_config";
/// How long an Envoy of tests waits for the ledger. The shipped two seconds can pass on a machine that stalls.
const LEDGER_TIMEOUT_MS: u32 = 15_000;

/// Lets an Envoy wait longer for the ledger than the shipped configuration does.
pub fn with_long_ledger_timeout(bootstrap: &mut Yaml) {
    let path = match files::filter() {
        Filter::Wasm(_) => format!("{FILTER}/config/configuration/value"),
        Filter::Native(_) => format!("{FILTER}/filter_config/value"),
    };
    let value = bootstrap::field(bootstrap, &path).expect("the shipped file configures the filter");
    let text = value.as_str().expect("the filter is configured by a string");
    let mut configuration: Value = serde_json::from_str(text).expect("the filter is configured by JSON");
    configuration["ledger_timeout_ms"] = LEDGER_TIMEOUT_MS.into();
    *value = configuration.to_string().into();
}

/// Options of a gate that differ from the defaults.
#[derive(Default)]
pub struct GateOptions {
    policy: Option<Edit>,
    envoy: Option<Edit>,
    workers: Option<u32>,
    upstream: Option<String>,
    database: Option<String>,
    relay: bool,
    shipped_timeout: bool,
}

impl GateOptions {
    /// Changes the shipped policy.
    pub fn policy(mut self, edit: impl FnOnce(&mut Yaml) + Send + 'static) -> GateOptions {
        self.policy = Some(Box::new(edit));
        self
    }

    /// Changes Envoy's configuration.
    pub fn envoy(mut self, edit: impl FnOnce(&mut Yaml) + Send + 'static) -> GateOptions {
        self.envoy = Some(Box::new(edit));
        self
    }

    /// Worker threads of Envoy; the default is 2.
    pub fn workers(mut self, workers: u32) -> GateOptions {
        self.workers = Some(workers);
        self
    }

    /// Another upstream than the recording one.
    pub fn upstream(mut self, url: impl Into<String>) -> GateOptions {
        self.upstream = Some(url.into());
        self
    }

    /// Another database than a file of its own.
    pub fn database(mut self, url: impl Into<String>) -> GateOptions {
        self.database = Some(url.into());
        self
    }

    /// Puts a [`Relay`] between Envoy and the ledger.
    pub fn relay(mut self) -> GateOptions {
        self.relay = true;
        self
    }

    /// Keeps the shipped timeout of ledger calls, for a test of a ledger that hangs.
    pub fn shipped_timeout(mut self) -> GateOptions {
        self.shipped_timeout = true;
        self
    }

    /// Starts it, on a thread that lives as long as the process: Envoy asks the kernel for SIGTERM when the thread that
    /// started it ends, and a test's own thread ends with the test.
    pub async fn start(self) -> Gate {
        clock::spawn(self.start_here())
            .await
            .unwrap_or_else(|failure| std::panic::resume_unwind(failure.into_panic()))
    }

    async fn start_here(self) -> Gate {
        let _starting = STARTING.acquire().await.expect("the semaphore is never closed");
        let directory = files::gate_directory();
        let policy = match self.policy {
            None => files::shipped_policy(),
            Some(edit) => {
                let mut policy = crate::policy::shipped();
                edit(&mut policy);
                write_policy(&directory.join("policy.yaml"), &policy)
            }
        };
        let program = files::program();
        let embedded = || format!("sqlite:{}", directory.join("ledger.db").display());
        let database = self.database.unwrap_or_else(embedded);
        let credentials = {
            let (program, database, directory) = (program.clone(), database.clone(), directory.clone());
            let open = move || Credentials::open(&program, &database, &directory);
            tokio::task::spawn_blocking(open).await.expect("opening does not panic")
        };
        let credentials = credentials.unwrap_or_else(|error| panic!("init: {error}"));
        let mut reaper = Reaper::start();
        let ledger = Ledger::start(LedgerOptions {
            program,
            database,
            policy: policy.clone(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            state_dir: directory.clone(),
            name: "ledger".into(),
        })
        .await
        .unwrap_or_else(|error| panic!("the ledger: {error}"));
        reaper.watch(ledger.pid());
        let relay = if self.relay { Some(Relay::start(ledger.address).await) } else { None };
        let upstream = Upstream::start().await;
        let url = self.upstream.unwrap_or_else(|| upstream.url());
        let workers = self.workers.unwrap_or(2);
        let behind = Backend {
            ledger: relay.as_ref().map_or(ledger.address, |relay| relay.address),
            upstream: url,
            filter_key: credentials.filter_key.clone(),
            workers,
            directory: directory.clone(),
            shipped_timeout: self.shipped_timeout,
        };
        let envoy = behind.envoy("envoy", self.envoy).await;
        reaper.watch(envoy.pid());
        let admin = Client::new(&ledger.url(), &credentials.admin_key).expect("the admin key is well formed");
        Gate {
            address: envoy.gateway,
            ledger_address: ledger.address,
            upstream,
            relay,
            admin,
            policy,
            envoy,
            siblings: Vec::new(),
            behind,
            ledger: Some(ledger),
            to_restart: None,
            credentials,
            reaper,
            directory: Directory(directory),
        }
    }
}

/// What Envoy connects to.
struct Backend {
    ledger: SocketAddr,
    upstream: String,
    filter_key: String,
    workers: u32,
    directory: PathBuf,
    shipped_timeout: bool,
}

impl Backend {
    async fn envoy(&self, name: &str, edit: Option<Edit>) -> Envoy {
        let locate = || EnvoyBinary::locate(&files::environment());
        let binary = tokio::task::spawn_blocking(locate).await.expect("locating does not panic");
        let shipped_timeout = self.shipped_timeout;
        let edit: Edit = Box::new(move |bootstrap| {
            if !shipped_timeout {
                with_long_ledger_timeout(bootstrap);
            }
            if let Some(edit) = edit {
                edit(bootstrap);
            }
        });
        let options = EnvoyOptions {
            envoy: binary.unwrap_or_else(|error| panic!("{error}")),
            filter: files::filter(),
            ledger: self.ledger,
            upstream: self.upstream.parse().unwrap_or_else(|error| panic!("{error}")),
            filter_key: self.filter_key.clone(),
            workers: self.workers,
            state_dir: self.directory.clone(),
            name: name.to_owned(),
            port: 0,
            edit: Some(edit),
        };
        // On a thread that lives as long as the process, see [`GateOptions::start`].
        let started = clock::spawn(Envoy::start(options)).await.expect("starting does not panic");
        started.unwrap_or_else(|error| panic!("Envoy: {error}"))
    }
}

fn write_policy(path: &Path, policy: &Yaml) -> PathBuf {
    let text = serde_yaml_ng::to_string(policy).expect("a policy can be written");
    // Renamed into place: the ledger watches the file and must not read half of it.
    let unfinished = path.with_extension("new");
    fs::write(&unfinished, text).expect("the gate's directory can be written");
    fs::rename(&unfinished, path).expect("the gate's directory can be written");
    path.to_owned()
}

/// A running gate. Dropping it ends its processes.
pub struct Gate {
    /// The address that agents call.
    pub address: SocketAddr,
    /// The address of the ledger.
    pub ledger_address: SocketAddr,
    /// The upstream.
    pub upstream: Upstream,
    relay: Option<Relay>,
    /// The ledger's admin API.
    pub admin: Client,
    /// The policy file.
    pub policy: PathBuf,
    /// The Envoy.
    pub envoy: Envoy,
    /// The Envoys that [`Gate::another_envoy`] started.
    pub siblings: Vec<Envoy>,
    behind: Backend,
    ledger: Option<Ledger>,
    to_restart: Option<LedgerOptions>,
    credentials: Credentials,
    reaper: Reaper,
    directory: Directory,
}

/// Removed with the gate, unless a test failed. It comes after the processes that write to it, because fields drop in
/// order.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        if !std::thread::panicking() && !files::is_kept() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

impl Gate {
    /// The default gate, with changes by options.
    pub fn options() -> GateOptions {
        GateOptions::default()
    }

    /// The gate that tests share: shipped policy, shipped configuration, two workers.
    pub async fn shared() -> &'static Gate {
        SHARED.get_or_init(|| Gate::options().start()).await
    }

    /// Starts another Envoy with the same ledger and upstream. Returns the address that agents call.
    pub async fn another_envoy(&mut self) -> SocketAddr {
        let name = format!("envoy-{}", self.siblings.len() + 2);
        let envoy = self.behind.envoy(&name, None).await;
        self.reaper.watch(envoy.pid());
        let address = envoy.gateway;
        self.siblings.push(envoy);
        address
    }

    /// A tenant of this tier with 1000 credits, and a key with the scopes `read` and `generate`.
    pub async fn agent(&self, tier: &str) -> Agent {
        self.agent_with(tier, 1000, NewKey::default()).await
    }

    /// A tenant and a key.
    pub async fn agent_with(&self, tier: &str, credits: u64, key: NewKey) -> Agent {
        let tenant = CreateTenant {
            name: format!("{tier} test"),
            tier: tier.to_owned(),
            credits: Some(Credits::new(credits).expect("credits fit")).filter(|credits| !credits.is_zero()),
            budget: None,
        };
        let tenant = self.admin.create_tenant(&tenant).await.expect("a tenant can be made");
        self.key(&tenant.id, key).await
    }

    /// Makes every worker of every Envoy cache a key, so that no more lookups of it are needed.
    pub async fn cache_key(&self, agent: &Agent) {
        self.wait_for_all_changes().await;
        self.call_every_worker(agent).await;
    }

    /// Waits until every worker has applied all changes so far. The creation of a key is reported too, and then workers
    /// drop the key from their caches. The feed is in order, so a worker that refuses a key created and revoked now has
    /// applied all earlier changes.
    async fn wait_for_all_changes(&self) {
        let sentinel = self.agent_with("enterprise", 0, NewKey::default()).await;
        // Workers that have not cached it would look it up, and refuse it without a message from the feed.
        self.call_every_worker(&sentinel).await;
        let revocation = Reason { reason: "test".into() };
        self.admin.revoke_key(&sentinel.key, &revocation).await.expect("a key can be revoked");
        for gate in self.gates() {
            refused_by_all(&Agent { gate, ..sentinel.clone() }).await;
        }
    }

    /// Calls each Envoy so often that nearly every worker gets a call: connections are assigned to workers at random.
    async fn call_every_worker(&self, agent: &Agent) {
        let at = |gate| Agent { gate, ..agent.clone() };
        let callers = self.gates().into_iter().flat_map(|gate| vec![at(gate); 20]);
        let answers = at_once(callers.map(|caller| caller.owned_call(mcp::search()))).await;
        assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    }

    /// The addresses of all Envoys.
    fn gates(&self) -> Vec<SocketAddr> {
        let siblings = self.siblings.iter().map(|envoy| envoy.gateway);
        std::iter::once(self.address).chain(siblings).collect()
    }

    /// One more key of a tenant.
    pub async fn key(&self, tenant: &TenantId, key: NewKey) -> Agent {
        // Tests name services and tools of policies that come later.
        let made =
            self.admin.allowing_unknown().create_key(&key.body(tenant)).await.expect("a key can be made");
        Agent { gate: self.address, tenant: tenant.clone(), key: made.key.id, secret: made.secret }
    }

    /// The balance of a tenant, whose invariant must hold at any moment.
    pub async fn balance(&self, agent: &Agent) -> Balance {
        let balance = self.admin.balance(&agent.tenant).await.expect("a balance can be read");
        let sum = balance.available.get() + balance.pending.get() + balance.posted.get();
        assert_eq!(balance.granted.get(), sum, "granted = available + pending + posted: {balance:?}");
        balance
    }

    /// The balance of a tenant after nothing is pending any more.
    pub async fn settled(&self, agent: &Agent) -> Balance {
        eventually("all reservations are settled", async || {
            let balance = self.balance(agent).await;
            if balance.pending.is_zero() { Ok(balance) } else { Err(format!("{balance:?}")) }
        })
        .await
    }

    /// Everything about a tenant in the audit trail.
    pub async fn audit(&self, agent: &Agent) -> Vec<AuditRow<Value>> {
        let query = AuditQuery { tenant_id: Some(agent.tenant.clone()), ..AuditQuery::default() };
        let mut rows = Vec::new();
        let mut cursor = None;
        loop {
            let page =
                self.admin.audit(&query, cursor.as_deref()).await.expect("the audit trail can be read");
            rows.extend(page.items);
            match page.next_cursor {
                Some(next) => cursor = Some(next),
                None => return rows,
            }
        }
    }

    /// The decisions on a tenant's requests with this outcome, when there are `count` of them.
    pub async fn decisions(&self, agent: &Agent, outcome: Outcome, count: usize) -> Vec<Value> {
        let is_wanted = |row: &AuditRow<Value>| row.kind == "decision" && row.outcome == Some(outcome);
        eventually(&format!("{count} decisions `{outcome}` are in the audit trail"), async || {
            let rows = self.audit(agent).await;
            let wanted: Vec<Value> =
                rows.iter().filter(|row| is_wanted(row)).map(|row| row.detail.clone()).collect();
            if wanted.len() == count { Ok(wanted) } else { Err(seen(&rows)) }
        })
        .await
    }

    /// Asserts that the gate serves a valid request and that none of its processes has ended.
    #[track_caller]
    pub fn assert_serving<'a>(&'a self, agent: &'a Agent) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let response = agent.call(&mcp::search()).await;
            assert_eq!(response.status, 200, "after {caller}: {response:?}");
            self.upstream.the_one(&response.marker);
            self.assert_healthy().await;
        }
    }

    /// Asserts that no VM of the filter has failed.
    pub async fn assert_healthy(&self) {
        for (name, value) in stats::envoy(self.envoy.admin, "vm_reload").await {
            assert_eq!(value, 0, "{name}: the filter died and was loaded again");
        }
        let log = self.envoy_log();
        for sign in ["panicked", "wasm_fail_stream", "Proxy-Wasm plugin in-VM crash", "assert failure"] {
            assert!(!log.contains(sign), "Envoy's log says {sign:?}");
        }
    }

    /// Envoy's own log and its access log so far.
    pub fn envoy_log(&self) -> String {
        read_log(self.envoy.log())
    }

    /// The ledger's log so far.
    pub fn ledger_log(&self) -> String {
        read_log(&self.directory.0.join("ledger.log"))
    }

    /// The access log line of the request with this id.
    pub async fn access_log(&self, is_wanted: impl Fn(&Value) -> bool) -> Value {
        eventually("the access log has the request", async || {
            let log = self.envoy_log();
            let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.find(|line| is_wanted(line)).ok_or_else(|| "no such line".to_owned())
        })
        .await
    }

    /// How often the ledger answered calls of this route, by its own metrics.
    pub async fn ledger_calls(&self, route: &str) -> u64 {
        stats::ledger_requests(self.ledger_address, route).await
    }

    /// One of Envoy's counters and gauges; 0 if it does not exist.
    pub async fn stat(&self, name: &str) -> u64 {
        let found = stats::envoy(self.envoy.admin, name).await;
        found.into_iter().find(|(own, _)| own == name).map_or(0, |(_, value)| value)
    }

    /// The ledger's credentials, which must never appear anywhere.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The directory with its logs.
    pub fn directory(&self) -> &Path {
        &self.directory.0
    }

    /// Replaces the policy file, as an operator would.
    pub fn change_policy(&self, policy: &Yaml) {
        assert_ne!(self.policy, files::shipped_policy(), "start the gate with a policy of its own");
        write_policy(&self.policy, policy);
    }

    /// The relay between Envoy and the ledger.
    pub fn relay(&self) -> &Relay {
        self.relay.as_ref().expect("the gate was started with a relay")
    }

    /// `kill -9` of the ledger.
    pub fn kill_ledger(&mut self) {
        let ledger = self.ledger.take().expect("the ledger runs");
        self.to_restart = Some(ledger.kill());
    }

    /// Starts it again, on the same port, with what it wrote.
    pub async fn restart_ledger(&mut self) {
        let options = self.to_restart.take().expect("the ledger was killed");
        let ledger = clock::spawn(Ledger::start(options)).await.expect("starting does not panic");
        let ledger = ledger.unwrap_or_else(|error| panic!("the ledger again: {error}"));
        self.reaper.watch(ledger.pid());
        self.ledger = Some(ledger);
    }

    /// Stops the ledger's process without ending it: connections stay open and get no answers.
    pub fn pause_ledger(&mut self) {
        self.signal_ledger("STOP");
    }

    /// Resumes it.
    pub fn resume_ledger(&mut self) {
        self.signal_ledger("CONT");
    }

    fn signal_ledger(&self, signal: &str) {
        let id = self.ledger.as_ref().expect("the ledger runs").pid().to_string();
        let status = std::process::Command::new("kill").args(["-s", signal, &id]).status();
        assert!(status.expect("kill can be run").success());
    }

    /// Sends bytes that may not be HTTP and waits a moment for an answer, which may not come.
    pub async fn raw(&self, bytes: &[u8]) -> Option<crate::Response> {
        let mut connection = crate::http1::Connection::open(self.address).await;
        // The gate may close before it has read everything.
        let _ = connection.write(bytes).await;
        tokio::time::timeout(Duration::from_secs(1), connection.response()).await.ok()?.ok()
    }

    /// Asserts that no part of a request reaches the upstream, now or later.
    #[track_caller]
    pub fn assert_unseen(&self, marker: &str) {
        let seen = self.upstream.seen(marker);
        assert!(seen.is_empty(), "reached the upstream: {seen:?}");
    }

    /// A request without a credential.
    pub async fn send(&self, request: Request) -> crate::Response {
        request.send(self.address).await
    }
}

/// Waits until every worker of an Envoy refuses a key. Connections are assigned to workers at random; after this many
/// refusals in a row hardly any worker is left out.
pub async fn refused_by_all(agent: &Agent) {
    let mut refused_in_a_row = 0;
    eventually("every worker refuses the key", async || {
        let answer = agent.call(&mcp::search()).await;
        refused_in_a_row = if answer.status == 401 { refused_in_a_row + 1 } else { 0 };
        if refused_in_a_row >= 12 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
}

/// A summary of a trail.
fn seen(rows: &[AuditRow<Value>]) -> String {
    let mut counts = BTreeMap::<String, usize>::new();
    for row in rows {
        let outcome = row.outcome.map(|outcome| format!(" {outcome}")).unwrap_or_default();
        *counts.entry(format!("{}{outcome}", row.kind)).or_default() += 1;
    }
    format!("{counts:?}")
}

fn read_log(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// Runs many calls at once and returns their responses in the order of the calls.
pub async fn at_once<Answer: Send + 'static>(
    calls: impl IntoIterator<Item = impl Future<Output = Answer> + Send + 'static>,
) -> Vec<Answer> {
    let running: Vec<_> = calls.into_iter().map(tokio::spawn).collect();
    let mut answers = Vec::with_capacity(running.len());
    for call in running {
        let joined = clock::in_time("a parallel call", call).await.unwrap_or_else(|fault| panic!("{fault}"));
        answers.push(joined.expect("a parallel call does not panic"));
    }
    answers
}
