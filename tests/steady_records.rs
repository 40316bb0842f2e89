//! What the ledger keeps, in an operator's real year: floods that nobody pays for, rows that can't be stored, and clocks
//! that are wrong.

#[path = "steady_records/floods.rs"]
mod floods;
