//! PostgreSQL: the suite, and what only a server or several ledgers can do.

#![allow(clippy::arithmetic_side_effects)]

use crate::audit::chain::Signer;
use crate::audit::retention::{Held, Pass};
use crate::background::{retain, seal};
use crate::fixture::{Bench, apart, code, expect, server};
use crate::http::waiting::{self, Waiting};
use crate::identity::credentials::Initialise;
use crate::identity::keys;
use crate::metrics::Metrics;
use crate::moment;
use crate::store::database::Database;
use crate::store::sql::{Connection, Purpose};
use crate::store::suite::{self, Fresh, at, balance, credits, payer, reserve, settle};
use crate::store::{CONNECTIONS, Store, laws, schema};
use crate::transaction::{Error, Unavailable};
use protocol::filter::{Action, Change};
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use throwaway::Throwaway;
use tokio::time::timeout;

/// A change by one ledger reaches every other within this time.
const BOUND: Duration = Duration::from_secs(2);
/// No single round proves more than this, because a shared machine sometimes stalls.
const STALLED: Duration = Duration::from_secs(30);

/// A new, initialised database.
pub(super) fn fresh(server: &Throwaway) -> Database {
    apart(|| {
        let database: Database = server.database().unwrap().parse().unwrap();
        let operation = Initialise { credentials: Vec::new() };
        Store::initialise(&database, operation).unwrap().unwrap();
        database
    })
}

pub(super) fn open(database: &Database) -> Arc<Store> {
    apart(|| Arc::new(Store::open(database, Arc::new(Metrics::default())).unwrap()))
}

struct Shared(Arc<Throwaway>);

impl Fresh for Shared {
    type Guard = Database;

    fn open(&self) -> (Arc<Store>, Database) {
        let database = fresh(&self.0);
        (open(&database), database)
    }

