//! Streamed answers: lines, followed by a closing record with the number of lines before it and their SHA-256.
//!
//! This module computes the count and the digest. The code that streams the lines defines their contents.

use crate::audit::Digest;
use sha2::{Digest as _, Sha256};

/// The first bytes of the closing record. No other line begins like this.
pub const END: &[u8] = b"{\"type\":\"end\"";

/// Count and digest of the lines so far, including their line feeds.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    lines: u64,
    hasher: Sha256,
}

impl Tally {
    /// Adds the next bytes, which may be whole lines or parts of lines.
    pub fn add(&mut self, bytes: &[u8]) {
        let feeds = bytes.iter().filter(|byte| **byte == b'\n').count();
        self.lines = self.lines.saturating_add(u64::try_from(feeds).unwrap_or(u64::MAX));
        self.hasher.update(bytes);
    }

    /// The number of lines and their SHA-256.
    pub fn closing(&self) -> (u64, Digest) {
        (self.lines, Digest::from_bytes(self.hasher.clone().finalize().into()))
    }
}
