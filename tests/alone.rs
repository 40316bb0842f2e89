//! What measures time, or floods a gate: nothing runs beside this program, and of its tests one at a time has the machine.

mod connections;
mod floods;
mod reports;
mod revocation;
mod several_ledgers;
mod steady_records;

/// Who holds it has the machine. What only waits goes on without.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
