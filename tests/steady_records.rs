//! What the ledger stores in a year of operation. Rows that can't be stored, and wrong clocks, are tested on both
//! databases in the ledger's own tests (`a_write_that_fails_is_refused_alone`, `a_clock_that_is_ahead...`).

#[path = "steady_records/floods.rs"]
mod floods;
