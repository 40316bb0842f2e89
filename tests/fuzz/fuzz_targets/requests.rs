//! Fuzzes what becomes of a request's body, batches above all.
#![no_main]

#[path = "../laws.rs"]
#[allow(dead_code)]
mod laws;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| laws::only_what_is_allowed_goes_upstream(bytes));
