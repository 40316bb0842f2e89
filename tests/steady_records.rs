//! What the ledger keeps in an operator's real year. Rows that can't be stored, and clocks that are wrong, are asked of both
//! databases in the ledger's own tests (`one_that_cannot_be_stored...`, `a_clock_that_is_ahead...`).

#[path = "steady_records/floods.rs"]
mod floods;
