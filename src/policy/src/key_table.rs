//! A worker's cache of key records. It is bounded and contains only keys that the ledger knows.

use crate::Key;
use crate::window::Monotonic;
use protocol::api_key::KeyHash;
use protocol::{KeyId, TenantId};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

/// A full table drops one entry in `SWEPT_PART` at once, because a sweep takes time in proportion to the table's size.
const SWEPT_PART: usize = 8;

/// The keys and tenants whose records may be out of date.
#[derive(Debug, Default)]
pub struct Changed {
    /// These keys, and the keys that were issued to them.
    pub keys: HashSet<KeyId>,
    /// All keys of these tenants.
    pub tenants: HashSet<TenantId>,
}

struct Entry {
    key: Arc<Key>,
    fetched: Monotonic,
    /// The record was found at least once since the last sweep.
    used: bool,
}

/// Key records by hash.
pub struct KeyTable {
    entries: Entries,
    records_max: usize,
    /// The position at which the next sweep begins. It moves on, so that not always the same keys are dropped first.
    sweep_start: usize,
}

type Entries = HashMap<KeyHash, Entry, BuildHasherDefault<FirstBytes>>;

/// Takes the first bytes of a key's SHA-256 as its hash. Nobody can choose keys that collide, because the table contains
/// only keys that the ledger made.
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

    // Called with the length of the array, which is the same for every key.
    fn write_usize(&mut self, _: usize) {}
}

impl KeyTable {
    /// An empty table for at records_max `records_max` records.
    pub fn new(records_max: usize) -> KeyTable {
        KeyTable { entries: Entries::default(), records_max, sweep_start: 0 }
    }

    /// The record, if it is not older than `stale_ms`. An answer of the change feed at `confirmed` renews all records, because
    /// every record that had changed by then was dropped.
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

    /// Stores a record. Returns the change in the number of records; a sweep makes it negative.
    pub fn insert(&mut self, hash: KeyHash, key: Arc<Key>, fetched: Monotonic) -> i64 {
        if let Some(entry) = self.entries.get_mut(&hash) {
            entry.key = key;
            entry.fetched = fetched;
            return 0;
        }
        let before = self.count();
        if self.entries.len() >= self.records_max {
            self.sweep();
        }
        self.entries.insert(hash, Entry { key, fetched, used: false });
        self.count().saturating_sub(before)
    }

    /// Drops every record that may have changed, in one pass. Returns the change in the number of records.
    pub fn drop_changed(&mut self, changed: &Changed) -> i64 {
        if changed.keys.is_empty() && changed.tenants.is_empty() {
            return 0;
        }
        self.drop_where(|Key { record, .. }| {
            let parent = record.parent.as_ref().map(|parent| &parent.key_id);
            changed.keys.contains(&record.key_id)
                || parent.is_some_and(|parent| changed.keys.contains(parent))
                || changed.tenants.contains(&record.tenant_id)
        })
    }

    /// Drops every record. Returns the change in the number of records.
    pub fn clear(&mut self) -> i64 {
        self.drop_where(|_| true)
    }

    fn drop_where(&mut self, is_dropped: impl Fn(&Key) -> bool) -> i64 {
        let before = self.count();
        self.entries.retain(|_, entry| !is_dropped(&entry.key));
        self.count().saturating_sub(before)
    }

    /// Drops an eighth of the records: first those not found since the last sweep, then others if these are too few.
    fn sweep(&mut self) {
        let part = self.records_max.div_ceil(SWEPT_PART);
        let mut left = part;
        for (used_too, from) in [(false, self.sweep_start), (false, 0), (true, self.sweep_start), (true, 0)] {
            let mut place = 0_usize;
            self.entries.retain(|_, entry| {
                let is_dropped = left > 0 && place >= from && (used_too || !entry.used);
                place = place.saturating_add(1);
                left = left.saturating_sub(usize::from(is_dropped));
                !is_dropped
            });
            if left == 0 {
                break;
            }
        }
        for entry in self.entries.values_mut() {
            entry.used = false;
        }
        self.sweep_start = self.sweep_start.saturating_add(part).checked_rem(self.records_max).unwrap_or(0);
    }

