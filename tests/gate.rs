//! The promises of the gate, each kind in a file that is a module here: one program, so that all of them need only one
//! link step. They run in parallel and mostly wait. Tests that need the machine for themselves are in `alone.rs`.

mod batches;
mod concurrency;
mod conformance;
mod daemon;
mod durability;
mod existing_envoy;
mod explained;
mod failover;
mod first_hour;
mod free_rides;
mod fuzz;
mod gate_tools;
mod hostcalls;
mod hostile;
mod http_service;
mod identity;
mod leases;
mod ledger_api;
mod limits;
mod mcp_clients;
mod mcp_sdks;
mod mcp_servers;
mod money;
mod oauth;
mod operators;
mod outage;
mod proof;
mod reach;
mod readings;
mod scopes;
mod secrets;
mod servers;
mod sessions;
mod settlement;
mod steady;
mod streams;
mod unaccounted;
mod whose_limits;

/// A file that is not a module of a program would never run.
#[test]
fn every_file_of_tests_is_part_of_a_program() {
    let tests = harness::files::root().join("tests");
    let read = |name: &str| std::fs::read_to_string(tests.join(name)).expect("it can be read");
    let (programs, targets) = (read("gate.rs") + &read("alone.rs"), read("Cargo.toml"));
    for file in std::fs::read_dir(&tests).expect("it can be read").flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        let Some(module) = name.strip_suffix(".rs") else { continue };
        let is_part =
            programs.contains(&format!("\nmod {module};")) || targets.contains(&format!("path = \"{name}\""));
        assert!(is_part, "tests/{name} is in neither gate.rs nor alone.rs, nor a target of tests/Cargo.toml");
    }
}
