//! A PostgreSQL that fails over, stops, turns read-only or is reached through a pooler: writes go on within 5 s without
//! a restart, and no revoked key is active meanwhile.

#[path = "failover/pooler.rs"]
mod pooler;

use harness::clock::{apart, eventually_within, run_within};
use harness::ledger::{Served, directory};
use protocol::admin::{KeyWithSecret, Reason};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use throwaway::Throwaway;

/// After another server accepts writes, the ledger accepts writes within this time.
const RECOVERY_TIME_MAX: Duration = Duration::from_secs(5);
/// A revoked key is refused within this time.
const BOUND: Duration = Duration::from_secs(2);
/// No single round proves more than this, because a shared machine sometimes stalls.
const STALLED: Duration = Duration::from_secs(40);
const DEADLINE: Duration = Duration::from_secs(240);

static RESERVED: AtomicU32 = AtomicU32::new(0);

/// Both servers in one URL, the second a standby of the first.
fn pair() -> (Throwaway, Throwaway, String) {
    let one = Throwaway::start().unwrap_or_else(|error| panic!("{error}"));
    let other = one.standby().unwrap_or_else(|error| panic!("{error}"));
    let database = one.database().unwrap_or_else(|error| panic!("{error}"));
    let both = database.replacen(&one.host(), &format!("{},{}", one.host(), other.host()), 1);
    (one, other, both)
}

