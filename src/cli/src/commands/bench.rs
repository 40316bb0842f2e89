//! `agentrelay bench`: benchmarks of the ledger.

use crate::output;
use clap::{Args, Subcommand, ValueEnum};
use ledger::bench::{Kind, Latency, Options, Report};
use std::path::PathBuf;
use std::time::Duration;

/// Benchmark the ledger on this machine
#[derive(Args)]
#[command(after_help = "Examples:
  agentrelay bench ledger
  agentrelay bench ledger --store postgres --callers 1024 --json")]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Reserve+commit pairs per second, beside what the database can do at all
    ///
    /// Beside the ledger, the same rows are written by plain batched transactions (the ceiling) and in a transaction
    /// for each call, in turns, on fresh databases, all with fsync. PostgreSQL is a server of its own, made from the
    /// installed binaries and removed afterwards.
    Ledger {
        /// The database
        #[arg(long, value_enum, default_value = "both")]
        store: Which,
        /// How often each contestant takes its turn
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
        /// How long a turn is
        #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(10..=600_000))]
        turn_ms: u64,
        /// How many callers wait for an answer at the same time
        #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=4096))]
        callers: u32,
        /// How many tenants they belong to
        #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        tenants: u32,
        /// Where SQLite's files are made; its disk is measured
        #[arg(long, value_name = "DIR", default_value = ".")]
        directory: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Which {
    Both,
    Sqlite,
    Postgres,
}

impl Arguments {
    pub async fn run(self) -> anyhow::Result<()> {
        let What::Ledger { store, rounds, turn_ms, callers, tenants, directory, json } = self.what;
        let kinds: &[Kind] = match store {
            Which::Both => &[Kind::Sqlite, Kind::Postgres],
            Which::Sqlite => &[Kind::Sqlite],
            Which::Postgres => &[Kind::Postgres],
        };
        for kind in kinds {
            let turn = Duration::from_millis(turn_ms);
            let options =
                Options { kind: *kind, rounds, turn, callers, tenants, directory: directory.clone() };
            let name = name(*kind);
            let measured = tokio::task::spawn_blocking(move || {
                ledger::bench::run(&options, |what| output::progress(&format!("{name}: {what} ...")))
            });
            let report = measured.await??;
            output::done();
            if json { output::json_line(&report)? } else { print(&report)? }
        }
        Ok(())
    }
}

const fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Sqlite => "SQLite",
        Kind::Postgres => "PostgreSQL",
    }
}

fn print(report: &Report) -> anyhow::Result<()> {
    output::line(&format!("{}, {} callers", name(report.kind), report.callers))?;
    let round = |name: String, round: &ledger::bench::Round| {
        let rate = |pairs: f64| format!("{pairs:.0}");
        let share = format!("{:.0} %", 100.0 * round.ledger / round.ceiling);
        [name, rate(round.ledger), rate(round.ceiling), share, rate(round.one_by_one)]
    };
    let mut rows: Vec<_> = (1..)
        .zip(&report.rounds)
        .map(|(number, one): (u32, _)| round(format!("round {number}"), one))
        .collect();
    rows.push(round("median".to_owned(), &report.median));
    output::table(["pairs per second", "ledger", "ceiling", "share", "one by one"], &rows)?;
    let waits = |Latency { p50_ms, p95_ms, p99_ms, max_ms }: Latency| {
        format!("p50 {p50_ms:.2} ms, p95 {p95_ms:.2} ms, p99 {p99_ms:.2} ms, at most {max_ms:.2} ms")
    };
    output::fields(&[
        ("reserve", waits(report.reserve)),
        ("commit", waits(report.commit)),
        ("of the ceiling", format!("{:.0} % (median of rounds)", 100.0 * report.of_ceiling)),
        ("one by one", format!("{:.1} times faster (median of rounds)", report.times_one_by_one)),
    ])?;
    Ok(())
}
