//! The ledger as a child process, `agentrelay serve`, which can be killed and restarted on the same port.

use super::Error;
use super::process::Process;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const READY_DEADLINE: Duration = Duration::from_secs(120);
/// How long it may take to answer waiting requests and close its database.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// The options of a ledger.
#[derive(Debug, Clone)]
pub struct LedgerOptions {
    /// The `agentrelay` binary.
    pub program: PathBuf,
    /// An initialised database, such as `sqlite:PATH`.
    pub database: String,
    /// The policy file.
    pub policy: PathBuf,
    /// The address to listen on; port 0 selects a free one.
    pub listen: SocketAddr,
    /// The directory for its log.
    pub state_dir: PathBuf,
    /// The name of its files.
    pub name: String,
}

/// A running ledger. Dropping it kills it.
pub struct Ledger {
    /// The address it listens on.
    pub address: SocketAddr,
    options: LedgerOptions,
    process: Process,
}

impl Ledger {
    /// Starts it and waits until it is ready.
    pub async fn start(options: LedgerOptions) -> Result<Ledger, Error> {
        let file = |extension: &str| options.state_dir.join(format!("{}.{extension}", options.name));
        let address_file = file("address");
        let _ = fs::remove_file(&address_file);
        let mut command = Command::new(&options.program);
        command
            .arg("serve")
            .arg("--database")
            .arg(&options.database)
            .arg("--policy")
            .arg(&options.policy)
            .arg("--listen")
            .arg(options.listen.to_string())
            .arg("--address-file")
            .arg(&address_file);
        if !options.database.starts_with("sqlite:") {
            // The default for a server would be the working directory.
            command.arg("--audit-key").arg(options.state_dir.join("audit-key"));
        }
        let mut process = Process::spawn(&options.name, &mut command, &file("log"))?;
        let http = super::http_client()?;
        let address = process.ready(READY_DEADLINE, || probe(&http, &address_file)).await?;
        Ok(Ledger { address, options, process })
    }

    /// Base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The log of its stdout and stderr.
    pub fn log(&self) -> &Path {
        self.process.log()
    }

    /// An error if it ended unexpectedly.
    pub fn check(&mut self) -> Result<(), Error> {
        self.process.check()
    }

    /// Kills it with SIGKILL. Returns the options to restart it on the same port with the same database.
    pub fn kill(mut self) -> LedgerOptions {
        self.process.kill();
        LedgerOptions { listen: self.address, ..self.options }
    }

    /// Stops it. Returns the options to restart it.
    pub async fn stop(self) -> LedgerOptions {
        self.process.stop(STOP_GRACE).await;
        LedgerOptions { listen: self.address, ..self.options }
    }
}

/// Its address once it is ready; otherwise what is missing.
async fn probe(http: &reqwest::Client, address_file: &Path) -> Result<SocketAddr, String> {
    let address: SocketAddr = fs::read_to_string(address_file)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .ok_or("it is not listening yet")?;
    let answer =
        http.get(format!("http://{address}/readyz")).send().await.map_err(|error| error.to_string())?;
    let status = answer.status();
    if status.is_success() { Ok(address) } else { Err(format!("/readyz says {status}")) }
}
