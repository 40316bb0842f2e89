//! A ledger that moves from SQLite to PostgreSQL keeps all its rows, and continues.

use super::postgres::open;
use crate::fixture::{apart, server};
use crate::identity::credentials::Initialise;
use crate::identity::sessions::Rotate;
use crate::metrics::Metrics;
use crate::service::relocate::{Error, relocate};
use crate::store::database::Database;
use crate::store::sql::{Connection, Purpose};
use crate::store::suite::{self, assert_lawful, at, balance, credits, payer, reserve, settle};
use crate::store::{AuditFilter, Store};
use protocol::filter::Action;
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_ledger_has_every_row_and_continues_from_there() {
    let directory = tempfile::tempdir().unwrap();
    let from = Database::Sqlite(directory.path().join("ledger.db"));
    Store::initialise(&from, Initialise { credentials: Vec::new() }).unwrap().unwrap();
    let sqlite = Arc::new(Store::open(&from, Arc::new(Metrics::default())).unwrap());
    let old: Arc<Store> = Arc::clone(&sqlite) as Arc<Store>;
    let (tenant, key) = payer(old.as_ref(), 100_000).await;
    // More than fit into one statement.
    let tasks = (0..2500).map(|number| {
        let (store, key) = (Arc::clone(&old), key.clone());
        tokio::spawn(async move { store.run(reserve(&format!("r{number}"), &key, 5, at(1))).await.unwrap() })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    old.run(settle("r7", Action::Post { credits: credits(4) }, at(2))).await.unwrap();
    old.run(settle("r8", Action::Void, at(2))).await.unwrap();
    let lent = vec![suite::leases::ask("l1", &tenant, 100), suite::leases::ask("l2", &tenant, 100)];
    let shares = vec![suite::leases::share(&key, 1, 0, 100)];
    old.run(suite::leases::round("i1", at(2)).asks(lent).shares(shares)).await.unwrap();
    let spent = vec![suite::leases::account("l1", 1, 40, false)];
    old.run(suite::leases::round("i1", at(2)).accounts(spent)).await.unwrap();
    let secrets = old.run(Rotate { seed: [9; 32], key_stale_seconds: 120, now: at(2) }).await.unwrap();
    let before = balance(old.as_ref(), &tenant).await;
    let newest = old.audit(AuditFilter { limit: 1, ..AuditFilter::default() }).await.unwrap();
    let position = *old.newest_change().borrow();

    let server = apart(server);
    let to: Database = apart(|| server.database().unwrap().parse().unwrap());
    let moved = apart(|| relocate(&from, &to, None, |_| {}).unwrap());
    assert!(moved.tables.contains(&("reservations".to_owned(), 2500)), "{moved:?}");
    assert!(moved.tables.contains(&("leases".to_owned(), 2)), "{moved:?}");
    assert!(moved.tables.contains(&("shares".to_owned(), 1)), "{moved:?}");
    assert!(matches!(apart(|| relocate(&from, &to, None, |_| {})), Err(Error::NotEmpty(_))));
    assert!(matches!(apart(|| relocate(&to, &from, None, |_| {})), Err(Error::Direction)));

    let new: Arc<Store> = open(&to);
    assert_eq!(balance(new.as_ref(), &tenant).await, before);
    assert_lawful(before);
    let row = new.audit(AuditFilter { limit: 1, ..AuditFilter::default() }).await.unwrap();
    assert_eq!((row[0].sequence, row[0].detail.get()), (newest[0].sequence, newest[0].detail.get()));
    assert_eq!(*new.newest_change().borrow(), position);
    assert_eq!(new.session_secrets().await.unwrap(), secrets);
    assert_eq!(secrets.len(), 1);
    // The same reservation is known there, and the next one gets the following numbers.
    new.run(reserve("r7", &key, 5, at(1))).await.unwrap();
    new.run(reserve("after", &key, 5, at(3))).await.unwrap();
    new.run(settle("r9", Action::Post { credits: credits(5) }, at(3))).await.unwrap();
    let after = balance(new.as_ref(), &tenant).await;
    assert_eq!((after.pending, after.posted), (before.pending, credits(49)));
    let accounts = vec![suite::leases::account("l1", 2, 50, true), suite::leases::account("l2", 1, 0, true)];
    let take = suite::leases::round("i1", at(3)).accounts(accounts);
    let taken = new.run(take.shares(vec![suite::leases::share(&key, 2, 50, 100)])).await.unwrap();
    assert_eq!((taken.refused.len(), taken.answer.shares[0].permits), (0, 75));
    assert_eq!(balance(new.as_ref(), &tenant).await.posted, credits(59));
}

#[test]
fn a_move_that_fails_after_its_commit_reports_unverified_rows() {
    let directory = tempfile::tempdir().unwrap();
    let from = Database::Sqlite(directory.path().join("ledger.db"));
    Store::initialise(&from, Initialise { credentials: Vec::new() }).unwrap().unwrap();
    let server = server();
    let failed = |at: &str, sabotage: &str| {
        let to: Database = server.database().unwrap().parse().unwrap();
        let failed = relocate(&from, &to, None, |table| {
            if table == at {
                Connection::open(&to, Purpose::Write).unwrap().batch(sabotage).unwrap();
            }
        });
        failed.unwrap_err().to_string()
    };
    let before = failed("verifying the source", "CREATE TABLE feed ()");
    assert!(before.starts_with("nothing was moved: "), "{before}");
    for sabotage in ["DROP TABLE feed", "UPDATE feed SET base = 1"] {
        let after = failed("verifying feed", sabotage);
        assert!(after.starts_with("the rows were copied to postgres://"), "{after}");
        assert!(
            after.contains("the copy is not verified") && !after.contains("nothing was moved"),
            "{after}"
        );
    }
}
