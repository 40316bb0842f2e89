//! One Envoy: the shipped configuration, with the shipped filter or with an alternative in its place.

use crate::load;
use crate::process::{Cores, Running, cpu_ns, rss_kib, tied};
use anyhow::{Context, bail};
use cli::stack::bootstrap::{SHIPPED, SHIPPED_NATIVE, field};
use cli::stack::{EnvoyBinary, Filter};
use serde_json::Value as Json;
use serde_yaml_ng::{Mapping, Value};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MANAGER: &str = "static_resources/listeners/gate/filter_chains/0/filters/\
    envoy.filters.network.http_connection_manager/typed_config";
/// The filter reports every 100 ms.
const SETTLED_AFTER: Duration = Duration::from_millis(150);
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// The number of VMs of the filter that have loaded a policy: one per worker, and the main thread's.
const POLICY_LOADED: &str = "wasmcustom.agentrelay_policy_loaded";
/// Settlements and decisions that the ledger has not acknowledged.
const QUEUE_DEPTH: &str = "wasmcustom.agentrelay_queue_depth";

/// What filters the requests between client and upstream.
pub enum Filters {
    /// Only the router.
    Bare,
    /// Envoy's own filters, or an empty filter on the SDK.
    Other(Box<Other>),
    /// AgentRelay.
    AgentRelay {
        /// In which host it runs.
        filter: Filter,
        /// Where the ledger listens.
        ledger: SocketAddr,
        /// The filter's credential.
        filter_key: String,
    },
}

/// A file of `gates/` with its placeholders filled.
#[derive(serde::Deserialize)]
pub struct Other {
    filters: Vec<Value>,
    #[serde(default)]
    rate_limits: Option<Value>,
    clusters: Vec<Value>,
}

impl Other {
    /// Reads a file; `values` replace their placeholders.
    pub fn read(text: &str, values: &[(&str, &str)]) -> anyhow::Result<Filters> {
        let text = values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value));
        let mut value: Value = serde_yaml_ng::from_str(&text)?;
        value.apply_merge()?;
        Ok(Filters::Other(Box::new(serde_yaml_ng::from_value(value)?)))
    }

    /// Sets the address of one of its clusters.
    pub fn point(filters: &mut Filters, cluster: &str, address: SocketAddr) -> anyhow::Result<()> {
        let Filters::Other(other) = filters else { bail!("only other gates have clusters of their own") };
        let mut clusters = Value::Sequence(std::mem::take(&mut other.clusters));
        let port =
            format!("{cluster}/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address");
        *field(&mut clusters, &format!("{port}/port_value"))? = address.port().into();
        other.clusters = serde_yaml_ng::from_value(clusters)?;
        Ok(())
    }
}

/// What all Envoys of a run share.
pub struct Site {
    /// The path of Envoy.
    pub envoy: EnvoyBinary,
    /// The directory for files.
    pub directory: PathBuf,
    /// The assignment of cores.
    pub cores: Cores,
    /// The upstream with the tools.
    pub upstream: SocketAddr,
    /// As shipped: every request is a line of JSON.
    pub access_log: bool,
}

/// A running Envoy.
pub struct Gate {
    /// Where clients call.
    pub address: SocketAddr,
    admin: SocketAddr,
    log: PathBuf,
    settles: bool,
    process: Running,
}

impl Gate {
    /// Starts it and waits until it serves, with a policy if it needs one.
    pub async fn start(site: &Site, name: &str, filters: Filters, workers: u32) -> anyhow::Result<Gate> {
        let file = |extension: &str| site.directory.join(format!("{name}.{extension}"));
        let (configuration, admin_file, log) = (file("yaml"), file("admin"), file("log"));
        fs::write(&configuration, serde_yaml_ng::to_string(&configure(site, name, &filters)?)?)?;
        let binary = match &site.envoy {
            // The process that is measured must be Envoy itself.
            EnvoyBinary::Direct(envoy) | EnvoyBinary::FuncE { envoy, .. } => envoy,
        };
        let mut command = tied(binary);
        command.arg("--config-path").arg(&configuration).arg("--admin-address-path").arg(&admin_file);
        command.args(["--use-dynamic-base-id", "--concurrency", &workers.to_string()]);
        let mut machines = 0;
        if let Filters::AgentRelay { filter_key, filter, .. } = &filters {
            command.env("AGENTRELAY_FILTER_KEY", filter_key);
            command.envs(filter.environment());
            machines = u64::from(filter.policies(workers));
        }
        let mut process = site.cores.spawn_envoy(&mut command, &log)?;
        let began = Instant::now();
        loop {
            let missing = match probe(&admin_file, machines).await {
                Ok((address, admin)) => {
                    return Ok(Gate { address, admin, log, settles: machines > 0, process });
                }
                Err(missing) => missing,
            };
            process.check(&log).with_context(|| format!("the Envoy {name}"))?;
            if began.elapsed() > READY_DEADLINE {
                bail!("the Envoy {name} is not ready: {missing:#}; see {}", log.display());
            }
            crate::pause(Duration::from_millis(50)).await;
        }
    }

    /// CPU time so far.
    pub fn cpu_ns(&self) -> anyhow::Result<u64> {
        cpu_ns(self.process.id())
    }

    /// Resident memory.
    pub fn rss_kib(&self) -> anyhow::Result<u64> {
        rss_kib(self.process.id())
    }

