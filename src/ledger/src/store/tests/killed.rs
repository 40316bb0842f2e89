//! `kill -9` at random moments under load: no acknowledged write is lost and every invariant holds, on both databases.
//!
//! This program runs itself as a process that opens the database, writes, and prints what was acknowledged, until it is
//! killed. On PostgreSQL two such ledgers run at the same time.

#![allow(clippy::arithmetic_side_effects)]

use crate::fixture::{apart, server};
use crate::identity::credentials::Initialise;
use crate::metrics::Metrics;
use crate::money::reservations::Expire;
use crate::store::database::Database;
use crate::store::sql::{Connection, Purpose};
use crate::store::suite::{at, credits, payer, reserve, settle};
use crate::store::{Store, laws};
use crate::transaction::Error;
use protocol::KeyId;
use protocol::filter::Action;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Tells this program that it is one of the processes to be killed: the database, the keys, and the seed.
const DATABASE: &str = "LIFE_DATABASE";
const KEYS: &str = "LIFE_KEYS";
const SEED: &str = "LIFE_SEED";
/// Repeats one run of the tests below.
const RUN_SEED: &str = "KILL_SEED";
/// How many processes are killed, on each database.
const KILLS: u32 = 100;
/// A process is killed after at most so many acknowledgements.
const ACKNOWLEDGED_MAX: usize = 80;

#[test]
fn on_sqlite_no_kill_loses_an_acknowledged_write_or_breaks_a_law() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.db").display().to_string();
    write_until_killed(&format!("sqlite:{path}"), 1);
}

#[test]
fn on_postgresql_no_kill_of_one_of_two_ledgers_loses_an_acknowledged_write_or_breaks_a_law() {
    let server = server();
    write_until_killed(&server.database().unwrap(), 2);
}

fn write_until_killed(url: &str, side_by_side: u32) {
    let seed: u64 = std::env::var(RUN_SEED).map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    eprintln!("to repeat the moments of these kills: {RUN_SEED}={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let database: Database = url.parse().unwrap();
    let keys = prepare(&database);
    let mut all = BTreeSet::new();
    for life in (0..KILLS).step_by(usize::try_from(side_by_side).unwrap()) {
        let lives: Vec<(u64, usize, u64)> = (0..side_by_side)
            .map(|_| {
                (random.random(), random.random_range(0..ACKNOWLEDGED_MAX), random.random_range(0..2000))
            })
            .collect();
        let acknowledged: Vec<String> = std::thread::scope(|scope| {
            let lives: Vec<_> = lives.iter().map(|life| scope.spawn(|| live(url, &keys, *life))).collect();
            lives.into_iter().flat_map(|life| life.join().unwrap()).collect()
        });
        let connection = Connection::open(&database, Purpose::Read).unwrap();
        let broken = laws::broken(&connection).unwrap();
        assert!(broken.is_empty(), "life {life}, {RUN_SEED}={seed}: {broken:?}");
        check(&connection, acknowledged.iter(), seed);
        all.extend(acknowledged);
    }
    // Later processes must not have undone what earlier ones acknowledged.
    check(&Connection::open(&database, Purpose::Read).unwrap(), all.iter(), seed);
    eprintln!("{KILLS} processes were killed; {} writes were acknowledged and all are there", all.len());
    assert!(all.len() > 1000, "{} writes are too few to say anything", all.len());
}

/// Creates the database, with a tenant with many credits and one with few.
fn prepare(database: &Database) -> String {
    let operation = Initialise { credentials: Vec::new() };
    Store::initialise(database, operation).unwrap().unwrap();
    let store: Arc<Store> = Arc::new(Store::open(database, Arc::new(Metrics::default())).unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (_, rich) = payer(store.as_ref(), 10_000_000).await;
        let (_, poor) = payer(store.as_ref(), 500).await;
        format!("{rich} {poor}")
    })
}

