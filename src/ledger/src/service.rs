//! Starts and stops the service.

pub mod backup;
pub mod check;
pub mod direct;
pub mod entry;
mod lock;
pub mod relocate;
mod serve;
pub mod signing_key;
pub mod tls;

use crate::audit::retention::RememberClock;
use crate::audit::seal::AddSigningKey;
use crate::background::expire::{self, rotation};
use crate::background::{follow_policy, retain, seal};
use crate::metrics::Metrics;
use crate::policies::document::{self, Fault};
use crate::policies::in_force::{self, Policies, StartError};
use crate::service::lock::{Lock, NoLock};
use crate::service::tls::{Tls, TlsError};
use crate::store::database::Database;
use crate::store::{CONNECTIONS, OpenError, Store};
use crate::{http, moment};
use protocol::{PolicyVersion, Timestamp};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{info, warn};

/// How long a stop waits for running requests.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// The configuration of a ledger.
#[derive(Debug, Clone)]
pub struct Config {
    /// The address to listen on; port 0 selects a free port, see [`Running::address`].
    pub listen: SocketAddr,
    /// The database.
    pub database: Database,
    /// The policy file, YAML or JSON. A changed file is put in force without a restart.
    pub policy: PathBuf,
    /// The file of the key that signs the audit trail; created if it is missing. By default it is next to an embedded
    /// database, and in the working directory with any other.
    pub audit_key: Option<PathBuf>,
    /// How many days the audit trail is retained; `None` retains everything.
    pub audit_retention_days: Option<u32>,
    /// Today's date, to confirm the clock to retention.
    pub audit_retention_confirmed: Option<Timestamp>,
    /// Serves TLS with this certificate.
    pub tls: Option<Tls>,
    /// Most connections to the database.
    pub connections: u16,
}

impl Config {
    /// A configuration with defaults for everything else.
    pub fn new(listen: SocketAddr, database: Database, policy: PathBuf) -> Config {
        Config {
            listen,
            database,
            policy,
            audit_key: None,
            audit_retention_days: None,
            audit_retention_confirmed: None,
            tls: None,
            connections: CONNECTIONS,
        }
    }

    fn audit_key_path(&self) -> PathBuf {
        self.audit_key.clone().unwrap_or_else(|| self.database.audit_key())
    }
}