/// Waits until the standby has received everything from the primary.
async fn caught_up(primary: &Throwaway, standby: &Throwaway) {
    let written = apart(|| primary.ask("SELECT pg_current_wal_lsn()::text")).expect("the primary answers");
    let select = format!("SELECT (pg_last_wal_replay_lsn() >= '{written}')::text");
    eventually_within(STALLED, "the standby follows", async || match apart(|| standby.ask(&select)) {
        Ok(is_there) if is_there == "true" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// How long it takes until this ledger accepts a write.
async fn writes(served: &Served, ledger: usize, key: &KeyWithSecret) -> Duration {
    let began = Instant::now();
    eventually_within(STALLED, "a reservation is made", async || {
        let id = format!("f-{}", RESERVED.fetch_add(1, Ordering::Relaxed));
        match served.filter(ledger).reserve(&id, &key.key.id, 1, 60).await {
            Some(201) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    began.elapsed()
}

/// What a ledger reports about the key: its state, or `unavailable` if the ledger is not ready.
async fn state(served: &Served, ledger: usize, key: &KeyWithSecret) -> String {
    served.filter(ledger).resolve(&key.secret).await.unwrap_or_else(|| "unavailable".to_owned())
}

async fn revoke(served: &Served, key: &KeyWithSecret) {
    served
        .admin()
        .revoke_key(&key.key.id, &Reason { reason: "failover".into() })
        .await
        .expect("a key can be revoked");
}

/// Checks that after the bound no ledger reports a revoked key as active.
async fn assert_stays_revoked(served: &Served, key: &KeyWithSecret, time: Duration) {
    harness::wait(BOUND).await;
    let began = Instant::now();
    while began.elapsed() < time {
        for ledger in 0..served.ledgers.len() {
            assert_ne!(state(served, ledger, key).await, "active", "ledger {ledger}");
        }
        harness::wait(Duration::from_millis(100)).await;
    }
}

#[test]
fn two_ledgers_write_again_and_refuse_what_is_revoked_after_a_failover_and_back() {
    let (mut one, mut other, both) = pair();
    run_within(DEADLINE, async {
        let served = Served::start(directory("failover"), &both, 2).await;
        let (_, payer) = served.payer(1000).await;
        let mut times = Vec::new();
        for _ in 0..2 {
            let (_, key) = served.payer(10).await;
            for ledger in 0..2 {
                writes(&served, ledger, &payer).await;
                assert_eq!(state(&served, ledger, &key).await, "active");
            }
            caught_up(&one, &other).await;
            apart(|| {
                one.kill().expect("the primary can be killed");
                other.promote().expect("the standby can be promoted");
            });
            let both = tokio::join!(writes(&served, 0, &payer), writes(&served, 1, &payer));
            times.push(both.0.max(both.1));
            revoke(&served, &key).await;
            assert_stays_revoked(&served, &key, BOUND).await;
            for ledger in 0..2 {
                assert_eq!(state(&served, ledger, &key).await, "revoked");
                assert_eq!(served.ready(ledger).await, 200);
            }
            apart(|| one.follow(&other).expect("the old primary can follow"));
            // And back again.
            std::mem::swap(&mut one, &mut other);
        }
        assert!(times.iter().any(|time| *time < RECOVERY_TIME_MAX), "{times:?}");
        assert_eq!(served.broken_laws().await, Vec::<String>::new());
    });
}

#[test]
fn a_hanging_primary_is_replaced_by_the_promoted_standby() {
    let (mut one, other, both) = pair();
    run_within(DEADLINE, async {
        let served = Served::start(directory("hangs"), &both, 2).await;
        let ((_, payer), (_, key)) = (served.payer(1000).await, served.payer(10).await);
        assert_eq!(state(&served, 1, &key).await, "active");
        caught_up(&one, &other).await;
        apart(|| {
            one.freeze(true).expect("the primary can be stopped");
            other.promote().expect("the standby can be promoted");
        });
        let times = tokio::join!(writes(&served, 0, &payer), writes(&served, 1, &payer));
        eprintln!("writes after {times:?}");
        revoke(&served, &key).await;
        // The old primary comes back and accepts writes too, because it was not fenced.
        apart(|| one.freeze(false).expect("the primary can go on"));
        assert_stays_revoked(&served, &key, BOUND).await;
        for ledger in 0..2 {
            assert_eq!(state(&served, ledger, &key).await, "revoked");
        }
    });
}

#[test]
fn a_ledger_whose_primary_hangs_is_not_ready_and_recovers_by_itself() {
    let mut server = Throwaway::start().unwrap_or_else(|error| panic!("{error}"));
    let database = server.database().unwrap_or_else(|error| panic!("{error}"));
    run_within(DEADLINE, async {
        let served = Served::start(directory("frozen"), &database, 1).await;
        let (_, key) = served.payer(100).await;
        apart(|| server.freeze(true).expect("it can be stopped"));
        eventually_within(STALLED, "it says that it is not ready", async || match served.ready(0).await {
            503 => Ok(()),
            other => Err(format!("{other}")),
        })
        .await;
        assert_eq!(state(&served, 0, &key).await, "unavailable");
        apart(|| server.freeze(false).expect("it can go on"));
        writes(&served, 0, &key).await;
        eventually_within(STALLED, "it is ready", async || match served.ready(0).await {
            200 => Ok(()),
            other => Err(format!("{other}")),
        })
        .await;
    });
}

#[test]
fn a_read_only_primary_is_not_ready_until_it_accepts_writes() {
    let server = Throwaway::start().unwrap_or_else(|error| panic!("{error}"));
    let database = server.database().unwrap_or_else(|error| panic!("{error}"));
    run_within(DEADLINE, async {
        let served = Served::start(directory("read-only"), &database, 1).await;
        let (_, key) = served.payer(100).await;
        apart(|| server.set("default_transaction_read_only", "on").expect("it can be set"));
        eventually_within(STALLED, "it says that it is not ready", async || {
            let reserved = served.filter(0).reserve("read-only", &key.key.id, 1, 60).await;
            match (reserved, served.ready(0).await) {
                (Some(503), 503) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        apart(|| server.set("default_transaction_read_only", "off").expect("it can be set"));
        assert!(writes(&served, 0, &key).await < STALLED);
    });
}

#[test]
fn connections_closed_by_a_database_administrator_are_opened_again() {
    let server = Throwaway::start().unwrap_or_else(|error| panic!("{error}"));
    let database = server.database().unwrap_or_else(|error| panic!("{error}"));
    run_within(DEADLINE, async {
        let served = Served::start(directory("ended"), &database, 1).await;
        let (_, key) = served.payer(100).await;
        let end = "SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_activity \
                   WHERE application_name = 'agentrelay'";
        apart(|| server.ask(end)).expect("they can be ended");
        assert_eq!(state(&served, 0, &key).await, "active", "a look-up does not notice");
        writes(&served, 0, &key).await;
    });
}

#[test]
fn a_standby_alone_is_refused_with_the_url_to_use() {
    let (_one, other, both) = pair();
    run_within(DEADLINE, async {
        let served = Served::start(directory("standby"), &both, 1).await;
        let name = both.rsplit('/').next().expect("a name");
        let alone = format!("postgres://ledger@{}/{name}", other.host());
        let output = refused(&served, &alone).await;
        assert!(output.contains("is a standby") && output.contains("name the primary"), "{output}");
    });
}

/// The output of `agentrelay serve` if it can't start on that database.
async fn refused(served: &Served, database: &str) -> String {
    let mut command = tokio::process::Command::new(harness::files::program());
    command.args(["serve", "--listen", "127.0.0.1:0", "--database", database]).kill_on_drop(true);
    command.arg("--policy").arg(served.directory.join("policy.yaml")).current_dir(&served.directory);
    let output = tokio::time::timeout(STALLED, command.output()).await.expect("it ends by itself");
    let output = output.expect("the program can be run");
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}
