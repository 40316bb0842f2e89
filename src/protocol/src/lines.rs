//! Streamed answers: lines, of which the last, the closing record, says how many came before it and their SHA-256.
//!
//! Owns the count and the digest. What the lines are is their subject's.

use crate::audit::Digest;
use sha2::{Digest as _, Sha256};

/// How the closing record's line begins. No other line does.
pub const END: &[u8] = b"{\"type\":\"end\"";

/// Lines so far, each with its line feed.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    lines: u64,
    hasher: Sha256,
}

impl Tally {
    /// Adds what follows, whole lines or parts of them.
    pub fn add(&mut self, bytes: &[u8]) {
        let feeds = bytes.iter().filter(|byte| **byte == b'\n').count();
        self.lines = self.lines.saturating_add(u64::try_from(feeds).unwrap_or(u64::MAX));
        self.hasher.update(bytes);
    }

    /// How many lines, and the SHA-256 over them.
    pub fn closing(&self) -> (u64, Digest) {
        (self.lines, Digest::from_bytes(self.hasher.clone().finalize().into()))
    }
}
