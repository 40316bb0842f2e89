//! Checkpoints of the audit trail.

use protocol::Timestamp;
use protocol::audit::Digest;
use serde::{Deserialize, Serialize};

/// One sealed batch of the audit trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Counts from 1, without gaps.
    pub number: u64,
    /// Sequence number of its first row.
    pub first: u64,
    /// Sequence number of its last row.
    pub last: u64,
    /// When it was made. Its day is the day of its rows in exports and for retention.
    pub sealed_at: Timestamp,
    /// The hash of the checkpoint before it, zeros for the first.
    pub previous: Digest,
    /// SHA-256 of its leaves.
    pub root: Digest,
    /// SHA-256 of all of the above: what is signed, and what the next one names.
    pub hash: Digest,
    /// The key that signed it, in hexadecimal.
    pub public_key: String,
    /// Ed25519, in hexadecimal.
    pub signature: String,
    /// One digest after the other, in hexadecimal; absent once its rows were removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaves: Option<String>,
}

/// What the next checkpoint must know of the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointHead {
    /// Its number.
    pub number: u64,
    /// Its last row.
    pub last: u64,
    /// Its hash.
    pub hash: Digest,
}

impl CheckpointHead {
    /// Before the first.
    pub const NONE: CheckpointHead = CheckpointHead { number: 0, last: 0, hash: Digest::ZERO };
}

impl Checkpoint {
    /// What the next one follows.
    pub const fn head(&self) -> CheckpointHead {
        CheckpointHead { number: self.number, last: self.last, hash: self.hash }
    }
}

/// Batches of the audit trail, the oldest that have their rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OldBatches {
    /// The number of the first.
    pub first: u64,
    /// The number of the last.
    pub last: u64,
    /// The first row of the first one.
    pub first_row: u64,
    /// The last row of the last one.
    pub last_row: u64,
}

impl OldBatches {
    /// How many rows they have.
    pub fn rows(&self) -> u64 {
        self.last_row.saturating_sub(self.first_row).saturating_add(1)
    }
}
