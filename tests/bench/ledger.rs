//! The throughput of the ledger compared with that of its bare database, measured in the same run.
//!
//! Three contestants run in turn, each on a new database on the same disk, so that a slow moment of the machine affects
//! all of them: the ledger's store with many concurrent callers that each reserve and commit; the same rows written in
//! plain batched transactions (`ceiling`), with as many operations per transaction as there are callers; and the same
//! rows with one transaction per call. All of them wait for fsync as the ledger does. Ratios are medians of the ratios
//! of all rounds.

mod ceiling;
#[cfg(test)]
mod tests;

use anyhow::bail;
use ceiling::Ceiling;
use clap::{Args, ValueEnum};
use ledger::Database;
use ledger::direct::{self, Direct};
use protocol::filter::{Action, Report as Batch, ReserveRequest, Settlement};
use protocol::{BatchId, Credits, KeyId, PolicyVersion, ReservationId, TenantId};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use throwaway::Throwaway;

/// Credits that a call reserves and is charged.
const CREDITS: u64 = 5;
/// The credits of each tenant: enough for any run.
const GRANTED: u64 = 1_000_000_000_000;

/// Which database to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A file
    Sqlite,
    /// A server of its own, made from the installed binaries and removed afterwards
    Postgres,
}

/// What to measure, and how long.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// On which database; without it on each
    #[arg(long, value_enum)]
    store: Option<Kind>,
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
}

impl Options {
    fn turn(&self) -> Duration {
        Duration::from_millis(self.turn_ms)
    }
}

/// Pairs per second in one round.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Round {
    /// Pairs per second of the ledger's store.
    pub ledger: f64,
    /// Plain batched transactions.
    pub ceiling: f64,
    /// A transaction for each call.
    pub one_by_one: f64,
}

/// How long callers waited, in milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Latency {
    /// Half of them waited no longer.
    pub p50_ms: f64,
    /// 95 % waited no longer.
    pub p95_ms: f64,
    /// 99 % waited no longer.
    pub p99_ms: f64,
    /// The maximum.
    pub max_ms: f64,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// On which database.
    pub kind: Kind,
    /// How many callers there were.
    pub callers: u32,
    /// Each round.
    pub rounds: Vec<Round>,
    /// The medians over the rounds.
    pub median: Round,
    /// Median of the ledger's share of the ceiling.
    pub of_ceiling: f64,
    /// Median of how many times faster than a transaction for each call.
    pub times_one_by_one: f64,
    /// How long a reservation took.
    pub reserve: Latency,
    /// How long a commit took.
    pub commit: Latency,
}

/// Measures, and prints the results. Blocks the thread.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let kinds = options.store.map_or(vec![Kind::Sqlite, Kind::Postgres], |kind| vec![kind]);
    for kind in kinds {
        let report = measure(kind, options)?;
        if options.json { println!("{}", serde_json::to_string(&report)?) } else { print(&report) }
    }
    Ok(())
}

fn measure(kind: Kind, options: &Options) -> anyhow::Result<Report> {
    let place = match kind {
        Kind::Sqlite => Place::Directory(&options.directory),
        Kind::Postgres => Place::Server(Box::new(Throwaway::start()?)),
    };
    let mut rounds = Vec::new();
    let mut waits = Waits::default();
    for number in 1..=options.rounds {
        eprintln!("{}: round {number} of {}", name(kind), options.rounds);
        // The order is reversed in every other round, so that no contestant always runs first.
        let order = if number % 2 == 1 { [0, 1, 2] } else { [2, 1, 0] };
        let mut round = Round { ledger: 0.0, ceiling: 0.0, one_by_one: 0.0 };
        for contestant in order {
            let (url, _directory) = place.fresh()?;
            let database: Database = url.parse()?;
            let payers = prepare(&database, options.tenants)?;
            let ceiling = |operations| Ceiling::open(&url, &payers)?.run(operations, options.turn());
            match contestant {
                0 => round.ledger = ledger(&database, options, &payers, &mut waits)?,
                1 => round.ceiling = ceiling(options.callers)?,
                _ => round.one_by_one = ceiling(1)?,
            }
        }
        rounds.push(round);
    }
    Ok(Report {
        kind,
        callers: options.callers,
        median: Round {
            ledger: median(rounds.iter().map(|round| round.ledger)),
            ceiling: median(rounds.iter().map(|round| round.ceiling)),
            one_by_one: median(rounds.iter().map(|round| round.one_by_one)),
        },
        of_ceiling: median(rounds.iter().map(|round| round.ledger / round.ceiling)),
        times_one_by_one: median(rounds.iter().map(|round| round.ledger / round.one_by_one)),
        reserve: latency(waits.reserve),
        commit: latency(waits.commit),
        rounds,
    })
}

const fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Sqlite => "SQLite",
        Kind::Postgres => "PostgreSQL",
    }
}

fn print(report: &Report) {
    println!("{}, {} callers", name(report.kind), report.callers);
    println!(
        "{:>16}  {:>8}  {:>8}  {:>6}  {:>10}",
        "pairs per second", "ledger", "ceiling", "share", "one by one"
    );
    let rounds =
        (1..).zip(&report.rounds).map(|(number, round): (u32, _)| (format!("round {number}"), round));
    for (what, Round { ledger, ceiling, one_by_one }) in rounds.chain([("median".to_owned(), &report.median)])
    {
        let share = format!("{:.0} %", 100.0 * ledger / ceiling);
        println!("{what:>16}  {ledger:>8.0}  {ceiling:>8.0}  {share:>6}  {one_by_one:>10.0}");
    }
    for (what, Latency { p50_ms, p95_ms, p99_ms, max_ms }) in
        [("reserve", report.reserve), ("commit", report.commit)]
    {
        println!(
            "{what:>16}  p50 {p50_ms:.2} ms, p95 {p95_ms:.2} ms, p99 {p99_ms:.2} ms, at most {max_ms:.2} ms"
        );
    }
    println!("{:>16}  {:.0} % (median of rounds)", "of the ceiling", 100.0 * report.of_ceiling);
    println!("{:>16}  {:.1} times faster (median of rounds)", "one by one", report.times_one_by_one);
}