    fn broken_laws(&self, database: &Database) -> Vec<String> {
        apart(|| laws::broken(&Connection::open(database, Purpose::Read).unwrap()).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_suite_holds() {
    suite::run(&Shared(apart(server))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_fails_is_refused_alone() {
    let server = apart(server);
    let database = fresh(&server);
    apart(|| {
        let name = suite::UNSTORABLE;
        let check = format!(
            "ALTER TABLE tenants ADD CHECK (name <> '{name}'); ALTER TABLE usage ADD CHECK (tool <> '{name}')"
        );
        Connection::open(&database, Purpose::Write).unwrap().batch(&check).unwrap();
    });
    suite::a_write_that_fails_is_refused_alone(open(&database).as_ref()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_is_removed_if_the_databases_clock_differs() {
    let server = apart(server);
    let database = fresh(&server);
    let store = open(&database);
    payer(store.as_ref(), 10).await;
    seal::seal_at(store.as_ref(), &Signer::from_seed(&[7; 32]), || at(0)).await.unwrap();
    let pass = async |store: Arc<Store>| {
        let (now, clock) = (moment::now(), store.clock().await.unwrap());
        let pass = Pass { days: Some(30), now, database: clock, ran_millis: 0, confirmed: Some(now) };
        retain::pass(store.as_ref(), pass).await.unwrap()
    };
    // Leaves a connection idle.
    store.clock().await.unwrap();
    apart(|| {
        let shadow = "CREATE SCHEMA shadow; CREATE FUNCTION shadow.clock_timestamp() RETURNS timestamptz LANGUAGE sql \
                      AS $$ SELECT pg_catalog.clock_timestamp() - interval '400 days' $$; \
                      DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = shadow, pg_catalog, public', \
                      current_database()); END $$";
        Connection::open(&database, Purpose::Write).unwrap().batch(shadow).unwrap();
    });
    let other = open(&database);
    assert!(matches!(pass(other).await, Err(Held::ClocksApart(_))));
    assert!(pass(store).await.unwrap() > 0, "the clocks agree on a connection from before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_whose_encoding_lacks_characters_is_refused() {
    let server = apart(server);
    let database: Database = apart(|| server.database().unwrap().parse().unwrap());
    let latin = apart(|| {
        let maker = Connection::open(&database, Purpose::Write).unwrap();
        let name = "latin_letters";
        let make = "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0";
        maker.batch(&format!("CREATE DATABASE {name} {make}")).unwrap();
        let url = server.database().unwrap();
        let (before, _) = url.rsplit_once('/').unwrap();
        format!("{before}/{name}").parse::<Database>().unwrap()
    });
    let refused = crate::init(&latin, |_| Ok(())).unwrap_err().to_string();
    assert!(refused.contains("its encoding is LATIN1") && refused.contains("createdb"), "{refused}");
    // A database that an earlier release has initialised.
    let connection = apart(|| {
        let connection = Connection::open(&latin, Purpose::Write).unwrap();
        schema::migrate(&connection).unwrap();
        connection
    });
    let opened = apart(|| Store::open(&latin, Arc::new(Metrics::default())).map(drop).unwrap_err());
    assert!(opened.to_string().contains("LATIN1"), "{opened}");
    // Even there, a name with such characters affects only its own request.
    let store = apart(|| Store::with(connection, &latin, Arc::new(Metrics::default()), CONNECTIONS).unwrap());
    suite::a_write_that_fails_is_refused_alone(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_ledgers_under_load_keep_every_invariant_and_never_conflict() {
    let server = apart(server);
    let database = fresh(&server);
    let ledgers: [Arc<Store>; 2] = [open(&database), open(&database)];
    let (tenant, key) = payer(ledgers[0].as_ref(), 500).await;
    let tasks = (0..400).map(|number: usize| {
        // Every request is sent to both, as by a filter that calls the other one after a slow answer.
        let (one, other) = (Arc::clone(&ledgers[number % 2]), Arc::clone(&ledgers[(number + 1) % 2]));
        let key = key.clone();
        tokio::spawn(async move {
            let id = format!("r{number}");
            let (first, second) =
                tokio::join!(one.run(reserve(&id, &key, 5, at(1))), other.run(reserve(&id, &key, 5, at(1))));
            match (&first, &second) {
                (Ok(_), _) | (_, Ok(_)) => {}
                (Err(Error::Refused(_)), Err(Error::Refused(_))) => return 0,
                other => panic!("{other:?}"),
            }
            let action =
                if number.is_multiple_of(4) { Action::Void } else { Action::Post { credits: credits(3) } };
            let (first, second) =
                tokio::join!(one.run(settle(&id, action, at(2))), other.run(settle(&id, action, at(2))));
            assert_eq!(first.unwrap().answer.settled + second.unwrap().answer.settled, 1);
            if action == Action::Void { 0 } else { 3 }
        })
    });
    let mut posted = 0;
    for task in tasks.collect::<Vec<_>>() {
        posted += task.await.unwrap();
    }
    let held = balance(ledgers[1].as_ref(), &tenant).await;
    assert_eq!((held.pending, held.posted), (credits(0), credits(posted)));
    assert!(posted > 0 && posted <= 500, "{posted}");
    let broken = apart(|| laws::broken(&Connection::open(&database, Purpose::Read).unwrap()).unwrap());
    assert_eq!(broken, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_at_one_ledger_gets_the_credits_that_an_envoy_returns_to_the_other() {
    let server = apart(server);
    let database = fresh(&server);
    let one: Arc<Store> = open(&database);
    let other: Arc<Store> = open(&database);
    let mut feed = other.newest_change();
    let waiting = Waiting::default();
    let mut reserved = Err(Error::Unavailable(Unavailable::Failed));
    // A call waits at most 1.2 s, in which a stalled machine returns nothing.
    for round in 0..5 {
        let (tenant, key) = payer(one.as_ref(), 40).await;
        let lease = format!("l{round}");
        let asks = vec![suite::leases::ask(&lease, &tenant, 10)];
        other.run(suite::leases::round("i1", moment::now()).asks(asks)).await.unwrap();
        let position = *feed.borrow_and_update();
        let returns = async {
            timeout(Duration::from_secs(20), feed.changed()).await.unwrap().unwrap();
            let kept = other.changes(position, 10).await.unwrap();
            assert_eq!(kept.changes, [(position + 1, Change::Recall { tenant_id: tenant.clone() })]);
            let accounts = vec![suite::leases::account(&lease, 1, 4, true)];
            other.run(suite::leases::round("i1", moment::now()).accounts(accounts)).await.unwrap();
        };
        let request = reserve(&format!("r{round}"), &key, 36, at(0)).request;
        (reserved, ()) = tokio::join!(waiting::reserve(one.as_ref(), &waiting, request), returns);
        if reserved.is_ok() {
            break;
        }
    }
    assert_eq!(reserved.unwrap().available, credits(0));
    let broken = apart(|| laws::broken(&Connection::open(&database, Purpose::Read).unwrap()).unwrap());
    assert_eq!(broken, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_made_by_one_ledger_reaches_the_other_at_once() {
    let server = apart(server);
    let database = fresh(&server);
    let one: Arc<Store> = open(&database);
    let other: Arc<Store> = open(&database);
    let mut waits = Vec::new();
    for _ in 0..20 {
        let (_, key) = payer(one.as_ref(), 5).await;
        let mut heard = other.newest_change();
        heard.mark_unchanged();
        let began = Instant::now();
        let revoke =
            keys::Revoke { key_id: key.clone(), reason: "leak".into(), actor: "adm_1".into(), now: at(2) };
        one.run(revoke).await.unwrap();
        timeout(STALLED, heard.changed()).await.expect("it is heard").unwrap();
        waits.push(began.elapsed());
        let newest = *heard.borrow();
        let kept = other.changes(newest - 1, 10).await.unwrap();
        assert_eq!(kept.changes, [(newest, Change::Key { key_id: key })]);
    }
    waits.sort();
    eprintln!("20 changes from one ledger to the other: {waits:?}");
    assert!(waits[10] < BOUND, "{waits:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_refuses_with_503_and_is_used_again_when_it_is_back() {
    let mut server = apart(|| Throwaway::start().unwrap());
    let database = apart(|| server.database().unwrap().parse().unwrap());
    let bench = Bench::start_on(&database).await;
    let tenant = bench.tenant(100).await;
    let (key, _) = bench.key(&tenant).await;
    expect(bench.reserve("r1", &key, 5).await, StatusCode::CREATED).await;

    apart(|| server.pause());
    let refused = expect(bench.reserve("r2", &key, 5).await, StatusCode::SERVICE_UNAVAILABLE).await;
    assert_eq!(code(&refused), "ledger_unavailable");
    let status = bench.request(Method::GET, "/readyz").send().await.unwrap().status();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let alive = bench.request(Method::GET, "/healthz").send().await.unwrap().status();
    assert_eq!(alive, StatusCode::OK);

    apart(|| server.resume().unwrap());
    let deadline = Instant::now() + Duration::from_secs(20);
    while bench.reserve("r2", &key, 5).await.status() != StatusCode::CREATED {
        assert!(Instant::now() < deadline, "it never recovered");
    }
    assert_eq!(bench.balance(&tenant).await, [100, 90, 10, 0]);

    // The change feed gets changes of other ledgers again, too.
    let other: Arc<Store> = open(&database);
    let mut heard = other.newest_change();
    let mut quickest = Duration::MAX;
    for _ in 0..5 {
        let (key, _) = bench.key(&tenant).await;
        heard.mark_unchanged();
        let began = Instant::now();
        bench.post(&format!("/v1/keys/{key}/revoke"), json!({"reason": "leak"}), StatusCode::OK).await;
        timeout(STALLED, heard.changed()).await.expect("it is heard").unwrap();
        quickest = quickest.min(began.elapsed());
        if quickest < BOUND {
            break;
        }
    }
    assert!(quickest < BOUND, "{quickest:?}");
    bench.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_transaction_changes_nothing_and_the_next_one_works() {
    let server = apart(server);
    let database = fresh(&server);
    let store: Arc<Store> = open(&database);
    let (tenant, key) = payer(store.as_ref(), 10).await;
    let other = |sql: &str| {
        apart(|| Connection::open(&database, Purpose::Write).unwrap().batch(sql).unwrap());
    };
    // Fails as a full disk does: after some rows of the transaction are written.
    other(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = 'disk_full'; END $$; \
         CREATE TRIGGER full_disk BEFORE INSERT ON audit EXECUTE FUNCTION full_disk()",
    );
    let refused = store.run(reserve("r1", &key, 1, at(1))).await;
    assert_eq!(refused, Err(Error::Unavailable(Unavailable::Failed)));
    other("DROP TRIGGER full_disk ON audit");
    store.run(reserve("r1", &key, 4, at(1))).await.unwrap();
    let held = balance(store.as_ref(), &tenant).await;
    assert_eq!((held.available, held.pending), (credits(6), credits(4)));
}

#[test]
fn full_table_scans_have_no_timeout_and_everything_else_has() {
    let server = server();
    let connection = Connection::open(&fresh(&server), Purpose::Write).unwrap();
    let timeout = |connection: &Connection| {
        connection.first("SELECT current_setting('statement_timeout')", &[], |row| row.get::<String>(0))
    };
    assert_eq!(connection.migrate(timeout).unwrap().as_deref(), Some("0"));
    assert_eq!(connection.long_snapshot(timeout).unwrap().as_deref(), Some("0"));
    assert_eq!(connection.snapshot(timeout).unwrap().as_deref(), Some("10s"));
    assert_eq!(connection.write(timeout).unwrap().as_deref(), Some("10s"));
}
