//! SQLite: the suite, and failures that only a file can have.

#![allow(clippy::arithmetic_side_effects)]

use crate::identity::credentials::Initialise;
use crate::metrics::Metrics;
use crate::store::database::Database;
use crate::store::sql::{self, Purpose};
use crate::store::suite::{self, Fresh, assert_lawful, balance, credits, new_tenant, payer, reserve};
use crate::store::{OpenError, Store, laws, schema};
use crate::transaction::{Error, Unavailable};
use rusqlite::Connection;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

struct File;

fn file(directory: &TempDir) -> PathBuf {
    directory.path().join("ledger.db")
}

fn database(directory: &TempDir) -> Database {
    Database::Sqlite(file(directory))
}

fn open(directory: &TempDir) -> Store {
    Store::open(&database(directory), Arc::new(Metrics::default())).unwrap()
}

fn fresh() -> (Store, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let operation = Initialise { credentials: Vec::new() };
    Store::initialise(&database(&directory), operation).unwrap().unwrap();
    (open(&directory), directory)
}

impl Fresh for File {
    type Guard = TempDir;

    fn open(&self) -> (Arc<Store>, TempDir) {
        let (store, directory) = fresh();
        (Arc::new(store), directory)
    }

    fn broken_laws(&self, directory: &TempDir) -> Vec<String> {
        laws::broken(&sql::Connection::open(&database(directory), Purpose::Read).unwrap()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_suite_holds() {
    suite::run(&File).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_fails_is_refused_alone() {
    let (sqlite, directory) = fresh();
    let name = suite::UNSTORABLE;
    let trigger = format!(
        "CREATE TRIGGER no_such_name BEFORE INSERT ON tenants WHEN NEW.name = '{name}' \
         BEGIN SELECT RAISE(ABORT, 'no such name'); END; \
         CREATE TRIGGER no_such_tool BEFORE INSERT ON usage WHEN NEW.tool = '{name}' \
         BEGIN SELECT RAISE(ABORT, 'no such tool'); END"
    );
    Connection::open(file(&directory)).unwrap().execute_batch(&trigger).unwrap();
    suite::a_write_that_fails_is_refused_alone(&sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_database_refuses_writes_and_recovers_by_itself() {
    let (sqlite, directory) = fresh();
    let store: Arc<Store> = Arc::new(sqlite);
    let (tenant, key) = payer(store.as_ref(), 10).await;
    let other = Connection::open(file(&directory)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = store.run(reserve("r1", &key, 1, suite::at(1))).await;
    assert_eq!(refused, Err(Error::Unavailable(Unavailable::Failed)));
    assert_eq!(balance(store.as_ref(), &tenant).await.available, credits(10));
    other.execute_batch("ROLLBACK").unwrap();
    store.run(reserve("r1", &key, 1, suite::at(1))).await.unwrap();
    assert_eq!(balance(store.as_ref(), &tenant).await.available, credits(9));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_transaction_changes_nothing_and_the_next_one_works() {
    let (sqlite, directory) = fresh();
    let store: Arc<Store> = Arc::new(sqlite);
    let (tenant, key) = payer(store.as_ref(), 10).await;
    // Fails as a full disk does: after some rows of the transaction are written.
    let other = Connection::open(file(&directory)).unwrap();
    let full = "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'full'); END";
    other.execute_batch(full).unwrap();
    let refused = store.run(reserve("r1", &key, 1, suite::at(1))).await;
    assert_eq!(refused, Err(Error::Unavailable(Unavailable::Failed)));
    other.execute_batch("DROP TRIGGER full").unwrap();
    let held = balance(store.as_ref(), &tenant).await;
    assert_eq!((held.available, held.pending), (credits(10), credits(0)));
    store.run(reserve("r1", &key, 4, suite::at(1))).await.unwrap();
    let held = balance(store.as_ref(), &tenant).await;
    assert_eq!((held.available, held.pending), (credits(6), credits(4)));
    assert_lawful(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_until_there_is_space() {
    let (sqlite, directory) = fresh();
    sqlite.close().await;
    let other = Connection::open(file(&directory)).unwrap();
    other.execute_batch("CREATE TABLE filler AS SELECT zeroblob(1000000) AS bytes").unwrap();
    let pages: u32 = other.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    // SQLite fails as it does on a full disk once the file would need more pages than this.
    let full = sql::Connection::open(&database(&directory), Purpose::Write).unwrap();
    full.first(&format!("PRAGMA max_page_count = {}", pages + 8), &[], |_| Ok(())).unwrap();
    let relational = Store::with(full, &database(&directory), Arc::new(Metrics::default()), 10);
    let store: Arc<Store> = Arc::new(relational.unwrap());
    let (tenant, key) = payer(store.as_ref(), 1_000_000).await;
    let mut reserved = 0;
    let refused = loop {
        match store.run(reserve(&format!("r{reserved}"), &key, 1, suite::at(1))).await {
            Ok(_) => reserved += 1,
            Err(refused) => break refused,
        }
        assert!(reserved < 10_000, "the disk never filled");
    };
    assert_eq!(refused, Error::Unavailable(Unavailable::Failed));
    assert_eq!(balance(store.as_ref(), &tenant).await.pending, credits(reserved));

    other.execute_batch("DROP TABLE filler").unwrap();
    store.run(reserve(&format!("r{reserved}"), &key, 1, suite::at(1))).await.unwrap();
    assert_eq!(balance(store.as_ref(), &tenant).await.pending, credits(reserved + 1));
    let seen = sql::Connection::open(&database(&directory), Purpose::Read).unwrap();
    assert_eq!(laws::broken(&seen).unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_queued_at_shutdown_finish_and_later_ones_are_refused() {
    let (sqlite, directory) = fresh();
    let sqlite = Arc::new(sqlite);
    let store: Arc<Store> = Arc::clone(&sqlite) as Arc<Store>;
    let (tenant, key) = payer(store.as_ref(), 1000).await;
    let waiting: Vec<_> = (0..50)
        .map(|number| {
            let (work, answer) =
                crate::transaction::Queued::new(reserve(&format!("r{number}"), &key, 1, suite::at(1)));
            store.submit(work).unwrap();
            answer
        })
        .collect();
    sqlite.close().await;
    for answer in waiting {
        assert!(answer.await.unwrap().is_ok());
    }
    assert_eq!(store.run(new_tenant(1)).await, Err(Error::Unavailable(Unavailable::Stopping)));
    let again: Arc<Store> = Arc::new(open(&directory));
    assert_eq!(balance(again.as_ref(), &tenant).await.pending, credits(50));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_at_once() {
    let (sqlite, directory) = fresh();
    let store: Arc<Store> = Arc::new(sqlite);
    let other = Connection::open(file(&directory)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut answers = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    let refused = loop {
        let (work, answer) = crate::transaction::Queued::new(new_tenant(1));
        match store.submit(work) {
            Ok(()) => answers.push(answer),
            Err(refused) => break refused,
        }
        assert!(Instant::now() < deadline, "the queue never filled");
    };
    assert_eq!(refused, Unavailable::Busy);
    assert!(store.queue_depth() > 0);
    other.execute_batch("ROLLBACK").unwrap();
    for answer in answers {
        // Writes that waited for the lock were refused or written; each has an answer.
        answer.await.unwrap().ok();
    }
}

#[test]
fn a_file_of_another_program_or_a_newer_release_is_not_opened() {
    let directory = tempfile::tempdir().unwrap();
    let missing = Store::open(&database(&directory), Arc::default());
    assert!(matches!(missing, Err(OpenError::NotInitialised)));
    let connection = Connection::open(file(&directory)).unwrap();
    let seen = sql::Connection::open(&database(&directory), Purpose::Write).unwrap();
    assert_eq!(schema::version(&seen).unwrap(), schema::Version::Empty);
    connection.pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(Store::open(&database(&directory), Arc::default()), Err(OpenError::TooNew)));
}

#[cfg(unix)]
#[test]
fn the_file_is_readable_only_by_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    let (_store, directory) = fresh();
    let mode = std::fs::metadata(file(&directory)).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
}
