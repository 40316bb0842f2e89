//! Remembers hashes that the ledger does not know, in a table of fixed size, so that a flood of invented keys can't make it
//! grow.
//!
//! The table is a fixed number of values of shared data. Each is a short ring in which a new hash displaces the oldest.
//! Every hash is forgotten within [`TTL_MS`], so that a key that was created meanwhile is refused no longer than that.

use crate::window::Monotonic;
use protocol::api_key::KeyHash;

/// How long an unknown hash is refused without asking the ledger again.
pub const TTL_MS: u64 = 10_000;

const SLOTS: u16 = 512;
const ENTRIES_MAX: usize = 16;
/// 16 bytes of the hash, and 8 bytes of the time at which it expires.
const ENTRY_BYTES: usize = 24;

/// The name of the value that may hold this hash. The number in it is the version of the layout.
pub fn name(hash: &KeyHash) -> String {
    let [high, low, ..] = hash.as_bytes();
    format!("agentrelay/unknown/1/{}", u16::from_le_bytes([*high, *low]) % SLOTS)
}

/// True if the value says that the ledger did not know this hash a moment ago.
pub fn contains(value: &[u8], hash: &KeyHash, now: Monotonic) -> bool {
    entries(value).any(|entry| entry.starts_with(prefix(hash)) && expires_at_ms(entry) > now.0)
}

/// The value after this hash is added.
pub fn insert(value: &[u8], hash: &KeyHash, now: Monotonic) -> Vec<u8> {
    let mut next = Vec::with_capacity(ENTRIES_MAX.saturating_mul(ENTRY_BYTES));
    next.extend_from_slice(prefix(hash));
    next.extend_from_slice(&now.0.saturating_add(TTL_MS).to_le_bytes());
    let older =
        entries(value).filter(|entry| expires_at_ms(entry) > now.0 && !entry.starts_with(prefix(hash)));
    older.take(ENTRIES_MAX.saturating_sub(1)).for_each(|entry| next.extend_from_slice(entry));
    next
}

fn entries(value: &[u8]) -> impl Iterator<Item = &[u8; ENTRY_BYTES]> {
    value.as_chunks::<ENTRY_BYTES>().0.iter()
}

fn prefix(hash: &KeyHash) -> &[u8] {
    hash.as_bytes().first_chunk::<16>().map_or(&[], |prefix| prefix)
}

fn expires_at_ms(entry: &[u8; ENTRY_BYTES]) -> u64 {
    entry.last_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_displaces_the_oldest_entries_and_uses_no_more_memory() {
        let hashes: Vec<KeyHash> = (0..100u8).map(|n| KeyHash::of(&[n])).collect();
        let mut value = Vec::new();
        for hash in &hashes {
            value = insert(&value, hash, Monotonic(5));
            value = insert(&value, hash, Monotonic(5));
        }
        assert_eq!(value.len(), ENTRIES_MAX * ENTRY_BYTES);
        assert!(contains(&value, &hashes[99], Monotonic(5)));
        assert!(contains(&value, &hashes[84], Monotonic(5)));
        assert!(!contains(&value, &hashes[83], Monotonic(5)));
        assert!(!contains(&value, &hashes[99], Monotonic(5 + TTL_MS)));
        assert!(!contains(b"other bytes", &hashes[99], Monotonic(5)));
    }
}
