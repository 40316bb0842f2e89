//! Replays the inputs that fuzzing found. tests/fuzz/Cargo.toml says how to continue fuzzing.

use harness::files;
use std::fs;

#[path = "fuzz/laws.rs"]
mod laws;

fn replay(target: &str, law: fn(&[u8])) {
    let corpus = files::root().join("tests/fuzz/corpus").join(target);
    let inputs: Vec<_> = fs::read_dir(&corpus).expect("there is a corpus").flatten().collect();
    assert!(inputs.len() > 10, "the corpus of {target} is lost");
    inputs.iter().for_each(|input| law(&fs::read(input.path()).expect("it can be read")));
}

#[test]
fn every_known_message_has_one_meaning() {
    replay("classify", laws::a_message_has_one_meaning);
}

#[test]
fn every_known_stream_shows_only_what_is_visible() {
    replay("events", laws::a_stream_shows_only_what_is_visible);
}

#[test]
fn of_every_known_body_only_what_is_allowed_goes_upstream() {
    replay("requests", laws::only_what_is_allowed_goes_upstream);
}
