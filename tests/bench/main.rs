//! `scripts/bench envoy`, `scale` and `ledger`: the cost of the gate compared with alternatives, and the throughput of
//! the ledger compared with its bare database.
//!
//! Reading order: `compare` is one run, `cases` lists what is measured, `gate` starts an Envoy, `load` is the clients
//! and the tools, `process` reads the kernel's accounting, `table` and `plot` show the results.

mod cases;
mod compare;
mod gate;
mod ledger;
mod load;
mod memory;
mod panels;
mod plot;
mod process;
mod relay;
mod scale;
mod services;
mod summary;
mod table;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use cli::stack::EnvoyBinary;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::task::LocalSet;

/// Measure what the gate costs
#[derive(Parser)]
#[command(name = "bench")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Envoy's CPU time per request, throughput and latency, beside bare Envoy and other filters
    Envoy(compare::Options),
    /// Cost against size: keys, active keys, unknown keys, workers, Envoys
    Scale(scale::Options),
    /// Reserve+commit pairs per second of the ledger, beside what its database can do at all
    Ledger(ledger::Options),
    /// The small services that other gates ask
    #[command(hide = true)]
    Checks(services::Checks),
}

/// The built programs, and where results are written.
#[derive(Args, Clone)]
pub struct Built {
    /// The filter
    #[arg(long, env = "AGENTRELAY_WASM", value_name = "FILE")]
    wasm: PathBuf,
    /// The filter as a dynamic module
    #[arg(long, env = "AGENTRELAY_NATIVE", value_name = "FILE")]
    native: PathBuf,
    /// The filter that does nothing
    #[arg(long, env = "AGENTRELAY_NOOP", value_name = "FILE")]
    noop: PathBuf,
    /// The `agentrelay` binary, as it is released
    #[arg(long, env = "AGENTRELAY_PROGRAM", value_name = "FILE")]
    program: PathBuf,
    /// Envoy's reference rate limit service; without it a small one of this program takes its place
    #[arg(long, env = "AGENTRELAY_RATELIMIT", value_name = "FILE")]
    ratelimit: Option<PathBuf>,
    /// The Python environment with Envoy
    #[arg(long, env = "AGENTRELAY_ENVIRONMENT", value_name = "DIR")]
    environment: PathBuf,
    /// Where raw numbers, tables and plots are written
    #[arg(long, env = "AGENTRELAY_BENCH", value_name = "DIR")]
    output: PathBuf,
}

impl Built {
    /// Checks that all programs exist, and returns the path of Envoy.
    fn check(&self) -> anyhow::Result<EnvoyBinary> {
        for file in [&self.wasm, &self.native, &self.noop, &self.program].into_iter().chain(&self.ratelimit) {
            fs::metadata(file).with_context(|| format!("{}: run scripts/bench", file.display()))?;
        }
        Ok(EnvoyBinary::locate(&self.environment)?)
    }

    /// A directory for one run's configurations, logs and databases.
    fn directory(&self) -> anyhow::Result<Scratch> {
        let directory = self.output.join(format!("run-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        Ok(Scratch(fs::canonicalize(directory)?))
    }
}

/// Removes it after a successful run.
struct Scratch(PathBuf);

impl Scratch {
    fn path(&self) -> &Path {
        &self.0
    }

    fn remove(self) {
        let _ = fs::remove_dir_all(self.0);
    }
}

/// Waits while other processes work.
async fn pause(time: Duration) {
    let _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let What::Ledger(options) = &arguments.what {
        return ledger::run(options);
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let run = async {
            match arguments.what {
                What::Envoy(options) => compare::run(options).await,
                What::Scale(options) => scale::run(options).await,
                What::Ledger(_) => Ok(()),
                What::Checks(checks) => services::serve(checks).await,
            }
        };
        tokio::select! {
            result = run => result,
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        }
    })
}