    fn count(&self) -> i64 {
        i64::try_from(self.entries.len()).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::record;
    use protocol::key::{KeyRecord, Parent};

    const MOST: usize = 64;
    const PART: usize = 8;
    const STALE_MS: u64 = 1000;

    fn key(id: &str, tenant: &str, parent: Option<&str>) -> Arc<Key> {
        Arc::new(Key::new(KeyRecord {
            parent: parent.map(|id| Parent {
                agent_id: None,
                key_id: KeyId::parse(id).unwrap(),
                limits: vec![],
                concurrency: None,
            }),
            ..record(id, tenant)
        }))
    }

    fn hash(n: usize) -> KeyHash {
        KeyHash::of(&n.to_le_bytes())
    }

    fn add(table: &mut KeyTable, n: usize) -> i64 {
        table.insert(hash(n), key(&format!("key_{n}"), "ten", None), Monotonic(0))
    }

    fn find(table: &mut KeyTable, n: usize) -> bool {
        table.find(&hash(n), Monotonic(0), Monotonic(0), STALE_MS).is_some()
    }

    /// A table that is full with the keys 0 to 63.
    fn full() -> KeyTable {
        let mut table = KeyTable::new(MOST);
        assert_eq!((0..MOST).map(|n| add(&mut table, n)).sum::<i64>(), 64);
        table
    }

    #[test]
    fn a_full_table_drops_an_eighth_and_no_key_that_is_in_use() {
        let mut table = full();
        // Half of the keys are in use, then all but four. Four is fewer than a sweep drops.
        for in_use in [0..32, 4..64] {
            let mut table = full();
            assert!(in_use.clone().all(|n| find(&mut table, n)));
            assert_eq!(add(&mut table, 100), 1 - 8);
            let kept = in_use.clone().filter(|n| find(&mut table, *n)).count();
            let spare = MOST - in_use.len();
            assert_eq!(kept, in_use.len() - PART.saturating_sub(spare));
            assert!(find(&mut table, 100));
        }
        // The table fills up again before the next sweep.
        assert_eq!(add(&mut table, 100), 1 - 8);
        assert!((101..108).all(|n| add(&mut table, n) == 1));
        assert_eq!(add(&mut table, 108), 1 - 8);
    }

    #[test]
    fn a_table_of_keys_that_are_all_in_use_keeps_most_of_them() {
        let mut table = full();
        let mut lost = std::collections::BTreeSet::new();
        for round in 0..16 {
            for n in 0..MOST {
                if !find(&mut table, n) {
                    lost.insert(n);
                    add(&mut table, n);
                    assert!(find(&mut table, n));
                }
            }
            add(&mut table, 100 + round);
            let kept = (0..MOST).filter(|n| table.entries.contains_key(&hash(*n))).count();
            assert!(kept >= MOST - 3 * PART, "{kept} in round {round}");
        }
        assert!(lost.len() > MOST / 2, "the same few keys always go: {lost:?}");
    }

    #[test]
    fn keys_seen_once_do_not_displace_a_key_in_use() {
        let mut table = full();
        for n in 1000..5000 {
            assert!(find(&mut table, 7), "gone at {n}");
            add(&mut table, n);
            assert!(table.entries.len() <= MOST);
        }
    }

    #[test]
    fn a_small_table_still_stores_keys() {
        for records_max in 1..10 {
            let mut table = KeyTable::new(records_max);
            let grown: i64 = (0..100).map(|n| add(&mut table, n)).sum();
            assert_eq!(usize::try_from(grown).unwrap(), table.entries.len());
            assert!(table.entries.len() <= records_max);
            assert!(find(&mut table, 99));
        }
    }

    #[test]
    fn a_record_is_known_until_it_is_stale_and_again_once_confirmed_or_fetched() {
        let mut table = full();
        let mut known =
            |now, confirmed| table.find(&hash(1), Monotonic(now), Monotonic(confirmed), STALE_MS).is_some();
        assert!(known(1000, 0));
        assert!(!known(1001, 0));
        assert!(known(1001, 1));
        assert_eq!(table.insert(hash(1), key("key_1", "ten", None), Monotonic(5000)), 0);
        assert!(table.find(&hash(1), Monotonic(6000), Monotonic(0), STALE_MS).is_some());
    }

    #[test]
    fn only_changed_records_are_dropped() {
        let mut table = KeyTable::new(MOST);
        let keys =
            [("a", "ten_1", None), ("b", "ten_1", Some("a")), ("c", "ten_1", None), ("d", "ten_2", None)];
        for (n, (id, tenant, parent)) in keys.into_iter().enumerate() {
            table.insert(hash(n), key(id, tenant, parent), Monotonic(0));
        }
        let of_keys = |ids: &[&str]| ids.iter().map(|id| KeyId::parse(id).unwrap()).collect();
        let of_key = Changed { keys: of_keys(&["a", "unknown"]), ..Changed::default() };
        assert_eq!(table.drop_changed(&of_key), -2);
        assert!(!find(&mut table, 0) && !find(&mut table, 1) && find(&mut table, 2));
        let tenants = HashSet::from([TenantId::parse("ten_1").unwrap()]);
        assert_eq!(table.drop_changed(&Changed { tenants, ..Changed::default() }), -1);
        assert_eq!(table.drop_changed(&Changed::default()), 0);
        assert!(find(&mut table, 3));
        assert_eq!(table.clear(), -1);
        assert!(!find(&mut table, 3));
    }
}
