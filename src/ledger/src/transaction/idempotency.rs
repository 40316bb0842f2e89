//! Answers that are stored and repeated for an `Idempotency-Key` of the admin API.
//!
//! Knows no HTTP. Never stores a secret: for a created key it stores the id alone.

use crate::model::replay::Idempotency;
use crate::transaction::{Needs, Operation, Refusal, Rows};
use protocol::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How long an answer is stored: a week.
pub const KEPT_SECONDS: u64 = 604_800;

/// An operation whose answer is stored, so that repeating it gives the same answer and changes nothing.
pub struct Once<O: Operation, T> {
    pub operation: O,
    pub idempotency: Option<Idempotency>,
    /// Makes the answer that is sent and stored.
    pub shown: fn(O::Answer, Timestamp) -> T,
    pub now: Timestamp,
}

impl<O: Operation, T> Clone for Once<O, T> {
    fn clone(&self) -> Once<O, T> {
        let Once { operation, idempotency, shown, now } = self;
        Once { operation: operation.clone(), idempotency: idempotency.clone(), shown: *shown, now: *now }
    }
}

impl<O: Operation, T: Serialize + DeserializeOwned + Send + 'static> Operation for Once<O, T> {
    type Answer = T;

    fn needs(&self, needs: &mut Needs) {
        self.operation.needs(needs);
        needs.replays.extend(self.idempotency.as_ref().map(|idempotency| idempotency.at.clone()));
    }

    fn apply(self, rows: &mut Rows) -> Result<T, Refusal> {
        if let Some(answer) = rows.replay(&self.idempotency)? {
            return Ok(answer);
        }
        let answer = (self.shown)(self.operation.apply(rows)?, self.now);
        rows.keep_answer_as_json(self.idempotency, &answer, self.now);
        Ok(answer)
    }
}
