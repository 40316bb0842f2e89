//! Answers that are given once and repeated: what an `Idempotency-Key` of the admin API means at rest.
//!
//! Does not know HTTP. Never keeps a secret: for a created key the kept answer is the key's id alone.

use crate::model::replay::ReplayKey;
use crate::transaction::{Needs, Operation, Refusal, Rows};
use protocol::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

/// How long an answer is kept: a week.
pub const KEPT_SECONDS: u64 = 604_800;

/// An `Idempotency-Key` with the body it came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// Under what the answer is kept.
    pub at: ReplayKey,
    /// SHA-256 of the body.
    pub body: [u8; 32],
}

impl Idempotency {
    /// For a body as it was understood.
    pub fn new(at: ReplayKey, body: &[u8]) -> Idempotency {
        Idempotency { at, body: Sha256::digest(body).into() }
    }
}

/// An operation whose answer is kept, so that asking again gives the same and changes nothing.
pub struct Once<O: Operation, T> {
    pub operation: O,
    /// Under what the answer is kept, if at all.
    pub idempotency: Option<Idempotency>,
    /// The answer as it is given and kept.
    pub shown: fn(O::Answer, Timestamp) -> T,
    pub now: Timestamp,
}

/// Whatever the answer is.
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
