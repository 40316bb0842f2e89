//! The writer thread. It applies all waiting operations in one transaction and answers after the commit: one fsync for
//! many callers (group commit).

use super::newest::Newest;
use super::sql::{self, Connection, Purpose};
use super::{load, save};
use crate::metrics::{Committed, Metrics};
use crate::model::event::{Event, Kind, LEDGER};
use crate::store::database::Database;
use crate::transaction::{Error, Needs, Refusal, Rows, Unavailable, Work};
use protocol::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::sync::mpsc;
use tracing::{error, info};

/// Most operations in one transaction, which bounds how long the first one waits.
const BATCH_MAX: usize = 1024;

/// The state of the thread.
pub(super) struct Writer {
    database: Database,
    connection: Connection,
    queue: mpsc::Receiver<Box<dyn Work>>,
    newest: Arc<Newest>,
    metrics: Arc<Metrics>,
    /// Writes fail. Readiness reads it too.
    failing: Arc<AtomicBool>,
}

impl Writer {
    pub(super) fn new(
        database: &Database,
        connection: Connection,
        queue: mpsc::Receiver<Box<dyn Work>>,
        newest: Arc<Newest>,
        metrics: Arc<Metrics>,
        failing: Arc<AtomicBool>,
    ) -> Writer {
        Writer { database: database.clone(), connection, queue, newest, metrics, failing }
    }

    /// Runs until all senders are dropped and the queue is empty.
    pub(super) fn run(mut self) {
        let mut batch: Vec<Box<dyn Work>> = Vec::with_capacity(BATCH_MAX);
        while self.queue.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
            self.write(std::mem::take(&mut batch));
        }
    }

    /// Writes a batch and answers it. A batch that fails because of its rows is split in halves, down to the one operation
    /// that can't be stored, so that it does not fail the others.
    fn write(&mut self, mut batch: Vec<Box<dyn Work>>) {
        let began = Instant::now();
        let durable = match self.usable_connection().and_then(|connection| commit(connection, &mut batch)) {
            Ok(committed) => {
                self.metrics.committed(batch.len(), began.elapsed(), &committed);
                // Before the answers: a caller that revoked a key must find the change in the feed.
                if let Some(newest) = committed.newest_change {
                    self.newest.raise_to(newest);
                }
                self.recovered(committed.is_written);
                Ok(())
            }
            // If no other row can be written either, the database is at fault and a retry may succeed.
            Err(cause) if !cause.is_of_a_row() || !can_write_rows(&self.connection) => {
                self.failed(&cause);
                Err(Error::Unavailable(Unavailable::Failed))
            }
            Err(_) if batch.len() > 1 => {
                let rest = batch.split_off(batch.len() / 2);
                self.write(batch);
                return self.write(rest);
            }
            Err(cause) if cause.is_unstorable() => {
                self.metrics.operations_unstorable.inc();
                error!(%cause, database = %self.database, "the database rejects a write, which is refused");
                Err(Error::Refused(Refusal::Unstorable))
            }
            Err(cause) => {
                self.failed(&cause);
                Err(Error::Unavailable(Unavailable::Failed))
            }
        };
        for work in batch {
            work.answer(durable.clone());
        }
    }

    /// The connection, reopened if it was lost.
    fn usable_connection(&mut self) -> sql::Result<&Connection> {
        if !self.connection.is_usable() || self.connection.check_primary().is_err() {
            self.connection = Connection::open(&self.database, Purpose::Write)?;
        }
        Ok(&self.connection)
    }

    /// An empty transaction succeeds even on a full disk, so recovery is reported only after a real write.
    fn recovered(&mut self, is_written: bool) {
        if !self.failing.load(Ordering::Relaxed) {
            return;
        }
        if !is_written && self.connection.write(rewrite_a_row).is_err() {
            return;
        }
        self.failing.store(false, Ordering::Relaxed);
        info!("the database answers again");
    }

    fn failed(&mut self, cause: &sql::Error) {
        self.metrics.commit_failures.inc();
        if !self.failing.swap(true, Ordering::Relaxed) {
            error!(%cause, database = %self.database, "the database fails; writes answer 503 until it recovers");
        }
    }
}

/// Writes a row unchanged.
fn rewrite_a_row(connection: &Connection) -> sql::Result<u64> {
    connection.execute("UPDATE feed SET base = base", &[])
}

/// Writes a row of the audit trail, as almost every operation does, and rolls back.
fn can_write_rows(connection: &Connection) -> bool {
    let mut rows = Rows::default();
    rows.record(Event::new(Kind::Decision, Timestamp::from_millis(0), LEDGER, &()));
    let mut is_written = false;
    // The error makes the transaction roll back.
    let _ = connection.write(|connection| {
        save::save(connection, &rows)?;
        is_written = true;
        Err::<(), _>(sql::Error::Row("rolled back on purpose".to_owned()))
    });
    is_written
}

/// Applies a batch in one transaction, which is rolled back after an error.
pub(super) fn commit(connection: &Connection, batch: &mut [Box<dyn Work>]) -> sql::Result<Committed> {
    let mut needs = Needs::default();
    for work in batch.iter() {
        work.needs(&mut needs);
    }
    let before = connection.writes();
    let (rows, newest_change) = connection.write(|connection| {
        let mut rows = load::load(connection, &needs)?;
        for work in batch.iter_mut() {
            work.apply(&mut rows);
        }
        let newest_change = save::save(connection, &rows)?;
        Ok((rows, newest_change))
    })?;
    Ok(Committed {
        transfers: rows.journal.iter().map(|line| line.transfer.kind.as_str()).collect(),
        outcomes: rows.outcomes().collect(),
        decisions_dropped: rows.decisions_dropped,
        credits_lost: rows.credits_lost(),
        credits_unaccounted: rows.credits_unaccounted(),
        recalls: rows.recalls(),
        newest_change,
        is_written: connection.writes() > before,
    })
}
