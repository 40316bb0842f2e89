//! The one thread that writes. It takes all that waits, applies it in one transaction, and answers after the commit:
//! one fsync for many callers (group commit).

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

/// At most so many operations in one transaction, so that the first of them does not wait for ever.
const BATCH_MAX: usize = 1024;

/// What the thread owns.
pub(super) struct Writer {
    database: Database,
    connection: Connection,
    queue: mpsc::Receiver<Box<dyn Work>>,
    newest: Arc<Newest>,
    metrics: Arc<Metrics>,
    /// Writes fail; readiness looks at it too.
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

    /// Runs until every sender is gone and the queue is empty.
    pub(super) fn run(mut self) {
        let mut batch: Vec<Box<dyn Work>> = Vec::with_capacity(BATCH_MAX);
        while self.queue.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
            self.write(std::mem::take(&mut batch));
        }
    }

    /// Writes a batch and answers it. One that fails for what is in it is written in halves, down to the one operation
    /// that can't be: its neighbours are not to suffer for it.
    fn write(&mut self, mut batch: Vec<Box<dyn Work>>) {
        let began = Instant::now();
        let durable = match self.usable_connection().and_then(|connection| commit(connection, &mut batch)) {
            Ok(committed) => {
                self.metrics.committed(batch.len(), began.elapsed(), &committed);
                // Before the answers: who revoked a key and then asks the feed must find it there.
                if let Some(newest) = committed.newest_change {
                    self.newest.reached(newest);
                }
                self.recovered(committed.is_written);
                Ok(())
            }
            // Where nothing else can be written either, asking again later is right.
            Err(cause) if !cause.is_of_a_row() || !takes_other_rows(&self.connection) => {
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
                error!(%cause, database = %self.database, "the database does not take a write, which is refused");
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

    /// The connection, opened anew where the last one was lost.
    fn usable_connection(&mut self) -> sql::Result<&Connection> {
        if !self.connection.is_usable() || self.connection.look().is_err() {
            self.connection = Connection::open(&self.database, Purpose::Write)?;
        }
        Ok(&self.connection)
    }

    /// A transaction that wrote nothing also works on a full disk, so where there was none other, one is tried that
    /// writes: the ledger's own housekeeping comes by each second.
    fn recovered(&mut self, is_written: bool) {
        if !self.failing.load(Ordering::Relaxed) {
            return;
        }
        if !is_written && self.connection.write(try_to_write).is_err() {
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

/// Writes a row as it is.
fn try_to_write(connection: &Connection) -> sql::Result<u64> {
    connection.execute("UPDATE feed SET base = base", &[])
}

/// Writes a row of the audit trail, as almost every operation does, and takes it back.
fn takes_other_rows(connection: &Connection) -> bool {
    let mut rows = Rows::default();
    rows.record(Event::new(Kind::Decision, Timestamp::from_millis(0), LEDGER, &()));
    let mut is_taken = false;
    // An error rolls back.
    let _ = connection.write(|connection| {
        save::save(connection, &rows)?;
        is_taken = true;
        Err::<(), _>(sql::Error::Row("it was a try".to_owned()))
    });
    is_taken
}

/// Applies a batch in one transaction. On an error nothing of it is in the database.
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
