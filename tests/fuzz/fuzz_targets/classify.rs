//! Fuzzes the reading of MCP messages.
#![no_main]

#[path = "../laws.rs"]
#[allow(dead_code)]
mod laws;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| laws::a_message_has_one_meaning(bytes));
