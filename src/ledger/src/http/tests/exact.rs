//! Envoys that spend a tenant's last credits from leases and by exact reservations: exactly as many calls succeed as
//! the tenant has credits. The Envoys are simulated, the ledger and its sockets are real.

use crate::fixture::{Bench, apart, expect, new_uuid, pace, uuid_of};
use crate::store::laws;
use crate::store::sql::{Connection, Purpose};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const CREDITS: u64 = 3000;
const LEASE_CREDITS: u64 = 100;
const CLIENTS: usize = 4;
/// How long a client waits for credits that others hold: a killed Envoy never returns them.
const WAIT_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Default, Clone)]
struct HeldLease {
    id: String,
    granted: u64,
    spent: u64,
    revision: u64,
}

/// As much of a filter as leases need.
struct Envoy {
    bench: Arc<Bench>,
    instance: String,
    tenant: String,
    key: String,
    lease: Mutex<Option<HeldLease>>,
    asking: AtomicBool,
    /// The recalls received: a lease that was asked for before the last recall is returned when it arrives.
    recalls: AtomicU64,
    leased: AtomicU64,
    exact: AtomicU64,
    dead: AtomicBool,
}

impl Envoy {
    fn new(bench: &Arc<Bench>, number: usize, tenant: &str, key: &str) -> Arc<Envoy> {
        Arc::new(Envoy {
            bench: Arc::clone(bench),
            instance: format!("i{number}"),
            tenant: tenant.to_owned(),
            key: key.to_owned(),
            lease: Mutex::default(),
            asking: AtomicBool::new(false),
            recalls: AtomicU64::new(0),
            leased: AtomicU64::new(0),
            exact: AtomicU64::new(0),
            dead: AtomicBool::new(false),
        })
    }

    fn succeeded(&self) -> u64 {
        self.leased.load(Ordering::SeqCst) + self.exact.load(Ordering::SeqCst)
    }

    async fn round(&self, parts: &Value) -> Value {
        let mut round = json!({"instance": uuid_of(&self.instance), "envoy": self.instance});
        round.as_object_mut().unwrap().extend(parts.as_object().unwrap().clone());
        self.bench.post("/filter/v1/leases", round, StatusCode::OK).await
    }

    /// Spends one credit of the lease, if there is one left. True for the caller that must ask for the next lease.
    fn spend(&self) -> (bool, bool) {
        let mut lease = self.lease.lock().unwrap();
        let Some(lease) = lease.as_mut() else { return (false, true) };
        let spends = lease.spent < lease.granted;
        lease.spent += u64::from(spends);
        (spends, lease.spent * 2 >= lease.granted)
    }

    async fn close(&self, lease: Option<HeldLease>) {
        if let Some(HeldLease { id, spent, revision, .. }) = lease {
            let account = json!({"lease_id": id, "revision": revision + 1, "spent": spent, "closed": true});
            self.round(&json!({"accounts": [account]})).await;
        }
    }

    async fn refill(&self) {
        if self.asking.swap(true, Ordering::SeqCst) {
            return;
        }
        let recalls = self.recalls.load(Ordering::SeqCst);
        let id = new_uuid();
        let ask = json!({"lease_id": id, "tenant_id": self.tenant, "credits": LEASE_CREDITS, "price": 1});
        let granted = self.round(&json!({"asks": [ask]})).await["leases"][0]["credits"].as_u64().unwrap();
        if granted > 0 {
            let new = HeldLease { id, granted, ..HeldLease::default() };
            let old = {
                let mut lease = self.lease.lock().unwrap();
                if self.recalls.load(Ordering::SeqCst) == recalls { lease.replace(new) } else { Some(new) }
            };
            self.close(old).await;
        }
        self.asking.store(false, Ordering::SeqCst);
    }

    /// One client's calls, until one is refused because there are no credits.
    async fn calls(self: Arc<Envoy>) {
        let mut refused_since = None;
        while !self.dead.load(Ordering::SeqCst) {
            let (spent, is_low) = self.spend();
            if is_low {
                self.refill().await;
            }
            if spent {
                self.leased.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                continue;
            }
            let id = new_uuid();
            let answer = self.bench.reserve(&id, &self.key, 1).await;
            if answer.status() == StatusCode::PAYMENT_REQUIRED {
                // Also the answer if an Envoy does not return its lease in time because the machine stalls.
                let [_, available, pending, _] = self.bench.balance(&self.tenant).await;
                let since = *refused_since.get_or_insert_with(Instant::now);
                if available + pending == 0 || since.elapsed() > WAIT_MAX {
                    return;
                }
                pace().await;
                continue;
            }
            refused_since = None;
            expect(answer, StatusCode::CREATED).await;
            self.bench.settle(&id, json!({"action": "post", "credits": 1})).await;
            self.exact.fetch_add(1, Ordering::SeqCst);
        }
    }

