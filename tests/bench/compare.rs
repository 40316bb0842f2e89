//! One run: in every round every case runs once, in random order, on Envoys that all run at the same time.
//!
//! Disturbances (other work on this machine, a slower clock) affect neighbouring measurements alike. So each case is
//! compared with bare Envoy in the same round, and the median over all rounds is reported.

use crate::cases::{self, Player};
use crate::gate::Site;
use crate::memory::Memory;
use crate::process::{Cores, cpu_ns};
use crate::relay::Relay;
use crate::{Built, load, plot, summary, table};
use anyhow::Context;
use clap::Args;
use rand::seq::SliceRandom;
use serde::Serialize;
use std::fs;
use std::path::PathBuf;

/// How to compare.
#[derive(Args)]
#[command(after_help = "Examples:
  scripts/bench envoy
  scripts/bench envoy --rounds 5 --cases free,exact")]
pub struct Options {
    /// How often each case takes its turn
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Only these cases, and bare Envoy
    #[arg(long, value_delimiter = ',')]
    cases: Vec<String>,
    /// Requests of a turn over several connections; CPU time is taken from these
    #[arg(long, default_value_t = 3000)]
    requests: usize,
    /// How many connections those come over
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Requests of a turn over one connection; latency is taken from these too
    #[arg(long, default_value_t = 500)]
    single: usize,
    /// Leave the shipped access log off, in every case
    #[arg(long)]
    no_access_log: bool,
    /// Draw the plot into this file too
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    built: Built,
}

/// The measurements of one case in one round.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Turn {
    /// The number of the round, from 1.
    pub round: u32,
    /// The case.
    pub case: &'static str,
    /// Envoy's CPU time for each request, over several connections.
    pub cpu_us: f64,
    /// The same over one connection.
    pub cpu_single_us: f64,
    /// CPU time of the services behind it for each request, over several connections.
    pub services_cpu_us: f64,
    /// Requests per second over several connections.
    pub requests_per_second: f64,
    /// Latency over several connections.
    pub p50_us: f64,
    /// The 99th percentile of the same.
    pub p99_us: f64,
    /// Latency over one connection.
    pub p50_single_us: f64,
    /// The 99th percentile of the same.
    pub p99_single_us: f64,
}

/// Runs all of it and prints the table.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let cases = cases::select(&options.cases)?;
    let built = &options.built;
    let envoy = built.check()?;
    let cores = Cores::choose()?;
    cores.avoid_envoy_core()?;
    let scratch = built.directory()?;
    let upstream = load::upstream().await?;
    let access_log = !options.no_access_log;
    let site = Site { envoy, directory: scratch.path().to_owned(), cores, upstream, access_log };
    eprintln!("==> starting the ledger; configurations and logs are in {}", scratch.path().display());
    let relay = Relay::start(&site, built).await?;
    let ready = cases::start(&site, built, &cases, &relay).await?;
    cores.stay()?;

    // V8 optimises code that runs often, and connections and caches fill.
    for one in &ready.cases {
        one.load.run(options.connections, options.requests).await.with_context(|| one.case.name)?;
    }
    let mut turns = Vec::new();
    let mut order: Vec<&Player> = ready.cases.iter().collect();
    for round in 1..=options.rounds {
        order.shuffle(&mut rand::rng());
        for one in &order {
            turns.push(turn(round, one, &options).await.with_context(|| format!("case {}", one.case.name))?);
        }
        for one in &ready.cases {
            one.gate.truncate_log()?;
        }
        eprint!("\r==> round {round} of {}", options.rounds);
    }
    eprintln!();
    let rows = summary::rows(&cases, &turns);
    let key = ready.key.clone();
    drop(ready);
    let memory = match options.cases.is_empty() {
        true => Some(Memory::measure(&site, &relay, &key).await?),
        false => None,
    };
    let text = table::markdown(&rows, memory, options.rounds, options.connections);
    println!("{text}");
    keep(&options, &RawResults { turns, memory, rows }, &text)?;
    scratch.remove();
    Ok(())
}

async fn turn(round: u32, player: &Player, options: &Options) -> anyhow::Result<Turn> {
    let services = || player.services.iter().map(|service| cpu_ns(*service)).sum::<anyhow::Result<u64>>();
    let each = |nanos: u64, count: usize| nanos as f64 / 1e3 / count as f64;
    player.load.run(1, 50).await?;
    player.gate.settled_cpu_ns().await?;
    let (before, services_before) = (player.gate.cpu_ns()?, services()?);
    let many = player.load.run(options.connections, options.requests).await?;
    let (middle, services_after) = (player.gate.settled_cpu_ns().await?, services()?);
    let between = player.gate.cpu_ns()?;
    let single = player.load.run(1, options.single).await?;
    let after = player.gate.settled_cpu_ns().await?;
    Ok(Turn {
        round,
        case: player.case.name,
        cpu_us: each(middle - before, options.requests),
        cpu_single_us: each(after - between, options.single),
        services_cpu_us: each(services_after - services_before, options.requests),
        requests_per_second: many.per_second(),
        p50_us: many.quantile_us(0.5),
        p99_us: many.quantile_us(0.99),
        p50_single_us: single.quantile_us(0.5),
        p99_single_us: single.quantile_us(0.99),
    })
}

#[derive(Serialize)]
struct RawResults {
    turns: Vec<Turn>,
    memory: Option<Memory>,
    rows: Vec<summary::Row>,
}

/// Writes the raw numbers, the rows, the table and the plot.
fn keep(options: &Options, kept: &RawResults, text: &str) -> anyhow::Result<()> {
    let output = &options.built.output;
    fs::write(output.join("envoy.json"), serde_json::to_string_pretty(kept)?)?;
    fs::write(output.join("envoy.md"), text)?;
    let plot = plot::bars(&kept.rows, options.rounds);
    fs::write(output.join("envoy.svg"), &plot)?;
    if let Some(file) = &options.plot {
        fs::write(file, &plot)?;
    }
    eprintln!("==> raw numbers, table and plot are in {}", output.display());
    Ok(())
}
