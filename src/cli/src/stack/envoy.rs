//! One Envoy with the filter: starts it with the shipped configuration and waits until it has a policy.

use super::bootstrap::{self, Settings};
use super::process::Process;
use super::{EnvoyBinary, Error, Filter, Upstreams};
use serde_json::Value as Json;
use serde_yaml_ng::Value as Yaml;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A large filter takes a few seconds to compile on a busy machine.
const READY_DEADLINE: Duration = Duration::from_secs(120);
/// Envoy exits on SIGTERM without draining, so only a hanging Envoy takes this long.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How long a stop waits for the filter's last report: longer than the interval between reports.
const REPORT_GRACE: Duration = Duration::from_secs(2);
const REPORT_POLL: Duration = Duration::from_millis(20);
/// Settlements and decisions that the ledger has not acknowledged yet.
const QUEUE_DEPTH: &str = "wasmcustom.agentrelay_queue_depth";
/// How many of the filter's workers have a policy. One without refuses everything.
const POLICY_LOADED: &str = "wasmcustom.agentrelay_policy_loaded";

/// Changes the configuration of one Envoy further, for tests.
pub type Edit = Box<dyn FnOnce(&mut Yaml) + Send>;

/// How to run one Envoy.
pub struct EnvoyOptions {
    /// The Envoy binary.
    pub envoy: EnvoyBinary,
    /// The filter.
    pub filter: Filter,
    /// The ledger's address.
    pub ledger: SocketAddr,
    /// The upstreams.
    pub upstream: Upstreams,
    /// The filter's credential to the ledger, passed only in the environment.
    pub filter_key: String,
    /// Worker threads.
    pub workers: u32,
    /// The directory for its configuration and log.
    pub state_dir: PathBuf,
    /// The node id, and the name of its files.
    pub name: String,
    /// The gate's port on 127.0.0.1; 0 selects a free one.
    pub port: u16,
    /// A last change to the configuration.
    pub edit: Option<Edit>,
}

/// A running Envoy. Dropping it kills it.
pub struct Envoy {
    /// The address of the gate.
    pub gateway: SocketAddr,
    /// The address of Envoy's admin interface.
    pub admin: SocketAddr,
    process: Process,
}

impl Envoy {
    /// Starts it and waits until it serves with a policy.
    pub async fn start(options: EnvoyOptions) -> Result<Envoy, Error> {
        let file = |extension: &str| options.state_dir.join(format!("{}.{extension}", options.name));
        let filter = options.filter.canonical()?;
        let mut bootstrap = bootstrap::render(&Settings {
            node_id: &options.name,
            filter: &filter,
            port: options.port,
            ledger: options.ledger,
            upstream: &options.upstream,
        })?;
        if let Some(edit) = options.edit {
            edit(&mut bootstrap);
        }
        let (configuration, address_file) = (file("yaml"), file("admin"));
        let text = serde_yaml_ng::to_string(&bootstrap).map_err(|error| {
            Error::Setup(format!("the configuration of {} can't be written: {error}", options.name))
        })?;
        fs::write(&configuration, text).map_err(Error::file(&configuration))?;
        remove_if_there(&address_file)?;

        let mut command = options.envoy.command(&options.state_dir);
        command
            .arg("--config-path")
            .arg(&configuration)
            .arg("--admin-address-path")
            .arg(&address_file)
            .arg("--concurrency")
            .arg(options.workers.to_string())
            // Without this, Envoys on one machine share memory.
            .arg("--use-dynamic-base-id")
            .env("AGENTRELAY_FILTER_KEY", &options.filter_key)
            .env("AGENTRELAY_NODE", &options.name)
            .envs(filter.environment());
        let policies = filter.policies(options.workers);
        let mut process = Process::spawn(&options.name, &mut command, &file("log"))?;
        let http = super::http_client()?;
        let (gateway, admin) =
            process.ready(READY_DEADLINE, || probe(&http, &address_file, policies)).await?;
        Ok(Envoy { gateway, admin, process })
    }

    /// Base URL of the gate.
    pub fn url(&self) -> String {
        format!("http://{}", self.gateway)
    }

    /// Base URL of the admin interface.
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }

    /// The node id.
    pub fn name(&self) -> &str {
        self.process.name()
    }

    /// Process id of Envoy, or of func-e which runs it.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The log of Envoy's stdout and stderr: its own log and the access log.
    pub fn log(&self) -> &Path {
        self.process.log()
    }

    /// An error if it ended unexpectedly.
    pub fn check(&mut self) -> Result<(), Error> {
        self.process.check()
    }

    /// Stops it after the filter has reported all ended calls to the ledger.
    pub async fn stop(self) {
        let started = Instant::now();
        while started.elapsed() < REPORT_GRACE && self.stat(QUEUE_DEPTH).await.is_some_and(|depth| depth > 0)
        {
            tokio::time::sleep(REPORT_POLL).await;
        }
        self.process.stop(STOP_GRACE).await;
    }

    /// A counter or gauge; `None` if it does not exist or Envoy does not answer.
    pub async fn stat(&self, name: &str) -> Option<u64> {
        stat(&super::http_client().ok()?, self.admin, name).await.ok().flatten()
    }
}

fn remove_if_there(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file(path)(error)),
        _ => Ok(()),
    }
}

/// The addresses of the gate and the admin interface once Envoy is live and has a policy; otherwise what is missing.
async fn probe(
    http: &reqwest::Client,
    address_file: &Path,
    policies: u32,
) -> Result<(SocketAddr, SocketAddr), String> {
    let admin: SocketAddr = fs::read_to_string(address_file)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .ok_or("its admin interface is not listening yet")?;
    if ask(http, admin, "/ready").await?.trim() != "LIVE" {
        return Err("it is still starting".into());
    }
    let gateway = gate_address(&ask(http, admin, "/listeners?format=json").await?)
        .ok_or("the gate is not listening yet")?;
    if stat(http, admin, POLICY_LOADED).await?.unwrap_or(0) < u64::from(policies) {
        return Err("the filter has no policy from the ledger yet".into());
    }
    Ok((gateway, admin))
}

async fn ask(http: &reqwest::Client, admin: SocketAddr, path: &str) -> Result<String, String> {
    let answer = http.get(format!("http://{admin}{path}")).send().await.map_err(|error| error.to_string())?;
    answer.text().await.map_err(|error| error.to_string())
}

async fn stat(http: &reqwest::Client, admin: SocketAddr, name: &str) -> Result<Option<u64>, String> {
    let stats = ask(http, admin, &format!("/stats?filter=^{name}$")).await?;
    let value = stats.trim().strip_prefix(name).and_then(|rest| rest.strip_prefix(": "));
    Ok(value.and_then(|value| value.parse().ok()))
}

/// The address of the listener `gate` in the admin's list.
fn gate_address(listeners: &str) -> Option<SocketAddr> {
    let listeners: Json = serde_json::from_str(listeners).ok()?;
    let gate = listeners
        .get("listener_statuses")?
        .as_array()?
        .iter()
        .find(|listener| listener.get("name").and_then(Json::as_str) == Some("gate"))?;
    let socket = gate.get("local_address")?.get("socket_address")?;
    let port = u16::try_from(socket.get("port_value")?.as_u64()?).ok()?;
    Some(SocketAddr::new(socket.get("address")?.as_str()?.parse().ok()?, port))
}