/// Why the ledger can't be initialised or started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database already has its first credentials, which can't be shown again.
    #[error(
        "{0} is already initialised, and its credentials were shown then; to start over, choose another path"
    )]
    AlreadyInitialised(Database),
    /// The database can't be opened.
    #[error("can't open {0}: {1}")]
    Database(Database, #[source] OpenError),
    /// Another process serves the embedded database and has locked this file.
    #[error(
        "{} is served by another process, which has locked {}; stop that one first. Only on PostgreSQL several \
         ledgers share a database",
        .0, .1.display()
    )]
    Served(Database, PathBuf),
    /// The lock file of the database can't be locked.
    #[error("can't lock {}: {}", .0.display(), .1)]
    Lock(PathBuf, #[source] std::io::Error),
    /// A write to the database failed.
    #[error("can't write to {0}; see the log for the cause")]
    Write(Database),
    /// This text is empty, or has invisible characters.
    #[error("{0}: write at least one character, and no invisible ones")]
    Unreadable(&'static str),
    /// A new secret could not be written out, so it was not stored. The cause is no `#[source]`, because the command line
    /// ignores errors with a closed pipe among their sources.
    #[error(
        "the secret can't be written out, so none was stored: {0}; run the command again where it can be written"
    )]
    Undelivered(std::io::Error),
    /// A secret was written out but could not be stored, so it does not work.
    #[error("can't write to {0}: {1}; the secret that was shown does not work, run the command again")]
    Unstored(Database, #[source] OpenError),
    /// The operating system gives no randomness.
    #[error("can't make a secret: the operating system gives no randomness")]
    NoRandomness,
    /// The policy file is invalid.
    #[error("can't use the policy {}:\n{}", .0.display(), .1)]
    Policy(PathBuf, #[source] Fault),
    /// The policy in force is invalid for this release.
    #[error(
        "can't use the policy {1} that is in force in {0}; start the release that put it in force, or change the \
         policy file:\n{2}"
    )]
    PolicyKept(Database, PolicyVersion, #[source] Fault),
    /// The key that signs the audit trail can't be used.
    #[error("can't use {} to sign the audit trail: {}", .0.display(), .1)]
    AuditKey(PathBuf, #[source] std::io::Error),
    /// The certificate or its key can't be used.
    #[error("can't serve by TLS: {0}")]
    Tls(#[source] TlsError),
    /// The address can't be listened on.
    #[error("can't listen on {0}: {1}; is the address this machine's, and used by nobody else?")]
    Listen(SocketAddr, #[source] std::io::Error),
}

impl Error {
    /// Whether the database is unreachable, perhaps temporarily.
    pub fn is_database_away(&self) -> bool {
        let Error::Database(Database::Postgres(server), OpenError::Failed(cause)) = self else {
            return false;
        };
        cause.is_temporary(server.hosts().len())
    }
}

/// A running ledger. Dropping it does not stop it; [`Running::shutdown`] does.
pub struct Running {
    /// The address that it listens on.
    pub address: SocketAddr,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    tasks: Vec<JoinHandle<()>>,
    store: Arc<Store>,
    lock: Option<Lock>,
    tls: Option<Arc<tls::Served>>,
}

/// Opens the database, puts the policy in force and serves.
pub async fn start(config: Config) -> Result<Running, Error> {
    let audit_key = config.audit_key_path();
    let Config {
        listen,
        database,
        policy: policy_path,
        audit_retention_days,
        audit_retention_confirmed,
        tls,
        connections,
        ..
    } = config;
    let tls = tls.map(tls::Served::new).transpose().map_err(Error::Tls)?;
    let faulty = |fault| Error::Policy(policy_path.clone(), fault);
    let policy_text = document::read(&policy_path).await.map_err(faulty)?;
    let policy = document::parse(&policy_text).map_err(faulty)?;

    let metrics = Arc::new(Metrics::default());
    let opened = tokio::task::spawn_blocking({
        let (database, metrics) = (database.clone(), Arc::clone(&metrics));
        move || open(&database, metrics, connections)
    });
    let (store, lock) = opened
        .await
        .unwrap_or_else(|cause| Err(Error::Database(database.clone(), OpenError::Io(cause.into()))))?;
    let store = Arc::new(store);
    let unwritten = |_| Error::Write(database.clone());
    store.run(RememberClock { now: moment::now() }).await.map_err(unwritten)?;
    let is_shared = matches!(database, Database::Postgres(_));
    let policy = in_force::policy_at_start(store.as_ref(), policy, is_shared, &metrics, moment::now())
        .await
        .map_err(|none| match none {
            StartError::Unrecorded => Error::Write(database.clone()),
            StartError::Faulty(version, fault) => Error::PolicyKept(database.clone(), version, fault),
        })?;
    let signer = signing_key::signer(&audit_key).map_err(|cause| Error::AuditKey(audit_key, cause))?;
    let signer = Arc::new(signer);
    let public_key = signer.public_key().to_owned();
    store.run(AddSigningKey { public_key, now: moment::now() }).await.map_err(unwritten)?;
    let rotate = rotation(&policy).map_err(|_| Error::NoRandomness)?;
    let session_secrets = store.run(rotate).await.map_err(unwritten)?;

    let listener = TcpListener::bind(listen).await.map_err(|cause| Error::Listen(listen, cause))?;
    let address = listener.local_addr().map_err(|cause| Error::Listen(listen, cause))?;

    let version = policy.version().clone();
    let (stop, stopping) = watch::channel(false);
    let (in_force, policy) = watch::channel(Arc::new(policy));
    let retained = Arc::clone(&metrics);
    let policies = Policies::new(
        policy_path,
        policy_text,
        is_shared,
        in_force,
        Arc::clone(&store),
        Arc::clone(&metrics),
    );
    let policies = Arc::new(policies);
    let router = http::router(http::Service::new(http::Parts {
        store: Arc::clone(&store),
        policy: policy.clone(),
        session_secrets: Mutex::new(session_secrets),
        policies: Arc::clone(&policies),
        signer: Arc::clone(&signer),
        metrics,
        audit_retention_days,
        stopping: stopping.clone(),
    }));
    let mut tasks = vec![
        tokio::spawn(follow_policy::run(policies, stopping.clone())),
        tokio::spawn(expire::run(Arc::clone(&store), policy.clone(), stopping.clone())),
        tokio::spawn(seal::run(Arc::clone(&store), signer, stopping.clone())),
        tokio::spawn(retain::run(
            Arc::clone(&store),
            (audit_retention_days, audit_retention_confirmed),
            retained,
            stopping.clone(),
        )),
    ];
    let tls = tls.map(|(served, checked)| {
        let served = Arc::new(served);
        tasks.push(tokio::spawn(Arc::clone(&served).follow(checked, stopping.clone())));
        served
    });
    let server = tokio::spawn(serve::serve(listener, tls.clone(), router, stopping));
    info!(%address, %database, policy = %version, "the ledger serves");
    Ok(Running { address, stop, server, tasks, store, lock, tls })
}

/// Opens the database, and locks it if it is embedded. Blocks.
fn open(
    database: &Database,
    metrics: Arc<Metrics>,
    connections: u16,
) -> Result<(Store, Option<Lock>), Error> {
    let lock = lock_database(database)?;
    let store = Store::with_connections(database, metrics, connections);
    store.map(|store| (store, lock)).map_err(|cause| Error::Database(database.clone(), cause))
}

/// Locks an embedded database, so that no other ledger serves it.
pub(crate) fn lock_database(database: &Database) -> Result<Option<Lock>, Error> {
    match database {
        // A missing file can't be locked; opening it fails later.
        Database::Sqlite(path) if path.exists() => {
            let path = lock::path(path);
            let lock = Lock::acquire(&path).map_err(|why| match why {
                NoLock::Held => Error::Served(database.clone(), path),
                NoLock::Io(cause) => Error::Lock(path, cause),
            })?;
            Ok(Some(lock))
        }
        Database::Sqlite(_) | Database::Postgres(_) => Ok(None),
    }
}

impl Running {
    /// Reads the certificate again now. A changed one is otherwise used within two seconds.
    pub fn reload(&self) {
        if let Some(tls) = &self.tls {
            tls.reload();
        }
    }

    /// Refuses new requests, finishes running ones, and closes the database.
    pub async fn shutdown(self) {
        let Running { stop, mut server, tasks, store, lock, .. } = self;
        stop.send_replace(true);
        if timeout(STOP_TIMEOUT, &mut server).await.is_err() {
            warn!("some requests did not end in time and are cut off");
            server.abort();
        }
        for task in tasks {
            if let Err(cause) = task.await {
                warn!(%cause, "a background task ended early");
            }
        }
        store.close().await;
        drop(lock);
        info!("the ledger has stopped");
    }
}
