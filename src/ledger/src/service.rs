//! The life of the service: started, stopped.

pub mod backup;
pub mod check;
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

/// How long a stop waits for requests under way.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// What to serve, and where.
#[derive(Debug, Clone)]
pub struct Config {
    /// The address to listen on; port 0 takes a free one, see [`Running::address`].
    pub listen: SocketAddr,
    /// Where the rows are.
    pub database: Database,
    /// The policy file, YAML or JSON. It is followed: a changed file comes into force without a restart.
    pub policy: PathBuf,
    /// The key that signs the audit trail's checkpoints; made where there is none. Without a path it is beside an
    /// embedded database, and in the working directory for any other.
    pub audit_key: Option<PathBuf>,
    /// After how many days rows of the audit trail are removed; without a number they never are.
    pub audit_retention_days: Option<u32>,
    /// It is this day, and what retention held back because the clock was in doubt may go.
    pub audit_retention_confirmed: Option<Timestamp>,
    /// Serve by TLS.
    pub tls: Option<Tls>,
    /// How many connections to the database at most.
    pub connections: u16,
}

impl Config {
    /// The least that a ledger needs.
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
    /// The database has its first credentials already; they can't be shown again.
    #[error(
        "{0} is already initialised, and its credentials were shown then; to start over, choose another path"
    )]
    AlreadyInitialised(Database),
    /// The database can't be opened.
    #[error("can't open {0}: {1}")]
    Database(Database, #[source] OpenError),
    /// Another process serves the embedded database; it has locked this file.
    #[error(
        "{} is served by another process, which has locked {}; stop that one first. Only on PostgreSQL several \
         ledgers share a database",
        .0, .1.display()
    )]
    Served(Database, PathBuf),
    /// This file, which is to keep other ledgers away, can't be locked.
    #[error("can't lock {}: {}", .0.display(), .1)]
    Lock(PathBuf, #[source] std::io::Error),
    /// The database can't be written.
    #[error("can't write to {0}; see the log for the cause")]
    Write(Database),
    /// This text is empty, or holds what nobody sees.
    #[error("{0}: write at least one character, and no invisible ones")]
    Unreadable(&'static str),
    /// A new secret could not be given out, so it was not stored. Its cause is no `#[source]`: the command line takes a
    /// closed pipe among the sources for success.
    #[error(
        "the secret can't be written out, so none was stored: {0}; run the command again where it can be written"
    )]
    Undelivered(std::io::Error),
    /// A secret was given out and could not be stored, so it opens nothing.
    #[error("can't write to {0}: {1}; the secret that was shown does not work, run the command again")]
    Unstored(Database, #[source] OpenError),
    /// The operating system gives no randomness to make a secret of.
    #[error("can't make a secret: the operating system gives no randomness")]
    NoRandomness,
    /// The policy file is not taken.
    #[error("can't use the policy {}:\n{}", .0.display(), .1)]
    Policy(PathBuf, #[source] Fault),
    /// The database holds a policy that this release does not take.
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
    #[error("can't listen on {0}: {1}")]
    Listen(SocketAddr, #[source] std::io::Error),
}

impl Error {
    /// The database can't be reached now, which may pass.
    pub fn is_database_away(&self) -> bool {
        let Error::Database(Database::Postgres(server), OpenError::Failed(cause)) = self else {
            return false;
        };
        cause.is_temporary(server.hosts().len())
    }
}

/// A ledger that serves. Dropping it does not stop it; [`Running::shutdown`] does.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    tasks: Vec<JoinHandle<()>>,
    store: Arc<Store>,
    lock: Option<Lock>,
    tls: Option<Arc<tls::Served>>,
}

/// Opens the database, takes the policy and serves.
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
    let judged = document::read(&policy_path).await.map_err(faulty)?;
    let policy = document::parse(&judged).map_err(faulty)?;

    let metrics = Arc::new(Metrics::default());
    let opened = tokio::task::spawn_blocking({
        let (database, metrics) = (database.clone(), Arc::clone(&metrics));
        move || open(&database, metrics, connections)
    });
    let (relational, lock) = opened
        .await
        .unwrap_or_else(|cause| Err(Error::Database(database.clone(), OpenError::Io(cause.into()))))?;
    let relational = Arc::new(relational);
    let store: Arc<Store> = Arc::clone(&relational) as Arc<Store>;
    let unwritten = |_| Error::Write(database.clone());
    store.run(RememberClock { now: moment::now() }).await.map_err(unwritten)?;
    let is_shared = matches!(database, Database::Postgres(_));
    let policy = in_force::settle(store.as_ref(), policy, is_shared, &metrics, moment::now()).await.map_err(
        |none| match none {
            StartError::Unrecorded => Error::Write(database.clone()),
            StartError::Faulty(version, fault) => Error::PolicyKept(database.clone(), version, fault),
        },
    )?;
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
    let policies =
        Policies::new(policy_path, judged, is_shared, in_force, Arc::clone(&store), Arc::clone(&metrics));
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
    let tls = tls.map(|(served, judged)| {
        let served = Arc::new(served);
        tasks.push(tokio::spawn(Arc::clone(&served).follow(judged, stopping.clone())));
        served
    });
    let server = tokio::spawn(serve::serve(listener, tls.clone(), router, stopping));
    info!(%address, %database, policy = %version, "the ledger serves");
    Ok(Running { address, stop, server, tasks, store: relational, lock, tls })
}

/// Opens the database and, if it is embedded, keeps other ledgers away from it. Blocks.
fn open(
    database: &Database,
    metrics: Arc<Metrics>,
    connections: u16,
) -> Result<(Store, Option<Lock>), Error> {
    let lock = keep_others_away(database)?;
    let store = Store::with_connections(database, metrics, connections);
    store.map(|store| (store, lock)).map_err(|cause| Error::Database(database.clone(), cause))
}

/// Takes the lock of an embedded database: while it is held no other ledger serves it.
pub(crate) fn keep_others_away(database: &Database) -> Result<Option<Lock>, Error> {
    match database {
        // Where there is no database, there is nothing to lock, and the store says so.
        Database::Sqlite(path) if path.exists() => {
            let path = lock::path(path);
            let lock = Lock::take(&path).map_err(|why| match why {
                NoLock::Held => Error::Served(database.clone(), path),
                NoLock::Io(cause) => Error::Lock(path, cause),
            })?;
            Ok(Some(lock))
        }
        Database::Sqlite(_) | Database::Postgres(_) => Ok(None),
    }
}

impl Running {
    /// Looks at the certificate now. Without this a change is seen within two seconds, as one of the policy is.
    pub fn reload(&self) {
        if let Some(tls) = &self.tls {
            tls.look();
        }
    }

    /// Takes no new request, finishes those under way, and closes the database.
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
