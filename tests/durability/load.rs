//! Filters that reserve and settle without a pause, and the answers that they got.

use harness::ledger::{Filter, Served, uuid_of};
use harness::wait;
use protocol::KeyId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Callers at the same time.
const CALLERS: u64 = 8;
/// The pause between retries while the ledger is unavailable, and between two calls. A shorter pause would not help,
/// because all rows are read again by the checks.
const PAUSE: Duration = Duration::from_millis(5);

/// The writes that the ledger acknowledged.
#[derive(Default)]
pub struct Acknowledged {
    pub reserved: BTreeSet<String>,
    pub posted: BTreeSet<String>,
    pub voided: BTreeSet<String>,
    /// The number of 503 answers.
    pub refused: u64,
}

impl Acknowledged {
    pub fn count(&self) -> usize {
        self.reserved.len() + self.posted.len() + self.voided.len()
    }
}

/// Callers that run until they are stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Acknowledged>>,
    callers: Vec<tokio::task::JoinHandle<()>>,
}

/// Names of reservations are unique within this process.
static LOADS: AtomicU32 = AtomicU32::new(0);

impl Load {
    /// Each call goes to a random ledger, and its retries to any ledger.
    pub fn start(filters: &[Filter], keys: &[KeyId], seed: u64) -> Load {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let load = LOADS.fetch_add(1, Ordering::Relaxed);
        let callers = (0..CALLERS).map(|number| {
            let caller = Caller {
                name: format!("{load}-{number}"),
                filters: filters.to_vec(),
                keys: keys.to_vec(),
                random: StdRng::seed_from_u64(seed.wrapping_add(number)),
                stop: Arc::clone(&stop),
                acknowledged: Arc::clone(&acknowledged),
            };
            harness::clock::spawn(caller.call())
        });
        let callers = callers.collect();
        Load { stop, acknowledged, callers }
    }

    /// The number of acknowledged writes.
    pub fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().count()
    }

    /// The number of 503 answers so far.
    pub fn refused(&self) -> u64 {
        self.acknowledged.lock().unwrap().refused
    }

    /// Waits until this many more writes are acknowledged.
    pub async fn more(&self, more: usize) {
        let wanted = self.count() + more;
        harness::eventually("writes are acknowledged", async || match self.count() {
            count if count >= wanted => Ok(()),
            count => Err(format!("{count} of {wanted}")),
        })
        .await;
    }

    pub async fn stop(self) -> Acknowledged {
        self.stop.store(true, Ordering::Relaxed);
        for caller in self.callers {
            caller.await.unwrap();
        }
        std::mem::take(&mut *self.acknowledged.lock().unwrap())
    }
}

struct Caller {
    name: String,
    filters: Vec<Filter>,
    keys: Vec<KeyId>,
    random: StdRng,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Acknowledged>>,
}

enum Question {
    Reserve { key: KeyId, ttl_seconds: u32 },
    Settle { post: Option<u64> },
}

impl Caller {
    async fn call(mut self) {
        let mut number = 0u64;
        while !self.stop.load(Ordering::Relaxed) {
            wait(PAUSE).await;
            number += 1;
            let id = uuid_of(&format!("r{}-{number}", self.name)).to_string();
            let key = self.keys[self.random.random_range(0..self.keys.len())].clone();
            // Some are left to expire, and their settlements come late.
            let ttl_seconds = if self.random.random_range(0..10) == 0 { 1 } else { 60 };
            let reserved = self.ask(&id, &Question::Reserve { key, ttl_seconds }).await;
            match reserved {
                Some(201) => self.acknowledge(|told| told.reserved.insert(id.clone())),
                // The tenant has no credits left.
                Some(402) => continue,
                Some(other) => panic!("{id}: {other}"),
                None => return,
            }
            let post = match self.random.random_range(0..5) {
                0 => continue,
                1 => None,
                _ => Some(self.random.random_range(0..=5)),
            };
            for _ in 0..self.random.random_range(1..=2) {
                match self.ask(&id, &Question::Settle { post }).await {
                    Some(200) => self.acknowledge(|told| match post {
                        Some(_) => told.posted.insert(id.clone()),
                        None => told.voided.insert(id.clone()),
                    }),
                    Some(other) => panic!("{id}: {other}"),
                    None => return,
                }
            }
        }
    }

    fn acknowledge(&self, change: impl FnOnce(&mut Acknowledged) -> bool) {
        change(&mut self.acknowledged.lock().unwrap());
    }

    /// Retries until there is a final answer, or the load stops.
    async fn ask(&mut self, id: &str, question: &Question) -> Option<u16> {
        loop {
            let filter = &self.filters[self.random.random_range(0..self.filters.len())];
            let answer = match question {
                Question::Reserve { key, ttl_seconds } => filter.reserve(id, key, 5, *ttl_seconds).await,
                Question::Settle { post } => filter.settle(id, *post).await,
            };
            match answer {
                // An answer about the request rate of the credential is not final either.
                Some(429) | None => {}
                Some(503) => self.acknowledged.lock().unwrap().refused += 1,
                Some(status) => return Some(status),
            }
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            wait(PAUSE).await;
        }
    }
}

/// Checks that every acknowledged write is in the audit trail, and that every invariant holds.
pub async fn assert_kept(served: &Served, told: &Acknowledged, context: &str) {
    assert_eq!(served.broken_laws().await, Vec::<String>::new(), "{context}");
    let mut kinds: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for kind in ["reserved", "posted", "voided", "correction"] {
        kinds.insert(kind.to_owned(), facts(served, kind).await);
    }
    let is_there = |id: &str, among: &[&str]| among.iter().any(|kind| kinds[*kind].contains(id));
    for (what, ids, among) in [
        ("reserved", &told.reserved, &["reserved"][..]),
        ("posted", &told.posted, &["posted", "correction"]),
        ("voided", &told.voided, &["voided", "correction"]),
    ] {
        let lost: Vec<_> = ids.iter().filter(|id| !is_there(id, among)).collect();
        assert!(lost.is_empty(), "{context}: acknowledged as {what} and not there: {lost:?}");
    }
}

/// The reservations for which the audit trail has this kind of row.
async fn facts(served: &Served, kind: &str) -> BTreeSet<String> {
    let admin = served.admin();
    let query = client::AuditQuery { kind: Some(kind.to_owned()), ..client::AuditQuery::default() };
    let (mut found, mut cursor) = (BTreeSet::new(), None);
    loop {
        let page = admin.audit(&query, cursor.as_deref()).await.expect("the audit trail can be read");
        let id = |detail: &Value| detail["reservation_id"].as_str().unwrap().to_owned();
        found.extend(page.items.iter().map(|row| id(&row.detail)));
        match page.next_cursor {
            Some(next) => cursor = Some(next),
            None => return found,
        }
    }
}
