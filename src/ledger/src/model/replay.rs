//! Stored answers to `Idempotency-Key`s.

use protocol::Timestamp;
use sha2::{Digest, Sha256};

/// The key of a stored answer. Each actor has its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplayKey {
    /// The admin credential's id.
    pub actor: String,
    /// Method and path.
    pub route: String,
    /// The `Idempotency-Key` as sent.
    pub key: String,
}

/// A stored answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// SHA-256 of the request body.
    pub body: [u8; 32],
    /// The answer as JSON.
    pub answer: String,
    pub created_at: Timestamp,
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
