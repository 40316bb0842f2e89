//! Tests that measure time or flood a gate. No other test program runs at the same time, and one such test runs at a
//! time.

mod connections;
mod floods;
mod newcomer;
mod reports;
mod revocation;
mod several_ledgers;
mod steady_records;

/// Held by the one test that uses the machine. Tests that only wait run without it.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
