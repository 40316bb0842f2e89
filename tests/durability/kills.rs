//! `kill -9` at random moments under load, of the real `agentrelay serve` and of the real PostgreSQL: no acknowledged
//! write is lost and every invariant holds.

use super::load::{Load, assert_kept};
use harness::clock::{apart, run_within};
use harness::ledger::{Served, directory, embedded};
use harness::{eventually, wait};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::time::Duration;
use throwaway::Throwaway;

/// The seed that repeats the moments of one run.
const SEED_VARIABLE: &str = "KILL_SEED";
/// How many processes are killed, on each database.
const KILLS: u32 = 100;
/// A process is killed at most this long after it was ready.
const MILLIS_MAX: u64 = 120;
/// Starting processes a hundred times takes a minute, or several on a busy machine.
const DEADLINE: Duration = Duration::from_secs(600);
/// The invariants are checked after this many kills, because a check reads every row.
const LAWS_EVERY: u32 = 10;

fn seed() -> u64 {
    let seed = std::env::var(SEED_VARIABLE).map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    eprintln!("to repeat the moments of these kills: {SEED_VARIABLE}={seed}");
    seed
}

#[test]
fn on_sqlite_no_kill_of_the_ledger_loses_an_acknowledged_write_or_breaks_a_law() {
    run_within(DEADLINE, async {
        let seed = seed();
        let mut random = StdRng::seed_from_u64(seed);
        let place = directory("killed-sqlite");
        let database = embedded(&place);
        let mut served = Served::start(place, &database, 1).await;
        let keys = [served.payer(1_000_000_000).await.1.key.id, served.payer(500).await.1.key.id];
        let load = Load::start(&[served.filter(0)], &keys, seed);
        for kill in 1..=KILLS {
            load.more(1).await;
            wait(Duration::from_millis(random.random_range(0..MILLIS_MAX))).await;
            served.kill(0);
            if kill.is_multiple_of(LAWS_EVERY) {
                // Checked while no process uses the file.
                let broken = served.broken_laws().await;
                assert!(broken.is_empty(), "after kill {kill}, {SEED_VARIABLE}={seed}: {broken:?}");
            }
            served.run(0).await;
        }
        load.more(1).await;
        let told = load.stop().await;
        assert_kept(&served, &told, &format!("{SEED_VARIABLE}={seed}")).await;
        eprintln!("{KILLS} ledgers were killed; {} writes were acknowledged and all are there", told.count());
        // Some between any two kills, also on a slow machine.
        assert!(told.count() > 500, "{} writes are too few to say anything", told.count());
    });
}

#[test]
fn on_postgresql_no_kill_of_either_ledger_or_of_the_server_loses_an_acknowledged_write_or_breaks_a_law() {
    run_within(DEADLINE, async {
        let seed = seed();
        let mut random = StdRng::seed_from_u64(seed);
        let (mut server, database) = apart(|| {
            let server = Throwaway::start().unwrap_or_else(|error| panic!("{error}"));
            let database = server.database().unwrap();
            (server, database)
        });
        let mut served = Served::start(directory("killed-postgresql"), &database, 2).await;
        let keys = [served.payer(1_000_000_000).await.1.key.id, served.payer(500).await.1.key.id];
        let load = Load::start(&[served.filter(0), served.filter(1)], &keys, seed);
        let mut killed = [0u32; 3];
        for kill in 1..=KILLS {
            load.more(1).await;
            wait(Duration::from_millis(random.random_range(0..MILLIS_MAX))).await;
            // Mostly one ledger is killed while the other continues; sometimes a process of the server, or the whole
            // server.
            match random.random_range(0..20) {
                0 => {
                    killed[2] += 1;
                    apart(|| {
                        server.kill().unwrap();
                        server.resume().unwrap();
                    });
                }
                1 | 2 => {
                    let choice = random.random();
                    let again = apart(|| server.kill_backend(choice));
                    killed[1] += u32::from(again.unwrap_or(false));
                }
                _ => {
                    killed[0] += 1;
                    let number = random.random_range(0..2);
                    served.kill(number);
                    serving(&served, 1 - number).await;
                    served.run(number).await;
                }
            }
            if kill.is_multiple_of(LAWS_EVERY) {
                serving(&served, 0).await;
                let broken = served.broken_laws().await;
                assert!(broken.is_empty(), "after kill {kill}, {SEED_VARIABLE}={seed}: {broken:?}");
            }
        }
        for number in 0..2 {
            serving(&served, number).await;
        }
        load.more(1).await;
        let told = load.stop().await;
        assert_kept(&served, &told, &format!("{SEED_VARIABLE}={seed}")).await;
        let [ledgers, backends, servers] = killed;
        eprintln!(
            "{ledgers} ledgers, {backends} backends and {servers} times the server were killed; {} writes were \
             acknowledged and all are there",
            told.count()
        );
        // Some between any two kills, also on a slow machine.
        assert!(told.count() > 500, "{} writes are too few to say anything", told.count());
    });
}

async fn serving(served: &Served, number: usize) {
    eventually("the ledger is ready", async || match served.ready(number).await {
        200 => Ok(()),
        status => Err(format!("{status}")),
    })
    .await;
}
