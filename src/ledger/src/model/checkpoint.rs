//! Checkpoints of the audit trail.

use protocol::Timestamp;
use protocol::audit::Digest;
use serde::{Deserialize, Serialize};

/// One sealed batch of the audit trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// From 1, without gaps.
    pub number: u64,
    /// Sequence number of its first row.
    pub first: u64,
    /// Sequence number of its last row.
    pub last: u64,
    /// When it was created. Exports and retention take its day as the day of its rows.
    pub sealed_at: Timestamp,
    /// The hash of the previous checkpoint, zeros for the first.
    pub previous: Digest,
    /// SHA-256 of the leaves.
    pub root: Digest,
    /// SHA-256 of all of the above. It is signed, and the next checkpoint contains it.
    pub hash: Digest,
    /// The key that signed it, in hexadecimal.
    pub public_key: String,
    /// Ed25519, in hexadecimal.
    pub signature: String,
    /// The digests of its rows, concatenated in hexadecimal; absent after its rows were removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaves: Option<String>,
}

/// What the next checkpoint needs from the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointHead {
    pub number: u64,
    /// Its last row.
    pub last: u64,
    pub hash: Digest,
}

impl CheckpointHead {
    /// The head of an empty chain.
    pub const NONE: CheckpointHead = CheckpointHead { number: 0, last: 0, hash: Digest::ZERO };
}

impl Checkpoint {
    /// The head for the next checkpoint.
    pub const fn head(&self) -> CheckpointHead {
        CheckpointHead { number: self.number, last: self.last, hash: self.hash }
    }
}

/// The oldest batches of the audit trail that still have their rows.
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
    pub fn rows(&self) -> u64 {
        self.last_row.saturating_sub(self.first_row).saturating_add(1)
    }
}
