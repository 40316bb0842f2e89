//! The audit trail as a hash chain. Pure: no IO, no clock.
//!
//! Rows are sealed in batches. Each row has a leaf, the SHA-256 of its canonical line (its JSON as exported). A checkpoint
//! holds its batch's leaves, the hash of the previous checkpoint, and an Ed25519 signature over both. So anyone with the
//! public key can find the row that was changed, removed, inserted or moved, without asking the ledger.
//!
//! An export is lines of JSON: each checkpoint followed by its rows, then the rows that are not sealed yet, then a signed
//! end that says what the export contains.

#[cfg(test)]
mod tests;

use crate::model::checkpoint::{Checkpoint, CheckpointHead};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use protocol::Timestamp;
use protocol::audit::Digest;
use sha2::{Digest as _, Sha256};

/// The most rows under one checkpoint.
pub const BATCH_ROWS_MAX: u32 = 1024;

impl Checkpoint {
    /// Computes the hash that is signed.
    pub(super) fn computed_hash(&self) -> Digest {
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

pub(super) fn root(leaves: &str) -> Digest {
    let hasher = Sha256::new().chain_update(b"agentrelay audit leaves v1\0").chain_update(leaves);
    Digest::from_bytes(hasher.finalize().into())
}

pub(super) fn concatenate(leaves: &[Digest]) -> String {
    leaves.iter().map(ToString::to_string).collect()
}

/// Signs checkpoints. Never reveals the private key.
pub struct Signer {
    key: SigningKey,
    public_key: String,
}

impl Signer {
    /// From 32 random bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Signer {
        let key = SigningKey::from_bytes(seed);
        let public_key = hex(key.verifying_key().as_bytes());
        Signer { key, public_key }
    }

    /// The public key, in hexadecimal.
    pub fn public_key(&self) -> &str {
        &self.public_key
    }

    pub(super) fn sign(&self, digest: &Digest) -> String {
        hex(&self.key.sign(digest.as_bytes()).to_bytes())
    }

    /// Seals rows that follow `head`, given their leaves in order. `None` without rows.
    pub fn seal(&self, head: CheckpointHead, leaves: &[Digest], now: Timestamp) -> Option<Checkpoint> {
        let count = u64::try_from(leaves.len()).ok().filter(|count| *count > 0)?;
        let leaves = concatenate(leaves);
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

pub(super) fn is_signed(public_key: &str, signature: &str, digest: &Digest) -> bool {
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
