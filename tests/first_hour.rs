//! The first hour of an operator: names that are mistyped, a policy that does not do what it says, ports in use, an own server
//! behind the gate, and what `doctor` says of all that.

#[path = "first_hour/answers.rs"]
mod answers;
#[path = "first_hour/doctor.rs"]
mod doctor;
#[path = "first_hour/mistakes.rs"]
mod mistakes;
#[path = "first_hour/names.rs"]
mod names;
#[path = "first_hour/own_server.rs"]
mod own_server;
#[path = "first_hour/ports.rs"]
mod ports;
#[path = "first_hour/stack.rs"]
mod stack;

use harness::ledger::{Served, directory, embedded};
use std::process::Output;

/// What a command printed, on both ways out.
fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn served(name: &str) -> Served {
    let directory = directory(name);
    let database = embedded(&directory);
    Served::start(directory, &database, 1).await
}
