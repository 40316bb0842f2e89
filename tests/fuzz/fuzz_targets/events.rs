//! Fuzzes the reading and rewriting of event streams.
#![no_main]

#[path = "../laws.rs"]
#[allow(dead_code)]
mod laws;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| laws::a_stream_shows_only_what_is_visible(bytes));