/// One process from its start to its kill, and the lines it wrote.
fn live(url: &str, keys: &str, (seed, acknowledgements, wait_micros): (u64, usize, u64)) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::killed::a_process_that_writes_until_it_is_killed", "--nocapture"])
        .env(DATABASE, url)
        .env(KEYS, keys)
        .env(SEED, seed.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut acknowledged = Vec::new();
    let mut next = |acknowledged: &mut Vec<String>| {
        let mut line = String::new();
        let there = lines.read_line(&mut line).unwrap() > 0;
        // A line that was cut off by the kill was not acknowledged.
        if let Some(said) = line.strip_prefix("ack ").and_then(|line| line.strip_suffix('\n')) {
            acknowledged.push(said.to_owned());
        }
        there
    };
    while acknowledged.len() < acknowledgements && next(&mut acknowledged) {}
    // Not in step with the answers.
    let moment = std::time::Instant::now();
    while moment.elapsed().as_micros() < u128::from(wait_micros) {
        std::hint::spin_loop();
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert!(!status.success(), "the process ended by itself");
    while next(&mut acknowledged) {}
    acknowledged
}

/// Checks that everything that was acknowledged is in the database.
fn check<'l>(connection: &Connection, lines: impl Iterator<Item = &'l String>, seed: u64) {
    let said: Vec<(&str, &str)> = lines.map(|line| line.split_once(' ').unwrap()).collect();
    let select = "SELECT id, state, charged FROM reservations WHERE id";
    let found = connection
        .each(select, said.iter().map(|(_, id)| *id).collect::<BTreeSet<_>>().into_iter(), |row| {
            Ok((row.get::<String>(0)?, (row.get::<String>(1)?, row.get::<Option<u64>>(2)?)))
        })
        .unwrap();
    let found: std::collections::HashMap<_, _> = found.into_iter().collect();
    for (what, id) in said {
        let row = found.get(id);
        let kept = match (what, row) {
            (_, None) => false,
            ("reserved", Some(_)) => true,
            ("posted", Some((_, charged))) => charged.is_some(),
            // A settlement after the expiry is a correction, and nothing stays charged.
            ("voided", Some((state, charged))) => {
                ["voided", "expired"].contains(&state.as_str()) && charged.unwrap_or_default() == 0
            }
            (other, _) => panic!("{other}"),
        };
        assert!(kept, "{id} was acknowledged as {what}, and is {row:?}; {RUN_SEED}={seed}");
    }
}

/// The child process of [`write_until_killed`]. In an ordinary run of the tests it does nothing.
#[test]
fn a_process_that_writes_until_it_is_killed() {
    let Ok(url) = std::env::var(DATABASE) else { return };
    let seed: u64 = std::env::var(SEED).unwrap().parse().unwrap();
    let keys = std::env::var(KEYS).unwrap();
    let keys: Vec<KeyId> = keys.split(' ').map(|key| KeyId::parse(key).unwrap()).collect();
    let database: Database = url.parse().unwrap();
    let store: Arc<Store> = apart(|| Arc::new(Store::open(&database, Arc::new(Metrics::default())).unwrap()));
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let writers = (0..16).map(|number| {
            let (store, keys) = (Arc::clone(&store), keys.clone());
            let random = StdRng::seed_from_u64(seed.wrapping_add(number));
            tokio::spawn(async move { write(store.as_ref(), &keys, random).await })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
    });
}

/// Reserves and settles repeatedly, in every order.
async fn write(store: &Store, keys: &[KeyId], mut random: StdRng) {
    let say = |what: &str, id: &str| {
        let mut stdout = std::io::stdout().lock();
        let _ = stdout.write_all(format!("ack {what} {id}\n").as_bytes()).and_then(|()| stdout.flush());
    };
    loop {
        let id = crate::fixture::new_uuid();
        let key = &keys[random.random_range(0..keys.len())];
        match store.run(reserve(&id, key, 5, at(1))).await {
            Ok(_) => say("reserved", &id),
            Err(Error::Refused(_)) => continue,
            Err(Error::Unavailable(why)) => panic!("{why}"),
        }
        let (action, what) = match random.random_range(0..4) {
            0 => continue,
            1 => (Action::Void, "voided"),
            _ => (Action::Post { credits: credits(random.random_range(0..=5)) }, "posted"),
        };
        if random.random_range(0..50) == 0 {
            // Settlements after this are late.
            store.run(Expire { now: at(600) }).await.unwrap();
        }
        for _ in 0..random.random_range(1..=2) {
            let settled = store.run(settle(&id, action, at(601))).await.unwrap();
            assert!(settled.refused.is_empty(), "{settled:?}");
        }
        say(what, &id);
    }
}
