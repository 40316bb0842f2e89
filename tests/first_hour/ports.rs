//! `up` on a port that is in use.

use super::said;
use harness::{files, run};
use std::net::TcpListener;
use std::process::Command;

/// `up` on this port, which must fail before it starts anything.
fn refused(port: &str, envoys: &str) -> String {
    let directory = files::gate_directory();
    let output = Command::new(files::program())
        .args(["up", "--upstream", "http://127.0.0.1:1", "--port", port, "--envoys", envoys, "--policy"])
        .arg(files::shipped_policy())
        .arg("--wasm")
        .arg(files::wasm())
        .arg("--state")
        .arg(&directory)
        .env("AGENTRELAY_ENVIRONMENT", files::environment())
        .output()
        .expect("the program can be run");
    assert!(!output.status.success(), "{}", said(&output));
    let left: Vec<_> = directory.read_dir().unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
    said(&output)
}

#[test]
fn a_port_in_use_is_refused_whoever_uses_it() {
    run(async {
        // A gate, whose Envoy would share its port with another Envoy.
        let gate = harness::Gate::shared().await;
        let port = gate.address.port().to_string();
        let text = refused(&port, "1");
        assert!(text.contains(&format!("port {port} is in use")) && text.contains("--port"), "{text}");
        // Anything else, and the second of two ports.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let text = refused(&(port - 1).to_string(), "2");
        assert!(text.contains("is in use"), "{text}");
        assert!(refused("65535", "2").contains("leaves no port for gate 2"));
    });
}
