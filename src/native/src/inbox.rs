//! Work that others leave for an exchange, which its own thread does.

use crate::abi::ExchangeScheduler;
use gate::{Locked, Work};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// The work left for one exchange.
pub struct Inbox {
    /// `None` when the exchange has ended.
    work: Locked<Option<Vec<Work>>>,
    scheduler: ExchangeScheduler,
}

/// The inboxes of the exchanges that run on one worker.
type Inboxes = Arc<Locked<HashMap<u32, Arc<Inbox>>>>;

/// All inboxes, by the id of the worker.
static INBOXES: RwLock<Vec<Inboxes>> = RwLock::new(Vec::new());

/// Adds a worker, and returns its id.
pub fn add_worker() -> u32 {
    let mut workers = INBOXES.write().unwrap_or_else(PoisonError::into_inner);
    workers.push(Inboxes::default());
    u32::try_from(workers.len().saturating_sub(1)).unwrap_or(u32::MAX)
}

fn of_worker(worker_id: u32) -> Option<Inboxes> {
    let workers = INBOXES.read().unwrap_or_else(PoisonError::into_inner);
    workers.get(usize::try_from(worker_id).ok()?).cloned()
}

/// Leaves work for an exchange. False if it has ended.
pub fn post(worker_id: u32, stream_id: u32, work: Work) -> bool {
    let inbox = of_worker(worker_id).and_then(|inboxes| inboxes.lock().get(&stream_id).cloned());
    let Some(inbox) = inbox else { return false };
    let mut waiting = inbox.work.lock();
    let Some(waiting) = waiting.as_mut() else { return false };
    waiting.push(work);
    inbox.scheduler.commit();
    true
}

impl Inbox {
    /// Opens the inbox of an exchange.
    pub fn open(worker_id: u32, stream_id: u32, scheduler: ExchangeScheduler) -> Arc<Inbox> {
        let inbox = Arc::new(Inbox { work: Locked::new(Some(Vec::new())), scheduler });
        if let Some(inboxes) = of_worker(worker_id) {
            inboxes.lock().insert(stream_id, inbox.clone());
        }
        inbox
    }

    /// Takes what was left so far.
    pub fn take(&self) -> Vec<Work> {
        self.work.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Takes what was left, and takes nothing from now on: the exchange ends.
    pub fn close(&self, worker_id: u32, stream_id: u32) -> Vec<Work> {
        if let Some(inboxes) = of_worker(worker_id) {
            inboxes.lock().remove(&stream_id);
        }
        self.work.replace(None).unwrap_or_default()
    }
}
