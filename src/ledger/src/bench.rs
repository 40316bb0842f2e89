//! How fast the ledger is beside what its database can do at all, measured in the same run.
//!
//! Three contestants take turns, each on a fresh database on the same disk, so that a slow moment of the machine hits
//! them all: the ledger's store, with many callers who each reserve and commit; the same rows written by plain batched
//! transactions (`ceiling`), as many operations in each as there are callers; and the same rows in a transaction for
//! each call. All wait for the disk (fsync) as the ledger does. Ratios are medians of the rounds' ratios.

mod ceiling;

use crate::identity::credentials::Initialise;
use crate::identity::keys;
use crate::metrics::Metrics;
use crate::model::key::Key;
use crate::model::tenant::Tenant;
use crate::money::reservations::Reserve;
use crate::money::tenants;
use crate::store::database::Database;
use crate::store::sql::{self, Connection, Purpose};
use crate::store::{OpenError, Store, laws};
use crate::throwaway::{self, Throwaway};
use crate::{deliveries, moment, transaction};
use ceiling::Ceiling;
use protocol::api_key::KeyHash;
use protocol::filter::{Action, Report as Batch, ReserveRequest, Settlement};
use protocol::key::KeySource;
use protocol::{
    BatchId, Credits, InvalidId, KeyId, PolicyVersion, ReservationId, TenantId, Timestamp, TransferId,
};
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Credits that a call reserves and is charged.
const CREDITS: u64 = 5;
/// What each tenant starts with: enough for any run.
const GRANTED: u64 = 1_000_000_000_000;

/// Which database to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A file.
    Sqlite,
    /// A server of its own, made for this and removed afterwards.
    Postgres,
}

/// What to measure, and how long.
#[derive(Debug, Clone)]
pub struct Options {
    /// On which database.
    pub kind: Kind,
    /// How often each contestant takes its turn.
    pub rounds: u32,
    /// How long a turn is.
    pub turn: Duration,
    /// How many callers wait for an answer at the same time.
    pub callers: u32,
    /// How many tenants they belong to.
    pub tenants: u32,
    /// Where SQLite's files are made.
    pub directory: PathBuf,
}

/// Pairs per second in one round.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Round {
    /// The ledger.
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
    /// None waited longer.
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
    /// Medians over the rounds.
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

/// Why nothing was measured.
#[derive(Debug)]
pub enum Error {
    /// There is no server.
    Throwaway(throwaway::Error),
    /// The database can't be made.
    Open(OpenError),
    /// The database failed.
    Sql(sql::Error),
    /// The operating system says no.
    Io(std::io::Error),
    /// A write was not taken.
    Write(transaction::Error),
    /// The ledger broke its own laws.
    Unlawful(Vec<String>),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Throwaway(cause) => cause.fmt(f),
            Error::Open(cause) => write!(f, "the database can't be made: {cause}"),
            Error::Sql(cause) => write!(f, "the database failed: {cause}"),
            Error::Io(cause) => cause.fmt(f),
            Error::Write(cause) => write!(f, "a write was not taken: {cause:?}"),
            Error::Unlawful(broken) => write!(f, "the ledger broke its laws: {}", broken.join("; ")),
        }
    }
}

impl std::error::Error for Error {}

impl From<throwaway::Error> for Error {
    fn from(cause: throwaway::Error) -> Error {
        Error::Throwaway(cause)
    }
}

impl From<OpenError> for Error {
    fn from(cause: OpenError) -> Error {
        Error::Open(cause)
    }
}

impl From<sql::Error> for Error {
    fn from(cause: sql::Error) -> Error {
        Error::Sql(cause)
    }
}

impl From<std::io::Error> for Error {
    fn from(cause: std::io::Error) -> Error {
        Error::Io(cause)
    }
}

impl From<transaction::Error> for Error {
    fn from(cause: transaction::Error) -> Error {
        Error::Write(cause)
    }
}

impl From<InvalidId> for Error {
    fn from(_: InvalidId) -> Error {
        Error::Io(std::io::Error::other("an id that was made here is none"))
    }
}

