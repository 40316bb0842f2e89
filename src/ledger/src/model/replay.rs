//! Stored answers to `Idempotency-Key`s.

use protocol::Timestamp;

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
