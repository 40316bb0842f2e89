//! Answers that are given once and repeated: what an `Idempotency-Key` of the admin API means at rest.
//!
//! Does not know HTTP. Never keeps a secret: for a created key the kept answer is the key's id alone.

use protocol::Timestamp;
use sha2::{Digest, Sha256};

/// How long an answer is kept: a week.
pub const KEPT_SECONDS: u64 = 604_800;

/// Under what an answer is kept. One actor's keys are no other's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplayKey {
    /// The admin credential's id.
    pub actor: String,
    /// Method and path.
    pub route: String,
    /// The `Idempotency-Key` as sent.
    pub key: String,
}

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

/// A kept answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// SHA-256 of the body that it answered.
    pub body: [u8; 32],
    /// The answer as JSON.
    pub answer: String,
    /// When it was given.
    pub created_at: Timestamp,
}
