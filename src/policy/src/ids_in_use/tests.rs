//! The record against a model that knows every use, and its bounds.

#![allow(clippy::arithmetic_side_effects)]

use super::*;
use proptest::prelude::*;

const OWNER: u64 = 7;
const NOW: Monotonic = Monotonic(1_000_000);

fn answered(id: u64) -> Ended {
    Ended { id, is_answered: true }
}

fn left(id: u64) -> Ended {
    Ended { id, is_answered: false }
}

fn changed(value: &[u8], ended: &[Ended], begun: &[u64]) -> Vec<u8> {
    change(value, OWNER, ended, begun, NOW).unwrap()
}

fn alone(value: &[u8], id: u64, now: Monotonic) -> bool {
    is_alone(value, Use { owner: OWNER, id }, now)
}

#[test]
fn a_request_is_alone_with_an_id_that_was_answered_before() {
    let mut value = Vec::new();
    for _ in 0..3 {
        value = changed(&value, &[answered(5)], &[5]);
        assert!(alone(&value, 5, NOW));
        assert!(!alone(&value, 6, NOW), "of an id that is not recorded nothing is known");
    }
    assert!(changed(&value, &[answered(5)], &[]).is_empty(), "what was answered uses no memory");
}

#[test]
fn neither_of_two_requests_at_once_is_alone() {
    let value = changed(&changed(&[], &[], &[5]), &[], &[5]);
    assert!(!alone(&value, 5, NOW));
    let value = changed(&value, &[answered(5)], &[]);
    assert!(!alone(&value, 5, NOW), "the one answer may have been the other's");
    let value = changed(&value, &[answered(5)], &[5]);
    assert!(alone(&value, 5, NOW), "both were answered");
}

#[test]
fn an_id_whose_client_left_is_shared_until_the_server_can_not_work_on_it_any_more() {
    let value = changed(&changed(&[], &[], &[5]), &[left(5)], &[5]);
    for value in [value.clone(), changed(&value, &[answered(5)], &[5])] {
        assert!(!alone(&value, 5, NOW));
    }
    let value = changed(&value, &[answered(5)], &[]);
    let later = Monotonic(NOW.0 + LEFT_MS);
    let value = change(&value, OWNER, &[], &[5], later).unwrap();
    assert!(alone(&value, 5, later));
    // A use that was recorded by no one counts too.
    assert!(!alone(&changed(&[], &[left(5)], &[5]), 5, NOW));
}

#[test]
fn what_is_displaced_is_not_forgotten() {
    let ids: Vec<u64> = (1..=ENTRIES_MAX as u64).collect();
    let all_left: Vec<Ended> = ids.iter().map(|id| left(*id)).collect();
    let mut value = changed(&[], &all_left, &[]);
    let other = Use { owner: OWNER + 1, id: 5 };
    value = change(&value, other.owner, &[], &[other.id], NOW).unwrap();
    for id in 1000..3000 {
        value = changed(&value, &[], &[id]);
        assert!(!alone(&value, id, NOW), "the id of {id} may have been displaced");
        value = changed(&value, &[answered(id)], &[]);
    }
    assert!(value.len() <= (ENTRIES_MAX + 3) * ENTRY_BYTES, "{} bytes", value.len());
    assert!(is_alone(&value, other, NOW), "another owner is not affected");
    let later = Monotonic(NOW.0 + LEFT_MS);
    let value = change(&value, OWNER, &[], &[5], later).unwrap();
    assert!(alone(&value, 5, later));
}

#[test]
fn bytes_of_something_else_make_no_call_alone() {
    assert_eq!(change(b"other", OWNER, &[], &[5], NOW), Err(Corrupt));
    assert!(!alone(b"other", 5, NOW));
}

#[test]
fn a_use_is_told_apart_by_tenant_session_and_id() {
    let one = Use::new(1 << 32, b"s", "7");
    for other in [Use::new(2 << 32, b"s", "7"), Use::new(1 << 32, b"t", "7"), Use::new(1 << 32, b"s", "8")] {
        assert_ne!(one, other);
    }
    assert_eq!(one, Use::new(1 << 32, b"s", "7"));
    assert_eq!(one.owner, Use::new(1 << 32, b"s", "8").owner, "all ids of a session are in one value");
}

proptest! {
    /// A model that knows every use: a call that is alone by the record never shared its id with a request that the server
    /// may have been working on.
    #[test]
    fn a_call_that_is_alone_never_shared_its_id(
        steps in prop::collection::vec((0u8..3, 1u64..4, 0u64..2 * LEFT_MS / 3), 1..60),
    ) {
        let mut value = Vec::new();
        let mut now = NOW;
        // Uses: id, begun at, ended at; not answered uses end when the server can not work on them any more.
        let mut uses: Vec<(u64, u64, u64)> = Vec::new();
        for (what, id, wait_ms) in steps {
            now = Monotonic(now.0 + wait_ms + 1);
            let open = uses.iter().position(|(own, _, end)| *own == id && *end == u64::MAX);
            match (what, open) {
                (0, _) => {
                    value = change(&value, OWNER, &[], &[id], now).unwrap();
                    uses.push((id, now.0, u64::MAX));
                }
                (_, Some(place)) => {
                    let begun = uses[place].1;
                    let shared = uses.iter().enumerate().any(|(other, (own, _, end))| {
                        other != place && *own == id && *end > begun
                    });
                    prop_assert!(!(shared && alone(&value, id, now)), "{uses:?}");
                    let is_answered = what == 1;
                    value = change(&value, OWNER, &[Ended { id, is_answered }], &[], now).unwrap();
                    uses[place].2 = if is_answered { now.0 } else { now.0 + LEFT_MS };
                }
                _ => {}
            }
        }
    }
}
