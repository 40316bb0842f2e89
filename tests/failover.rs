//! PostgreSQL fails over to a standby and back, hangs, or is a standby: two ledgers go on without a restart, and none says
//! that a revoked key is active.

use harness::clock::{eventually, eventually_within};
use harness::ledger::{Served, directory};
use harness::run;
use ledger::throwaway::Throwaway;
use protocol::admin::{CreateTenant, RevokeKey};
use protocol::api_key::KeyHash;
use protocol::filter::ResolveRequest;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// From the moment that there is a server that takes writes.
const RECOVERED_WITHIN: Duration = Duration::from_secs(5);
/// A revoked key is refused so soon.
const REVOKED_WITHIN: Duration = Duration::from_secs(2);

/// Runs what waits, and may not where other tasks do.
fn aside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

/// A primary and its standby, in which what was acknowledged is.
fn pair() -> [Throwaway; 2] {
    let primary = Throwaway::start().unwrap();
    let standby = primary.standby().unwrap();
    wait_for_standby(&primary);
    [primary, standby]
}

fn wait_for_standby(primary: &Throwaway) {
    primary.run(&["ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"]).unwrap();
}

/// The standby takes over, and waits for nobody.
fn promote(standby: &Throwaway) {
    standby.promote().unwrap();
    standby.run(&["ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()"]).unwrap();
}

async fn ledgers(servers: &[Throwaway; 2], name: &str) -> Served {
    let database = aside(|| servers[0].database().unwrap());
    let hosts = servers.each_ref().map(Throwaway::host).join(",");
    let (_, path) = database.rsplit_once('/').unwrap();
    Served::start(directory(name), &format!("postgres://ledger@{hosts}/{path}"), 2).await
}

async fn create_tenant(served: &Served, number: usize) -> Result<String, String> {
    let admin = client::Client::new(&served.url(number), &served.credentials.admin_key).unwrap();
    let tenant = CreateTenant { name: "Acme".into(), tier: "pro".into(), credits: None, budget: None };
    let made = tokio::time::timeout(Duration::from_secs(2), admin.create_tenant(&tenant)).await;
    let made = made.map_err(|_| "no answer in 2 s".to_owned())?;
    made.map(|tenant| tenant.id.to_string()).map_err(|error| error.to_string())
}

/// Both ledgers write, from now on within the bound.
async fn both_write(served: &Served, within: Duration) {
    let began = Instant::now();
    for number in 0..2 {
        eventually_within(within, "a ledger writes", async || create_tenant(served, number).await).await;
    }
    eprintln!("both ledgers write after {:?}", began.elapsed());
}

/// What a ledger says of a key to filters: its status and body.
async fn resolve(served: &Served, number: usize, secret: &str) -> (u16, String) {
    let http = client::http().no_proxy().timeout(Duration::from_secs(5)).build().unwrap();
    let body = ResolveRequest { hash: KeyHash::of(secret.as_bytes()) };
    let request = http.post(format!("{}/filter/v1/resolve", served.url(number)));
    match request.bearer_auth(&served.credentials.filter_key).json(&body).send().await {
        Ok(answer) => (answer.status().as_u16(), answer.text().await.unwrap_or_default()),
        Err(error) => (0, error.to_string()),
    }
}

fn is_active((status, body): &(u16, String)) -> bool {
    *status == 200 && body.contains(r#""state":"active""#)
}

/// Revokes a key by one ledger, and asks both until neither says that it is active.
async fn assert_a_revocation_is_seen_by_both(served: &Served) {
    let (_, key) = served.payer(10).await;
    for number in 0..2 {
        eventually("the key is known", async || {
            let said = resolve(served, number, &key.secret).await;
            if is_active(&said) { Ok(()) } else { Err(format!("{said:?}")) }
        })
        .await;
    }
    let because = RevokeKey { reason: "a test".to_owned() };
    served.admin().revoke_key(&key.key.id, &because).await.unwrap();
    let began = Instant::now();
    for number in [0, 1, 0, 1] {
        eventually_within(REVOKED_WITHIN, "it is refused", async || {
            let said = resolve(served, number, &key.secret).await;
            if is_active(&said) { Err(format!("{said:?}")) } else { Ok(()) }
        })
        .await;
    }
    assert!(began.elapsed() < REVOKED_WITHIN, "{:?}", began.elapsed());
}

#[test]
fn after_a_failover_and_back_ledgers_write_and_revoke_without_a_restart() {
    run(async {
        let [mut first, mut second] = aside(pair);
        let pair = [first, second];
        let served = ledgers(&pair, "failover").await;
        [first, second] = pair;
        both_write(&served, RECOVERED_WITHIN).await;
        assert_a_revocation_is_seen_by_both(&served).await;

        for round in 0..2 {
            // What is acknowledged while it happens must be there afterwards.
            let stop = Arc::new(AtomicBool::new(false));
            let served = Arc::new(&served);
            let writing = async {
                let mut acknowledged = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    acknowledged.extend(create_tenant(&served, 1).await);
                    harness::wait(Duration::from_millis(20)).await;
                }
                acknowledged
            };
            let failing = async {
                aside(|| first.pause());
                eventually("one says that it is not ready", async || match served.ready(0).await {
                    200 => Err("ready".to_owned()),
                    _ => Ok(()),
                })
                .await;
                aside(|| promote(&second));
                both_write(&served, RECOVERED_WITHIN).await;
                stop.store(true, Ordering::Relaxed);
            };
            let (acknowledged, ()) = tokio::join!(writing, failing);
            assert!(!acknowledged.is_empty(), "round {round}");
            for id in acknowledged {
                let id = protocol::TenantId::parse(&id).unwrap();
                served
                    .admin()
                    .tenant(&id)
                    .await
                    .unwrap_or_else(|error| panic!("round {round}, {id}: {error}"));
            }
            assert_a_revocation_is_seen_by_both(&served).await;
            assert_eq!(served.broken_laws().await, Vec::<String>::new());
            // The one that failed comes back as the other's standby, and the next round goes back to it.
            aside(|| first.follow(&second).unwrap());
            aside(|| wait_for_standby(&second));
            std::mem::swap(&mut first, &mut second);
        }
    });
}

#[test]
fn a_primary_that_hangs_is_given_up() {
    run(async {
        let servers = aside(pair);
        let served = ledgers(&servers, "hangs").await;
        both_write(&served, RECOVERED_WITHIN).await;
        aside(|| servers[0].hang(true).unwrap());
        aside(|| promote(&servers[1]));
        // Nothing tells of it but that no answer comes.
        both_write(&served, Duration::from_secs(40)).await;
        assert_a_revocation_is_seen_by_both(&served).await;
        aside(|| servers[0].hang(false).unwrap());
        assert_a_revocation_is_seen_by_both(&served).await;
    });
}

#[test]
fn a_standby_is_no_database_for_a_ledger() {
    run(async {
        let servers = aside(pair);
        let database = aside(|| servers[0].database().unwrap());
        let here = directory("standby");
        let made = cli::stack::Credentials::open(&harness::files::program(), &database, &here);
        made.unwrap_or_else(|error| panic!("{error}"));
        let of_standby = database.replace(&servers[0].host(), &servers[1].host());
        eventually("it says so", async || {
            let checked = std::process::Command::new(harness::files::program())
                .args(["ledger", "check", "--database", &of_standby])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&checked.stderr).into_owned();
            if !checked.status.success() && said.contains("does not allow writes") {
                Ok(())
            } else {
                Err(said)
            }
        })
        .await;
    });
}
