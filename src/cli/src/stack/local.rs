//! The stack: one ledger, its credentials, and Envoys in front of one upstream.

use super::{Credentials, Envoy, EnvoyBinary, EnvoyOptions, Error, Filter, Ledger, LedgerOptions, Upstreams};
use serde::Serialize;
use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often to check that all parts still run.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// The options of a stack.
pub struct StackOptions {
    /// The `agentrelay` binary.
    pub program: PathBuf,
    /// The Envoy binary.
    pub envoy: EnvoyBinary,
    /// The filter.
    pub filter: Filter,
    /// The policy file.
    pub policy: PathBuf,
    /// The upstreams.
    pub upstream: Upstreams,
    /// How many Envoys.
    pub envoys: u16,
    /// Worker threads of each Envoy.
    pub workers: u32,
    /// The port of the first gate; the next Envoy gets the next port. 0 selects free ports.
    pub port: u16,
    /// The database; by default a SQLite file in the state directory.
    pub database: Option<String>,
    /// The directory for keys, database, configurations and logs; created if it is missing.
    pub state_dir: PathBuf,
}

/// A running stack. Dropping it kills its processes.
pub struct Stack {
    /// The ledger.
    pub ledger: Ledger,
    /// The Envoys, by port.
    pub envoys: Vec<Envoy>,
    /// The credentials to the ledger.
    pub credentials: Credentials,
    /// The upstreams, and whether they answered when all else was ready.
    pub upstreams: Vec<Answering>,
    state_dir: PathBuf,
}

/// An upstream, and whether it answers.
#[derive(Debug, Clone, Serialize)]
pub struct Answering {
    /// The service whose requests go there; none if it is for all that have no other.
    pub service: Option<String>,
    /// Base URL.
    pub url: String,
    /// Whether it answered.
    pub answers: bool,
    /// Why it did not.
    pub cause: Option<String>,
}

/// What programs need to know about a running stack: the content of the ready file.
#[derive(Serialize)]
pub struct Ready<'a> {
    /// Base URLs of the gates, one per Envoy.
    pub gateways: Vec<String>,
    /// Base URLs of the Envoys' admin interfaces.
    pub envoy_admins: Vec<String>,
    /// Base URL of the ledger.
    pub ledger: String,
    /// The key for the ledger's admin API.
    pub admin_key: &'a str,
    /// The state directory.
    pub state: &'a Path,
    /// The upstreams.
    pub upstreams: &'a [Answering],
    /// Process ids.
    pub pids: Pids,
}

/// The processes of a stack.
#[derive(Serialize)]
pub struct Pids {
    /// The process that started the others; stop it to stop all.
    pub stack: u32,
    /// The ledger.
    pub ledger: u32,
    /// The Envoys, or their func-e processes.
    pub envoys: Vec<u32>,
}

/// The port of the gate with this index; 0 for a free one.
fn gate_port(first: u16, index: u16) -> Result<u16, Error> {
    let port = if first == 0 { Some(0) } else { first.checked_add(index) };
    port.ok_or_else(|| {
        Error::Setup(format!(
            "--port {first} leaves no port for gate {}; begin lower",
            index.saturating_add(1)
        ))
    })
}

/// Refuses a port on which somebody listens, before anything starts.
fn check_free(port: u16) -> Result<(), Error> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(()),
        Err(cause) if cause.kind() == ErrorKind::AddrInUse => Err(Error::Setup(format!(
            "port {port} is in use, perhaps by another `agentrelay up`: stop that one, or give another --port (0 selects a free \
             one)"
        ))),
        Err(cause) => Err(Error::Setup(format!("the gate can't listen on port {port}: {cause}"))),
    }
}

/// Asks each upstream for anything. One that does not answer may still come.
async fn ask(upstreams: &Upstreams) -> Result<Vec<Answering>, Error> {
    let http = super::http_client()?;
    let routes = upstreams
        .routes
        .iter()
        .map(|route| (Some(route.service.clone()), &route.upstream, route.path.as_str()));
    let default = upstreams.default.iter().map(|upstream| (None, upstream, "/"));
    let mut asked = Vec::new();
    for (service, upstream, path) in routes.chain(default) {
        let cause = upstream.answers(&http, path).await.err();
        asked.push(Answering { service, url: upstream.to_string(), answers: cause.is_none(), cause });
    }
    Ok(asked)
}

impl Stack {
    /// Starts everything, and returns when every gate serves. Calls `say` for each step.
    pub async fn start(options: StackOptions, mut say: impl FnMut(&str)) -> Result<Stack, Error> {
        let state = &options.state_dir;
        fs::create_dir_all(state).map_err(Error::file(state))?;
        let state_dir = fs::canonicalize(state).map_err(Error::file(state))?;
        let database =
            options.database.unwrap_or_else(|| format!("sqlite:{}", state_dir.join("ledger.db").display()));
        let ports =
            (0..options.envoys).map(|index| gate_port(options.port, index)).collect::<Result<Vec<_>, _>>()?;
        ports.iter().try_for_each(|port| check_free(*port))?;
        let credentials = Credentials::open(&options.program, &database, &state_dir)?;

        say("starting the ledger");
        let ledger = Ledger::start(LedgerOptions {
            program: options.program,
            database,
            policy: options.policy,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            state_dir: state_dir.clone(),
            name: "ledger".into(),
        })
        .await?;

        let mut envoys = Vec::new();
        for (index, port) in (1..).zip(ports) {
            let name = format!("envoy-{index}");
            say(&format!("starting {name}"));
            let envoy = Envoy::start(EnvoyOptions {
                envoy: options.envoy.clone(),
                filter: options.filter.clone(),
                ledger: ledger.address,
                upstream: options.upstream.clone(),
                filter_key: credentials.filter_key.clone(),
                workers: options.workers,
                state_dir: state_dir.clone(),
                name,
                port,
                edit: None,
            });
            // Somebody may have taken the port since it was found free. Then this says so, and not the end of a log.
            envoys.push(envoy.await.or_else(|error| check_free(port).and(Err(error)))?);
        }
        if let Some(first) = envoys.first() {
            let file = state_dir.join("gate.address");
            fs::write(&file, first.gateway.to_string()).map_err(Error::file(&file))?;
        }
        let upstreams = ask(&options.upstream).await?;
        Ok(Stack { ledger, envoys, credentials, upstreams, state_dir })
    }

    /// What programs need to know about it.
    pub fn ready(&self) -> Ready<'_> {
        Ready {
            gateways: self.envoys.iter().map(Envoy::url).collect(),
            envoy_admins: self.envoys.iter().map(Envoy::admin_url).collect(),
            ledger: self.ledger.url(),
            admin_key: &self.credentials.admin_key,
            state: &self.state_dir,
            upstreams: &self.upstreams,
            pids: Pids {
                stack: std::process::id(),
                ledger: self.ledger.pid(),
                envoys: self.envoys.iter().map(Envoy::pid).collect(),
            },
        }
    }

    /// Returns only when a part ends unexpectedly.
    pub async fn watch(&mut self) -> Error {
        loop {
            let checked = self.envoys.iter_mut().map(Envoy::check).chain([self.ledger.check()]).collect();
            if let Result::<(), Error>::Err(error) = checked {
                return error;
            }
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
    }

    /// Stops the gates, which still have to report, and then the ledger.
    pub async fn stop(self) {
        for envoy in self.envoys {
            envoy.stop().await;
        }
        self.ledger.stop().await;
    }
}