    /// The counters and gauges whose names start with this.
    pub async fn stats(&self, prefix: &str) -> anyhow::Result<Vec<(String, u64)>> {
        let text = load::get(self.admin, &format!("/stats?filter=^{prefix}")).await?;
        let pairs = text.lines().filter_map(|line| line.split_once(": "));
        Ok(pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
    }

    /// One counter or gauge; 0 if it does not exist.
    pub async fn stat(&self, name: &str) -> anyhow::Result<u64> {
        let stats = self.stats(name).await?;
        Ok(stats.into_iter().find(|(own, _)| own == name).map_or(0, |(_, value)| value))
    }

    /// CPU time so far, after the ledger has acknowledged every call, so that the later cost of a call is included.
    /// Checking this costs Envoy CPU time too. So it first waits for as long as delivery usually takes, reads the CPU
    /// time, and checks afterwards.
    pub async fn settled_cpu_ns(&self) -> anyhow::Result<u64> {
        if !self.settles {
            return self.cpu_ns();
        }
        let began = Instant::now();
        loop {
            crate::pause(SETTLED_AFTER).await;
            let used = self.cpu_ns()?;
            if self.stat(QUEUE_DEPTH).await? == 0 {
                return Ok(used);
            }
            if began.elapsed() > READY_DEADLINE {
                bail!("the ledger was not told of all calls within {} s", READY_DEADLINE.as_secs());
            }
        }
    }

    /// Empties the access log, which would otherwise fill the disk during a run.
    pub fn truncate_log(&self) -> anyhow::Result<()> {
        Ok(File::options().write(true).open(&self.log)?.set_len(0)?)
    }
}

/// `envoy/envoy.yaml` with other addresses and, except for AgentRelay, other filters.
fn configure(site: &Site, name: &str, filters: &Filters) -> anyhow::Result<Value> {
    let shipped = match filters {
        Filters::AgentRelay { filter: Filter::Native(_), .. } => SHIPPED_NATIVE,
        _ => SHIPPED,
    };
    let mut tree: Value = serde_yaml_ng::from_str(shipped)?;
    *field(&mut tree, "node/id")? = name.into();
    *field(&mut tree, "admin/address/socket_address/port_value")? = 0.into();
    *field(&mut tree, "static_resources/listeners/gate/address/socket_address/port_value")? = 0.into();
    place(&mut tree, "upstream", site.upstream)?;
    if !site.access_log {
        remove(field(&mut tree, MANAGER)?, "access_log");
    }
    match filters {
        Filters::AgentRelay { filter, ledger, .. } => {
            place(&mut tree, "agentrelay_ledger", *ledger)?;
            let code = format!(
                "{MANAGER}/http_filters/agentrelay/typed_config/config/vm_config/code/local/filename"
            );
            if let Filter::Wasm(wasm) = filter {
                *field(&mut tree, &code)? = wasm.to_string_lossy().as_ref().into();
            }
        }
        Filters::Bare => replace(&mut tree, &[], &[], None)?,
        Filters::Other(other) => {
            replace(&mut tree, &other.filters, &other.clusters, other.rate_limits.as_ref())?;
        }
    }
    Ok(tree)
}

/// Puts other filters in front of the router, and their clusters beside the upstream.
fn replace(
    tree: &mut Value,
    filters: &[Value],
    clusters: &[Value],
    limits: Option<&Value>,
) -> anyhow::Result<()> {
    let is_router =
        |filter: &Value| filter.get("name").and_then(Value::as_str) == Some("envoy.filters.http.router");
    if let Value::Sequence(chain) = field(tree, &format!("{MANAGER}/http_filters"))? {
        chain.retain(is_router);
        chain.splice(0..0, filters.iter().cloned());
    }
    if let Value::Sequence(own) = field(tree, "static_resources/clusters")? {
        own.retain(|cluster| cluster.get("name").and_then(Value::as_str) == Some("upstream"));
        own.extend(clusters.iter().cloned());
    }
    if let Some(limits) = limits {
        let route = field(tree, &format!("{MANAGER}/route_config/virtual_hosts/tools/routes/0/route"))?;
        if let Value::Mapping(route) = route {
            route.insert("rate_limits".into(), limits.clone());
        }
    }
    Ok(())
}

fn place(tree: &mut Value, cluster: &str, address: SocketAddr) -> anyhow::Result<()> {
    let socket = format!(
        "static_resources/clusters/{cluster}/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address"
    );
    *field(tree, &format!("{socket}/address"))? = address.ip().to_string().into();
    *field(tree, &format!("{socket}/port_value"))? = address.port().into();
    Ok(())
}

fn remove(tree: &mut Value, name: &str) {
    let mapping: Option<&mut Mapping> = tree.as_mapping_mut();
    mapping.map(|mapping| mapping.remove(name));
}

/// The addresses of the gate and of the admin interface, once it serves.
async fn probe(admin_file: &Path, machines: u64) -> anyhow::Result<(SocketAddr, SocketAddr)> {
    let admin: SocketAddr = fs::read_to_string(admin_file)?.trim().parse()?;
    load::get(admin, "/ready").await?;
    let listeners: Json = serde_json::from_str(&load::get(admin, "/listeners?format=json").await?)?;
    let named = |listener: &&Json| listener["name"] == "gate";
    let listener = listeners["listener_statuses"].as_array().and_then(|all| all.iter().find(named));
    let socket = &listener.context("the gate does not listen")?["local_address"]["socket_address"];
    let port = u16::try_from(socket["port_value"].as_u64().context("no port")?)?;
    let address = SocketAddr::new(socket["address"].as_str().context("no address")?.parse()?, port);
    let loaded = load::get(admin, &format!("/stats?filter=^{POLICY_LOADED}$")).await?;
    let loaded = loaded.trim().rsplit(": ").next().and_then(|count| count.parse().ok()).unwrap_or(0);
    if loaded < machines {
        bail!("{loaded} of {machines} filters have a policy");
    }
    Ok((address, admin))
}
