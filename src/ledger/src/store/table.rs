//! A part of a database table in memory, which remembers what was changed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

/// Rows by key.
#[derive(Debug)]
pub struct Table<K, V> {
    slots: HashMap<K, Slot<V>>,
}

#[derive(Debug)]
struct Slot<V> {
    row: V,
    mark: Mark,
}

/// What the database does not know yet about a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It is as it was loaded.
    Clean,
    /// The database does not have it.
    New,
    /// The database has an older one.
    Changed,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Table { slots: HashMap::new() }
    }
}

impl<K: Eq + Hash, V> Table<K, V> {
    /// Puts in a row that the database has.
    pub fn load(&mut self, key: K, row: V) {
        self.slots.insert(key, Slot { row, mark: Mark::Clean });
    }

    /// Puts in a row that the database does not have.
    pub fn insert(&mut self, key: K, row: V) {
        match self.slots.entry(key) {
            Entry::Occupied(mut slot) => {
                let mark = if slot.get().mark == Mark::New { Mark::New } else { Mark::Changed };
                slot.insert(Slot { row, mark });
            }
            Entry::Vacant(slot) => {
                slot.insert(Slot { row, mark: Mark::New });
            }
        }
    }

    /// Looks at a row.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.slots.get(key).map(|slot| &slot.row)
    }

    /// Looks at a row in order to change it.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.slots.get_mut(key).map(|slot| {
            if slot.mark == Mark::Clean {
                slot.mark = Mark::Changed;
            }
            &mut slot.row
        })
    }

    /// True without any row.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Every row, in no order.
    pub fn rows(&self) -> impl Iterator<Item = (&K, &V)> {
        self.slots.iter().map(|(key, slot)| (key, &slot.row))
    }

    /// Every row, to change those for which `change` returns true.
    pub fn change_each(&mut self, mut change: impl FnMut(&K, &mut V) -> bool) {
        for (key, slot) in &mut self.slots {
            if change(key, &mut slot.row) && slot.mark == Mark::Clean {
                slot.mark = Mark::Changed;
            }
        }
    }

    /// Every row that the database does not have as it is, in the keys' order: that is kindest to a B-tree.
    pub fn dirty(&self) -> Vec<(&K, &V, Mark)>
    where
        K: Ord,
    {
        let mut dirty: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.mark != Mark::Clean)
            .map(|(key, slot)| (key, &slot.row, slot.mark))
            .collect();
        dirty.sort_unstable_by_key(|(key, _, _)| *key);
        dirty
    }
}
