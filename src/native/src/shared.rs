//! The values that all workers of this Envoy share. They live as long as the process, whatever configuration comes.

use gate::{Locked, Shared};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

/// So many locks that two workers seldom want one at the same time.
const SHARDS: usize = 64;

struct Shards {
    hasher: RandomState,
    shards: [Locked<HashMap<String, Shared>>; SHARDS],
}

static VALUES: LazyLock<Shards> = LazyLock::new(|| Shards {
    hasher: RandomState::new(),
    shards: std::array::from_fn(|_| Locked::default()),
});

fn in_shard<Answer>(name: &str, work: impl FnOnce(&mut HashMap<String, Shared>) -> Answer) -> Answer {
    let place = usize::try_from(VALUES.hasher.hash_one(name)).unwrap_or(0) % SHARDS;
    let [first, ..] = &VALUES.shards;
    let shard = VALUES.shards.get(place).unwrap_or(first);
    work(&mut shard.lock())
}

/// Reads a value; empty with revision 0 if it was never written.
pub fn read(name: &str) -> Shared {
    in_shard(name, |values| values.get(name).cloned().unwrap_or_default())
}

/// Writes a value if it still has this revision. Returns false if it has another.
pub fn swap(name: &str, revision: u32, bytes: &[u8]) -> bool {
    in_shard(name, |values| {
        if let Some(value) = values.get_mut(name) {
            if value.revision != revision {
                return false;
            }
            value.revision = revision.wrapping_add(1).max(1);
            value.bytes.clear();
            value.bytes.extend_from_slice(bytes);
            return true;
        }
        if revision != 0 {
            return false;
        }
        values.insert(name.to_owned(), Shared { bytes: bytes.to_vec(), revision: 1 });
        true
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Run under ThreadSanitizer by `scripts/sanitize`.
    #[test]
    fn no_change_of_many_workers_is_lost() {
        const WORKERS: u64 = 8;
        const CHANGES: u64 = 2_000;
        let name = "counted by all";
        let count = |value: &Shared| value.bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    for _ in 0..CHANGES {
                        loop {
                            let value = read(name);
                            let next = (count(&value) + 1).to_le_bytes();
                            if swap(name, value.revision, &next) {
                                break;
                            }
                        }
                    }
                });
            }
        });
        assert_eq!(count(&read(name)), WORKERS * CHANGES);
    }

    #[test]
    fn a_value_that_another_wrote_first_is_not_overwritten() {
        let (first, second) = (read("new"), read("new"));
        assert!(swap("new", first.revision, b"first"));
        assert!(!swap("new", second.revision, b"second"));
        assert_eq!(read("new").bytes, b"first");
        let known = read("new");
        assert!(swap("new", known.revision, b"third"));
        assert!(!swap("new", known.revision, b"fourth"));
        assert_eq!(read("new").bytes, b"third");
    }
}
