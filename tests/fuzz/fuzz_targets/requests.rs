//! Fuzzes the handling of request bodies, mainly of batches.
#![no_main]

#[path = "../laws.rs"]
#[allow(dead_code)]
mod laws;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| laws::only_what_is_allowed_goes_upstream(bytes));