/// Measures, telling how far it is. Blocks; not to be called where other tasks wait.
pub fn run(options: &Options, mut progress: impl FnMut(&str)) -> Result<Report, Error> {
    let place = match options.kind {
        Kind::Sqlite => Place::Directory(&options.directory),
        Kind::Postgres => Place::Server(Box::new(Throwaway::start()?)),
    };
    let mut rounds = Vec::new();
    let mut waits = Waits::default();
    for number in 1..=options.rounds {
        progress(&format!("round {number} of {}", options.rounds));
        // Whoever is first in one round is last in the next, so that none has the better place.
        let order = if number % 2 == 1 { [0, 1, 2] } else { [2, 1, 0] };
        let mut round = Round { ledger: 0.0, ceiling: 0.0, one_by_one: 0.0 };
        for contestant in order {
            let (database, _guard) = place.fresh()?;
            let payers = prepare(&database, options.tenants)?;
            match contestant {
                0 => round.ledger = ledger(&database, options, &payers, &mut waits)?,
                1 => round.ceiling = Ceiling::open(&database, &payers)?.run(options.callers, options.turn)?,
                _ => round.one_by_one = Ceiling::open(&database, &payers)?.run(1, options.turn)?,
            }
        }
        rounds.push(round);
    }
    Ok(Report {
        kind: options.kind,
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

/// Where fresh databases come from.
enum Place<'o> {
    Directory(&'o Path),
    Server(Box<Throwaway>),
}

impl Place<'_> {
    fn fresh(&self) -> Result<(Database, Option<tempfile::TempDir>), Error> {
        match self {
            Place::Directory(directory) => {
                let directory = tempfile::Builder::new().prefix("agentrelay-bench-").tempdir_in(directory)?;
                Ok((Database::Sqlite(directory.path().join("ledger.db")), Some(directory)))
            }
            Place::Server(server) => {
                let url = server.database()?;
                let database = url.parse().map_err(|_| std::io::Error::other("the URL made here is none"))?;
                Ok((database, None))
            }
        }
    }
}

/// Who pays, and by which key.
#[derive(Debug, Clone)]
pub(super) struct Payer {
    pub(super) tenant_id: TenantId,
    pub(super) key_id: KeyId,
}

fn prepare(database: &Database, tenants: u32) -> Result<Vec<Payer>, Error> {
    let operation = Initialise { credentials: Vec::new() };
    if Store::initialise(database, operation)?.is_err() {
        return Err(Error::Io(std::io::Error::other("the fresh database is not empty")));
    }
    with_store(database, |store| async move {
        let mut payers = Vec::new();
        for _ in 0..tenants {
            payers.push(payer(store.as_ref()).await?);
        }
        Ok(payers)
    })
}

async fn payer(store: &Store) -> Result<Payer, Error> {
    let now = moment::now();
    let tenant = Tenant {
        id: moment::new_id("ten_", TenantId::parse)?,
        name: "bench".to_owned(),
        tier: "pro".to_owned(),
        created_at: now,
        suspended_at: None,
        budget: None,
        version: 1,
    };
    let credits = Credits::new(GRANTED).unwrap_or(Credits::MAX);
    let tenant = tenants::Create {
        tenant,
        credits: Some((credits, moment::new_id("trf_", TransferId::parse)?)),
        actor: "bench".to_owned(),
        idempotency: None,
        now,
    };
    let tenant_id = store.run(tenant).await?.id;
    let key_id = moment::new_id("key_", KeyId::parse)?;
    let key = Key {
        id: key_id.clone(),
        tenant_id: tenant_id.clone(),
        name: "bench".to_owned(),
        scopes: vec!["generate".to_owned()],
        services: None,
        tools: None,
        resources: None,
        limits: Vec::new(),
        concurrency: None,
        expires_at: None,
        agent_id: None,
        source: KeySource::Admin,
        created_at: now,
        revoked_at: None,
        last_used_at: None,
        budget: None,
        version: 1,
        parent: None,
    };
    let hash = KeyHash::of(key_id.as_str().as_bytes());
    store.run(keys::Create { key, hash, actor: "bench".to_owned(), idempotency: None }).await?;
    Ok(Payer { tenant_id, key_id })
}

/// Runs `work` with a store, and closes that.
fn with_store<T, F: Future<Output = Result<T, Error>>>(
    database: &Database,
    work: impl FnOnce(Arc<Store>) -> F,
) -> Result<T, Error> {
    let relational = Arc::new(Store::open(database, Arc::new(Metrics::default()))?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let done = runtime.block_on(work(Arc::clone(&relational) as Arc<Store>));
    runtime.block_on(relational.close());
    done
}

#[derive(Default)]
struct Waits {
    reserve: Vec<Duration>,
    commit: Vec<Duration>,
}

/// The ledger's turn: every caller reserves and commits, again and again. Pairs per second.
fn ledger(database: &Database, options: &Options, payers: &[Payer], waits: &mut Waits) -> Result<f64, Error> {
    let rate = with_store(database, |store| async move {
        let began = Instant::now();
        let callers: Vec<_> = (0..options.callers)
            .zip(payers.iter().cycle())
            .map(|(_, payer)| {
                tokio::spawn(call(Arc::clone(&store), payer.key_id.clone(), began, options.turn))
            })
            .collect();
        let mut pairs = 0usize;
        for caller in callers {
            let own = caller.await.map_err(std::io::Error::other)??;
            pairs = pairs.saturating_add(own.commit.len());
            waits.reserve.extend(own.reserve);
            waits.commit.extend(own.commit);
        }
        Ok(rate(pairs, began.elapsed()))
    })?;
    let broken = laws::broken(&Connection::open(database, Purpose::Read)?)?;
    if broken.is_empty() { Ok(rate) } else { Err(Error::Unlawful(broken)) }
}

async fn call(store: Arc<Store>, key_id: KeyId, began: Instant, turn: Duration) -> Result<Waits, Error> {
    let credits = Credits::new(CREDITS).unwrap_or(Credits::MAX);
    let policy_version = PolicyVersion::parse(ceiling::POLICY_VERSION)?;
    let mut waits = Waits::default();
    loop {
        let id = moment::new_id("", ReservationId::parse)?;
        let asked = Instant::now();
        let request = ReserveRequest {
            reservation_id: id.clone(),
            key_id: key_id.clone(),
            service: ceiling::SERVICE.to_owned(),
            tool: ceiling::TOOL.to_owned(),
            credits,
            overrun_credits_max: Credits::ZERO,
            ttl_seconds: 60,
            policy_version: policy_version.clone(),
        };
        store.run(Reserve { request, now: moment::now() }).await?;
        waits.reserve.push(asked.elapsed());
        let asked = Instant::now();
        let batch = Batch {
            batch_id: moment::new_id("", BatchId::parse)?,
            envoy: "bench".to_owned(),
            settlements: vec![Settlement { reservation_id: id, action: Action::Post { credits } }],
            decisions: Vec::new(),
            subjects: Vec::new(),
            rows: Vec::new(),
            counted: Vec::new(),
            decisions_dropped: 0,
        };
        let now: Timestamp = moment::now();
        store.run(deliveries::Deliver { report: Arc::new(batch), actor: "bench".to_owned(), now }).await?;
        waits.commit.push(asked.elapsed());
        // Looked at last, so that on a slow machine, too, each caller has something to tell.
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

#[cfg(test)]
mod tests;
