//! One write: the rows it needs, its changes, and why it may be refused.
//!
//! An [`Operation`] names the rows it needs. It is applied to them in memory, and answered after the changed rows are
//! commit. Knows no database: the store loads, runs and saves.

pub mod idempotency;
mod needs;
mod refusal;
mod rows;
mod table;

pub use needs::Needs;
pub use refusal::{Payer, Refusal};
pub use rows::{HOUR_MILLIS, JournalLine, Rows};
pub use table::Table;

use tokio::sync::oneshot;

/// The database can't serve now. The caller should retry later; every write is idempotent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Too many writes wait.
    #[error("too many writes are waiting")]
    Busy,
    /// The database failed; the log has the cause.
    #[error("the database does not answer")]
    Failed,
    /// Too many reports are running.
    #[error("other reports are in progress; retry when they have finished")]
    ReportsWait,
    /// The report takes too long.
    #[error(
        "the report takes too long; narrow it: a shorter time (from, to), one tenant, one key or fewer groups"
    )]
    ReportTooLong,
    /// The ledger is stopping.
    #[error("the ledger is stopping")]
    Stopping,
}

/// Why an operation has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The rules refused it.
    #[error("the rules refused it: {0:?}")]
    Refused(Refusal),
    /// It was not written, or that is unknown: retry with the same ids.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// One write. It must check everything before it changes a row. It is applied again, to newly loaded rows, if another
/// operation of its transaction can't be stored.
pub trait Operation: Clone + Send + 'static {
    /// What the caller gets.
    type Answer: Send + 'static;
    /// Names the rows that [`Operation::apply`] reads.
    fn needs(&self, needs: &mut Needs);
    /// Checks, and changes rows.
    fn apply(self, rows: &mut Rows) -> Result<Self::Answer, Refusal>;
}

/// An operation in the store's queue, without its answer's type.
pub trait Work: Send {
    /// See [`Operation::needs`].
    fn needs(&self, needs: &mut Needs);
    /// Applies the operation and keeps its answer. Called again if the transaction was rolled back.
    fn apply(&mut self, rows: &mut Rows);
    /// Sends the answer. Called once, after the commit succeeded or failed.
    fn answer(self: Box<Self>, commit: Result<(), Error>);
}

/// The result of an operation for its caller.
pub type Outcome<O> = Result<<O as Operation>::Answer, Error>;

/// An operation with the channel for its answer.
pub struct Queued<O: Operation> {
    operation: O,
    outcome: Option<Result<O::Answer, Refusal>>,
    reply: oneshot::Sender<Outcome<O>>,
}

impl<O: Operation> Queued<O> {
    /// The work, and the receiver of its answer.
    pub fn new(operation: O) -> (Box<Queued<O>>, oneshot::Receiver<Outcome<O>>) {
        let (reply, answer) = oneshot::channel();
        (Box::new(Queued { operation, outcome: None, reply }), answer)
    }
}

impl<O: Operation> Work for Queued<O> {
    fn needs(&self, needs: &mut Needs) {
        self.operation.needs(needs);
    }

    fn apply(&mut self, rows: &mut Rows) {
        self.outcome = Some(self.operation.clone().apply(rows));
    }

    fn answer(self: Box<Self>, commit: Result<(), Error>) {
        let answer = match (commit, self.outcome) {
            (Ok(()), Some(outcome)) => outcome.map_err(Error::Refused),
            (Ok(()), None) => Err(Error::Unavailable(Unavailable::Failed)),
            (Err(error), _) => Err(error),
        };
        // A caller that left retries with the same id, or does not need the answer.
        let _ = self.reply.send(answer);
    }
}
