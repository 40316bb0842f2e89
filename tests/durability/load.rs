//! Filters that reserve and settle without a pause, and what they were answered.

use harness::ledger::{Filter, Served};
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
/// Between two times that a ledger which is away is asked, and between two calls: what is written is read again by
/// those who look for faults in it, so more is not better.
const PAUSE: Duration = Duration::from_millis(5);

/// What was acknowledged: the ledger answered that it is so.
#[derive(Default)]
pub struct Acknowledged {
    pub reserved: BTreeSet<String>,
    pub posted: BTreeSet<String>,
    pub voided: BTreeSet<String>,
    /// Answers that said 503.
    pub refused: u64,
}

impl Acknowledged {
    pub fn count(&self) -> usize {
        self.reserved.len() + self.posted.len() + self.voided.len()
    }
}

/// Callers that go on until they are told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Acknowledged>>,
    callers: Vec<tokio::task::JoinHandle<()>>,
}

/// Names of reservations are of one process and never come twice.
static LOADS: AtomicU32 = AtomicU32::new(0);

impl Load {
    /// Each call goes to any of the ledgers, and its retries to any other.
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

    /// How much was acknowledged so far.
    pub fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().count()
    }

    /// How often the answer was 503 so far.
    pub fn refused(&self) -> u64 {
        self.acknowledged.lock().unwrap().refused
    }

    /// Waits until so much more is acknowledged.
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
            let id = format!("r{}-{number}", self.name);
            let key = self.keys[self.random.random_range(0..self.keys.len())].clone();
            // Some are forgotten, and their settlements come late.
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

    /// Asks until there is an answer that is final, or the load stops.
    async fn ask(&mut self, id: &str, question: &Question) -> Option<u16> {
        loop {
            let filter = &self.filters[self.random.random_range(0..self.filters.len())];
            let answer = match question {
                Question::Reserve { key, ttl_seconds } => filter.reserve(id, key, 5, *ttl_seconds).await,
                Question::Settle { post } => filter.settle(id, *post).await,
            };
            match answer {
                // A bound on the rate of one credential is no answer either.
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

/// All that was acknowledged is in the audit trail, and every law holds.
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

/// The reservations of which the audit trail says this.
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
