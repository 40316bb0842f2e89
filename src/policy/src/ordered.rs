//! Short lists that are kept in order.

use std::cmp::Ordering;

/// Inserts `item` after all items that are not greater, so that equal items keep their order. This replaces a sort for short
/// lists: the standard library's sort adds 4 KB to the filter for each type.
pub(crate) fn insert<T>(items: &mut Vec<T>, item: T, compare: impl Fn(&T, &T) -> Ordering) {
    let place = items.partition_point(|other| compare(other, &item).is_le());
    items.insert(place, item);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_items_keep_their_order() {
        let mut items = Vec::new();
        for item in [(2, 'a'), (1, 'b'), (2, 'c'), (0, 'd'), (1, 'e')] {
            insert(&mut items, item, |a, b| a.0.cmp(&b.0));
        }
        assert_eq!(items, [(0, 'd'), (1, 'b'), (1, 'e'), (2, 'a'), (2, 'c')]);
    }
}