/// Where new databases are created.
enum Place<'o> {
    Directory(&'o Path),
    Server(Box<Throwaway>),
}

impl Place<'_> {
    /// The URL of a fresh database.
    fn fresh(&self) -> anyhow::Result<(String, Option<tempfile::TempDir>)> {
        match self {
            Place::Directory(directory) => {
                let directory = tempfile::Builder::new().prefix("agentrelay-bench-").tempdir_in(directory)?;
                Ok((format!("sqlite:{}", directory.path().join("ledger.db").display()), Some(directory)))
            }
            Place::Server(server) => Ok((server.database()?, None)),
        }
    }
}

/// A tenant and its key.
#[derive(Debug, Clone)]
struct Payer {
    tenant_id: TenantId,
    key_id: KeyId,
}

fn prepare(database: &Database, tenants: u32) -> anyhow::Result<Vec<Payer>> {
    direct::create(database)?;
    with_ledger(database, |ledger| async move {
        let mut payers = Vec::new();
        for _ in 0..tenants {
            let (tenant_id, key_id) = ledger.payer(Credits::new(GRANTED).unwrap_or(Credits::MAX)).await?;
            payers.push(Payer { tenant_id, key_id });
        }
        Ok(payers)
    })
}

/// Runs `work` with a ledger, and then closes the ledger.
fn with_ledger<T, F: Future<Output = anyhow::Result<T>>>(
    database: &Database,
    work: impl FnOnce(Arc<Direct>) -> F,
) -> anyhow::Result<T> {
    let ledger = Arc::new(Direct::open(database)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let done = runtime.block_on(work(Arc::clone(&ledger)));
    runtime.block_on(ledger.close());
    done
}

#[derive(Default)]
struct Waits {
    reserve: Vec<Duration>,
    commit: Vec<Duration>,
}

/// The ledger's part: every caller repeats reserve and commit. Returns pairs per second.
fn ledger(
    database: &Database,
    options: &Options,
    payers: &[Payer],
    waits: &mut Waits,
) -> anyhow::Result<f64> {
    let rate = with_ledger(database, |ledger| async move {
        let began = Instant::now();
        let callers: Vec<_> = (0..options.callers)
            .zip(payers.iter().cycle())
            .map(|(_, payer)| {
                tokio::spawn(call(Arc::clone(&ledger), payer.key_id.clone(), began, options.turn()))
            })
            .collect();
        let mut pairs = 0usize;
        for caller in callers {
            let own = caller.await??;
            pairs = pairs.saturating_add(own.commit.len());
            waits.reserve.extend(own.reserve);
            waits.commit.extend(own.commit);
        }
        Ok(rate(pairs, began.elapsed()))
    })?;
    let broken = ledger::check(database, None)?;
    if !broken.is_empty() {
        bail!("the ledger broke its laws: {}", broken.join("; "));
    }
    Ok(rate)
}

async fn call(ledger: Arc<Direct>, key_id: KeyId, began: Instant, turn: Duration) -> anyhow::Result<Waits> {
    let credits = Credits::new(CREDITS).unwrap_or(Credits::MAX);
    let policy_version = PolicyVersion::parse(ceiling::POLICY_VERSION)?;
    let mut waits = Waits::default();
    loop {
        let id = ReservationId::parse(&ceiling::fresh())?;
        let asked = Instant::now();
        let request = ReserveRequest {
            reservation_id: id,
            key_id: key_id.clone(),
            service: ceiling::SERVICE.to_owned(),
            tool: ceiling::TOOL.to_owned(),
            credits,
            overrun_credits_max: Credits::ZERO,
            ttl_seconds: 60,
            policy_version: policy_version.clone(),
        };
        ledger.reserve(request).await?;
        waits.reserve.push(asked.elapsed());
        let asked = Instant::now();
        let batch = Batch {
            batch_id: BatchId::parse(&ceiling::fresh())?,
            envoy: "bench".to_owned(),
            settlements: vec![Settlement { reservation_id: id, action: Action::Post { credits } }],
            subjects: Vec::new(),
            rows: Vec::new(),
            counted: Vec::new(),
            decisions_dropped: 0,
        };
        ledger.deliver(batch).await?;
        waits.commit.push(asked.elapsed());
        // Checked at the end of a turn, so that each caller has at least one result even on a slow machine.
        if began.elapsed() >= turn {
            return Ok(waits);
        }
    }
}

fn rate(pairs: usize, took: Duration) -> f64 {
    f64::from(u32::try_from(pairs).unwrap_or(u32::MAX)) / took.as_secs_f64()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn latency(mut waits: Vec<Duration>) -> Latency {
    waits.sort_unstable();
    let at = |per_mille: usize| {
        let place = waits.len().saturating_mul(per_mille) / 1000;
        let wait = waits.get(place).or(waits.last()).copied().unwrap_or_default();
        wait.as_secs_f64() * 1000.0
    };
    Latency { p50_ms: at(500), p95_ms: at(950), p99_ms: at(990), max_ms: at(1000) }
}
