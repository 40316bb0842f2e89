//! The store, as those who read and write hold it. Subjects add their reads.

use super::newest::{Listener, Newest};
use super::readers::Readers;
use super::sql::Connection;
use crate::transaction::{Error, Operation, Queued, Unavailable, Work};
use protocol::Timestamp;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, watch};

/// The store.
pub struct Store {
    pub(super) queue: Mutex<Option<mpsc::Sender<Box<dyn Work>>>>,
    pub(super) newest: Arc<Newest>,
    pub(super) filters: Readers,
    pub(super) operators: Readers,
    pub(super) reports: Readers,
    pub(super) threads: Mutex<Vec<JoinHandle<()>>>,
    pub(super) listener: Option<Listener>,
    /// Writes fail, as on a full disk, where reads go on.
    pub(super) failing: Arc<AtomicBool>,
}

impl Store {
    /// Queues a write. Does not wait: a full queue is [`Unavailable::Busy`].
    pub fn submit(&self, work: Box<dyn Work>) -> Result<(), Unavailable> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queue.as_ref().ok_or(Unavailable::Stopping)?;
        queue.try_send(work).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => Unavailable::Busy,
            mpsc::error::TrySendError::Closed(_) => Unavailable::Stopping,
        })
    }

    /// How many writes wait.
    pub fn queue_depth(&self) -> usize {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.as_ref().map_or(0, |queue| queue.max_capacity().saturating_sub(queue.capacity()))
    }

    /// The position of the newest change, each time there is a newer one.
    pub fn newest_change(&self) -> watch::Receiver<u64> {
        self.newest.watch()
    }

    /// Checks that the database answers, and that the last write succeeded.
    pub async fn ping(&self) -> Result<(), Unavailable> {
        let is_behind = self.listener.as_ref().is_some_and(Listener::is_failing);
        if is_behind || self.failing.load(Ordering::Relaxed) {
            return Err(Unavailable::Failed);
        }
        let base = "SELECT base FROM feed";
        self.filters.read(move |connection| connection.first(base, &[], |_| Ok(())).map(drop)).await
    }

    /// The server's clock; `None` for an embedded database.
    pub async fn clock(&self) -> Result<Option<Timestamp>, Unavailable> {
        self.filters.read(Connection::clock).await
    }

    /// Runs one write and waits until it is durable.
    pub async fn run<O: Operation>(&self, operation: O) -> Result<O::Answer, Error> {
        let (work, answer) = Queued::new(operation);
        self.submit(work)?;
        answer.await.unwrap_or(Err(Error::Unavailable(Unavailable::Stopping)))
    }

    /// Refuses new writes, finishes waiting ones, and closes the database.
    pub async fn close(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(listener) = &self.listener {
            listener.stop();
        }
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        // The threads end once the queue is empty. A failed join means that its thread has ended.
        let _ = tokio::task::spawn_blocking(|| {
            for thread in threads {
                let _ = thread.join();
            }
        })
        .await;
    }
}
