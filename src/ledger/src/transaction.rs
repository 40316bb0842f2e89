//! One write: what it needs, what it changes, and why it may be refused.
//!
//! An [`Operation`] names the rows it needs, is applied to them in memory by the rules of its subject, and is answered once
//! the changed rows are durable. Knows no database: the store loads, runs and saves.

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

/// The database can't serve now. Asking again later is right; every write is idempotent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Too many writes wait.
    #[error("too many writes are waiting")]
    Busy,
    /// The database failed; the log has the cause.
    #[error("the database does not answer")]
    Failed,
    /// Too many reports are running.
    #[error("too many reports are running; try again when one has finished")]
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
    /// It was not written, or it is not known whether it was: ask again with the same ids.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// One write, by the crate's rules. It must check everything before it changes a row. It is applied again, to other rows,
/// if another one of its transaction can't be stored.
pub trait Operation: Clone + Send + 'static {
    /// What the asker learns.
    type Answer: Send + 'static;
    /// Names the rows that [`Operation::apply`] looks at.
    fn needs(&self, needs: &mut Needs);
    /// Decides, and changes rows.
    fn apply(self, rows: &mut Rows) -> Result<Self::Answer, Refusal>;
}

/// An operation on its way through a store, whatever its answer's type.
pub trait Work: Send {
    /// See [`Operation::needs`].
    fn needs(&self, needs: &mut Needs);
    /// Applies the operation and keeps its answer. Called again if the transaction came to nothing.
    fn apply(&mut self, rows: &mut Rows);
    /// Hands the answer out. Called once, after the rows are durable or are known not to be.
    fn answer(self: Box<Self>, durable: Result<(), Error>);
}

/// What the asker of an operation gets.
pub type Outcome<O> = Result<<O as Operation>::Answer, Error>;

/// An operation with somebody who waits for it.
pub struct Queued<O: Operation> {
    operation: O,
    outcome: Option<Result<O::Answer, Refusal>>,
    reply: oneshot::Sender<Outcome<O>>,
}

impl<O: Operation> Queued<O> {
    /// The work, and where its answer will arrive.
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

    fn answer(self: Box<Self>, durable: Result<(), Error>) {
        let answer = match (durable, self.outcome) {
            (Ok(()), Some(outcome)) => outcome.map_err(Error::Refused),
            (Ok(()), None) => Err(Error::Unavailable(Unavailable::Failed)),
            (Err(error), _) => Err(error),
        };
        // An asker that has gone away asks again with the same id, or does not care.
        let _ = self.reply.send(answer);
    }
}
