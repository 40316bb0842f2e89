//! `up` on a port that is in use, or that another `up` takes at the same moment.

use super::said;
use harness::clock::eventually_within;
use harness::{files, run};
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

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

/// `up` on this port, with its output in the directory.
fn started(port: u16) -> (PathBuf, Child) {
    let directory = files::gate_directory();
    let mut command = Command::new(files::program());
    command.args([
        "up",
        "--upstream",
        "http://127.0.0.1:1",
        "--port",
        &port.to_string(),
        "--workers",
        "1",
        "--policy",
    ]);
    command.arg(files::shipped_policy()).arg("--wasm").arg(files::wasm());
    command.arg("--state").arg(directory.join("state")).env("AGENTRELAY_ENVIRONMENT", files::environment());
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(fs::File::create(directory.join("err")).unwrap());
    (directory, command.spawn().unwrap())
}

#[test]
fn of_two_that_start_at_the_same_moment_one_has_the_port_and_the_other_says_so() {
    run(async {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut both = [started(port), started(port)];
        let said = |directory: &PathBuf| fs::read_to_string(directory.join("err")).unwrap();
        let ended = eventually_within(Duration::from_secs(240), "one of them ends", async || {
            let is_ready = |directory: &PathBuf| said(directory).contains("ready; Ctrl-C");
            let ready = both.iter().filter(|(directory, _)| is_ready(directory)).count();
            let mut ended = Vec::new();
            for (index, (_, child)) in both.iter_mut().enumerate() {
                ended.extend(child.try_wait().unwrap().map(|status| (index, status)));
            }
            if ready + ended.len() == 2 {
                Ok(ended)
            } else {
                Err(format!("{ready} are ready, {ended:?} ended"))
            }
        })
        .await;
        let told: Vec<String> = both.iter().map(|(directory, _)| said(directory)).collect();
        let [(loser, status)] = ended.as_slice() else { panic!("{ended:?}: {told:?}") };
        assert!(!status.success() && told[*loser].contains(&format!("port {port} is in use")), "{told:?}");
        let (_, winner) = &mut both[1 - loser];
        let asked = harness::Request::get("/mcp").send(([127, 0, 0, 1], port).into()).await;
        assert_eq!(asked.status, 401, "{asked:?}");
        let _ = Command::new("kill").args(["-s", "TERM", &winner.id().to_string()]).status();
        assert!(harness::clock::apart(|| winner.wait().unwrap()).success());
    });
}
