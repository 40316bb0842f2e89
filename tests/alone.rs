//! What measures time, or takes all of the machine: one test after the other, with nothing beside it.

mod connections;
mod reports;
mod steady_records;
