//! The worker's table of key records. Only keys that the ledger knows are in it, and it is bounded.

use policy::Key;
use policy::window::Monotonic;
use protocol::api_key::KeyHash;
use protocol::{KeyId, TenantId};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

/// Key records held at most. Beyond, those not used lately go first.
const KEYS_MAX: usize = 100_000;

struct Entry {
    key: Arc<Key>,
    fetched: Monotonic,
    /// Used since the table was last full.
    used: bool,
}

/// Records by hash.
#[derive(Default)]
pub struct KeyTable {
    entries: Entries,
}

type Entries = HashMap<KeyHash, Entry, BuildHasherDefault<FirstBytes>>;

/// Takes the first bytes of a key's hash, which is as good a hash as any: nobody can choose keys that collide, because
/// only keys that the ledger made are in the table.
#[derive(Default)]
struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    // The length of an array; says nothing.
    fn write_usize(&mut self, _: usize) {}
}

impl KeyTable {
    /// The record, if it is not older than `stale_ms`. Hearing from the change feed at `confirmed` renews all of
    /// them: whatever had changed until then was dropped.
    pub fn find(
        &mut self,
        hash: &KeyHash,
        now: Monotonic,
        confirmed: Monotonic,
        stale_ms: u64,
    ) -> Option<Arc<Key>> {
        let entry = self.entries.get_mut(hash)?;
        entry.used = true;
        let as_of = entry.fetched.0.max(confirmed.0);
        (now.0.saturating_sub(as_of) <= stale_ms).then(|| entry.key.clone())
    }

    /// Keeps a record. Returns by how many the table grew.
    pub fn insert(&mut self, hash: KeyHash, key: Arc<Key>, fetched: Monotonic) -> i64 {
        self.counted(|entries| {
            if entries.len() >= KEYS_MAX {
                entries.retain(|_, entry| std::mem::take(&mut entry.used));
            }
            if entries.len() >= KEYS_MAX {
                entries.clear();
            }
            entries.insert(hash, Entry { key, fetched, used: true });
        })
    }

    /// Drops every record of a key, and of those that it asked for.
    pub fn drop_key(&mut self, key_id: &KeyId) -> i64 {
        let is_of = |key: &Key| {
            let parent = key.record.parent.as_ref().map(|parent| &parent.key_id);
            key.record.key_id == *key_id || parent == Some(key_id)
        };
        self.counted(|entries| entries.retain(|_, entry| !is_of(&entry.key)))
    }

    /// Drops every record of a tenant.
    pub fn drop_tenant(&mut self, tenant_id: &TenantId) -> i64 {
        self.counted(|entries| entries.retain(|_, entry| entry.key.record.tenant_id != *tenant_id))
    }

    /// Drops every record.
    pub fn clear(&mut self) -> i64 {
        self.counted(Entries::clear)
    }

    fn counted(&mut self, change: impl FnOnce(&mut Entries)) -> i64 {
        let count = |entries: &Entries| i64::try_from(entries.len()).unwrap_or(i64::MAX);
        let before = count(&self.entries);
        change(&mut self.entries);
        count(&self.entries).saturating_sub(before)
    }
}
