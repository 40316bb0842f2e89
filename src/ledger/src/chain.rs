//! The audit trail as a hash chain. Pure: no IO, no clock.
//!
//! Rows are sealed in batches. Each row has a leaf, the SHA-256 of its canonical line (its JSON as it is exported).
//! A checkpoint holds its batch's leaves, the hash of the checkpoint before it, and an Ed25519 signature over both. So
//! whoever has the public key can name the row that was changed, removed, put in or moved, without asking the ledger.
//!
//! An export is lines of JSON: each checkpoint, then its rows; then the rows that are not sealed yet; then an end that
//! says, signed, what the export holds.

mod export;
#[cfg(test)]
mod tests;
mod verify;

pub use export::{End, EndLine, Exporter, row_line};
pub use verify::{Fault, Summary, Verifier};

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use protocol::Timestamp;
use protocol::audit::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The most rows under one checkpoint.
pub const BATCH_ROWS_MAX: u32 = 1024;

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
    /// As the next one sees it.
    pub const fn head(&self) -> CheckpointHead {
        CheckpointHead { number: self.number, last: self.last, hash: self.hash }
    }

    fn computed_hash(&self) -> Digest {
        let mut hasher = Sha256::new();
        hasher.update(b"agentrelay audit checkpoint v1\0");
        for number in [self.number, self.first, self.last, self.sealed_at.as_millis()] {
            hasher.update(number.to_be_bytes());
        }
        hasher.update(self.previous.as_bytes());
        hasher.update(self.root.as_bytes());
        Digest::from_bytes(hasher.finalize().into())
    }
}

/// The leaf of a row's line.
pub fn leaf(line: &[u8]) -> Digest {
    Digest::from_bytes(
        Sha256::new().chain_update(b"agentrelay audit row v1\0").chain_update(line).finalize().into(),
    )
}

fn root(leaves: &str) -> Digest {
    let hasher = Sha256::new().chain_update(b"agentrelay audit leaves v1\0").chain_update(leaves);
    Digest::from_bytes(hasher.finalize().into())
}

fn written(leaves: &[Digest]) -> String {
    leaves.iter().map(ToString::to_string).collect()
}

/// Signs checkpoints. Its secret half never leaves it.
pub struct Signer {
    key: SigningKey,
    public_key: String,
}

impl Signer {
    /// From the 32 bytes that the operating system's randomness made.
    pub fn from_seed(seed: &[u8; 32]) -> Signer {
        let key = SigningKey::from_bytes(seed);
        let public_key = hex(key.verifying_key().as_bytes());
        Signer { key, public_key }
    }

    /// The public half, in hexadecimal.
    pub fn public_key(&self) -> &str {
        &self.public_key
    }

    fn sign(&self, digest: &Digest) -> String {
        hex(&self.key.sign(digest.as_bytes()).to_bytes())
    }

    /// Seals rows that follow `head`, given their leaves in order. `None` without rows.
    pub fn seal(&self, head: CheckpointHead, leaves: &[Digest], now: Timestamp) -> Option<Checkpoint> {
        let count = u64::try_from(leaves.len()).ok().filter(|count| *count > 0)?;
        let leaves = written(leaves);
        let mut checkpoint = Checkpoint {
            number: head.number.checked_add(1)?,
            first: head.last.checked_add(1)?,
            last: head.last.checked_add(count)?,
            sealed_at: now,
            previous: head.hash,
            root: root(&leaves),
            hash: Digest::ZERO,
            public_key: self.public_key.clone(),
            signature: String::new(),
            leaves: Some(leaves),
        };
        checkpoint.hash = checkpoint.computed_hash();
        checkpoint.signature = self.sign(&checkpoint.hash);
        Some(checkpoint)
    }
}

fn is_signed(public_key: &str, signature: &str, digest: &Digest) -> bool {
    let key = unhex::<32>(public_key).and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok());
    let signature = unhex::<64>(signature).map(|bytes| Signature::from_bytes(&bytes));
    match (key, signature) {
        (Some(key), Some(signature)) => key.verify_strict(digest.as_bytes(), &signature).is_ok(),
        _ => false,
    }
}

/// In lowercase hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// From lowercase hexadecimal.
pub fn unhex<const BYTES: usize>(text: &str) -> Option<[u8; BYTES]> {
    let plain = text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    if !plain || text.len() != BYTES.checked_mul(2)? {
        return None;
    }
    let mut bytes = [0; BYTES];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}