    async fn follow_recalls(self: Arc<Envoy>) {
        let mut next = self.bench.get("/filter/v1/changes").await["next"].as_u64().unwrap();
        while !self.dead.load(Ordering::SeqCst) {
            let feed = self.bench.get(&format!("/filter/v1/changes?after={next}&wait_ms=300")).await;
            next = feed["next"].as_u64().unwrap();
            if feed["changes"].as_array().unwrap().iter().any(|change| change["kind"] == "recall") {
                let lease = {
                    let mut lease = self.lease.lock().unwrap();
                    self.recalls.fetch_add(1, Ordering::SeqCst);
                    lease.take()
                };
                self.close(lease).await;
            }
        }
    }
}

/// Runs two Envoys until their clients are refused, or until one is killed and the other's are.
async fn run(killed: bool) -> (Arc<Bench>, String, [Arc<Envoy>; 2]) {
    let bench = Arc::new(Bench::start().await);
    let tenant = bench.tenant(CREDITS).await;
    let (key, _) = bench.key(&tenant).await;
    let envoys = [0, 1].map(|number| Envoy::new(&bench, number, &tenant, &key));
    let followers: Vec<_> =
        envoys.iter().map(|envoy| tokio::spawn(Arc::clone(envoy).follow_recalls())).collect();
    let clients: Vec<_> = envoys
        .iter()
        .flat_map(|envoy| (0..CLIENTS).map(|_| tokio::spawn(Arc::clone(envoy).calls())))
        .collect();
    if killed {
        let deadline = Instant::now() + Duration::from_secs(60);
        while envoys[0].succeeded() + envoys[1].succeeded() < CREDITS / 2 {
            assert!(Instant::now() < deadline, "too few calls succeed");
            pace().await;
        }
        envoys[0].dead.store(true, Ordering::SeqCst);
    }
    for client in clients {
        client.await.unwrap();
    }
    for envoy in &envoys {
        envoy.dead.store(true, Ordering::SeqCst);
    }
    for ear in followers {
        ear.await.unwrap();
    }
    (bench, tenant, envoys)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_envoys_spend_a_tenants_credits_to_the_last_and_not_one_more() {
    let (bench, tenant, envoys) = run(false).await;
    let succeeded = envoys[0].succeeded() + envoys[1].succeeded();
    assert_eq!(succeeded, CREDITS);
    let leased: u64 = envoys.iter().map(|envoy| envoy.leased.load(Ordering::SeqCst)).sum();
    assert!(leased > CREDITS / 2, "only {leased} of {CREDITS} were leased");
    for envoy in &envoys {
        let lease = envoy.lease.lock().unwrap().take();
        envoy.close(lease).await;
    }
    assert_eq!(bench.balance(&tenant).await, [CREDITS, 0, 0, CREDITS]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unspent_credits_of_a_killed_envoy_are_accounted_for_exactly() {
    let (bench, tenant, envoys) = run(true).await;
    let succeeded = envoys[0].succeeded() + envoys[1].succeeded();
    let lease = envoys[1].lease.lock().unwrap().take();
    envoys[1].close(lease).await;
    let rest = envoys[0].lease.lock().unwrap().take().map_or(0, |lease| lease.granted - lease.spent);
    assert_eq!(succeeded + rest, CREDITS, "{succeeded} calls, {rest} unspent");

    let database = Bench::config(&bench.directory).database;
    let expire = "UPDATE leases SET expires_at = 1600000000000 WHERE state = 'open'";
    apart(|| Connection::open(&database, Purpose::Write).unwrap().execute(expire, &[]).unwrap());
    let deadline = Instant::now() + Duration::from_secs(15);
    while bench.balance(&tenant).await != [CREDITS, 0, 0, CREDITS] {
        assert!(Instant::now() < deadline, "the lease was not lost: {:?}", bench.balance(&tenant).await);
        pace().await;
    }
    let lost = bench.get(&format!("/v1/leases?tenant_id={tenant}&state=lost")).await;
    let lost: u64 = lost["items"].as_array().unwrap().iter().map(|item| item["lost"].as_u64().unwrap()).sum();
    assert!(lost >= rest, "{rest} were not spent, but only {lost} are shown as lost");
    let broken = apart(|| laws::broken(&Connection::open(&database, Purpose::Read).unwrap()).unwrap());
    assert_eq!(broken, Vec::<String>::new());
}
