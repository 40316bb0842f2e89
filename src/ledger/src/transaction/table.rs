//! A part of a database table in memory, with dirty flags.

use std::collections::HashMap;
use std::hash::Hash;

/// Rows by key.
#[derive(Debug)]
pub struct Table<K, V> {
    slots: HashMap<K, Slot<V>>,
}

#[derive(Debug)]
struct Slot<V> {
    row: V,
    is_dirty: bool,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Table { slots: HashMap::new() }
    }
}

impl<K: Eq + Hash, V> Table<K, V> {
    /// Adds a row that the database has.
    pub fn load(&mut self, key: K, row: V) {
        self.slots.insert(key, Slot { row, is_dirty: false });
    }

    /// Adds or replaces a row.
    pub fn insert(&mut self, key: K, row: V) {
        self.slots.insert(key, Slot { row, is_dirty: true });
    }

    /// A row, to read it.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.slots.get(key).map(|slot| &slot.row)
    }

    /// A row, to change it: marks it dirty.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.slots.get_mut(key).map(|slot| {
            slot.is_dirty = true;
            &mut slot.row
        })
    }

    /// True if there are no rows.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// All rows, in no order.
    pub fn rows(&self) -> impl Iterator<Item = (&K, &V)> {
        self.slots.iter().map(|(key, slot)| (key, &slot.row))
    }

    /// Calls `change` on all rows, and marks those dirty for which it returns true.
    pub fn change_each(&mut self, mut change: impl FnMut(&K, &mut V) -> bool) {
        for (key, slot) in &mut self.slots {
            slot.is_dirty |= change(key, &mut slot.row);
        }
    }

    /// The changed rows in key order, which a B-tree writes fastest.
    pub fn dirty(&self) -> Vec<(&K, &V)>
    where
        K: Ord,
    {
        let mut dirty: Vec<_> =
            self.slots.iter().filter(|(_, slot)| slot.is_dirty).map(|(key, slot)| (key, &slot.row)).collect();
        dirty.sort_unstable_by_key(|(key, _)| *key);
        dirty
    }
}
