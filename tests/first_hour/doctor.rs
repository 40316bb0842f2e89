//! `doctor` against a real stack: nothing is wrong, and then one thing after the other.

use super::said;
use super::stack::Up;
use harness::servers::Server;
use harness::{files, run};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn doctor(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(files::program())
        .arg("doctor")
        .args(arguments)
        .current_dir(directory)
        .env_remove("AGENTRELAY_ADMIN_KEY")
        .env_remove("AGENTRELAY_LEDGER")
        .env("AGENTRELAY_ENVIRONMENT", files::environment())
        .output()
        .expect("the program can be run")
}

/// It must name this, with a remedy, and fail.
fn assert_wrong(output: &Output, check: &str, found: &str, remedy: &str) {
    let text = said(output);
    assert!(!output.status.success(), "{text}");
    let mut lines = text.lines().skip_while(|line| {
        !(line.starts_with("WRONG") && line.contains(&format!("  {check} ")) && line.contains(found))
    });
    assert!(lines.next().is_some(), "nothing is wrong with {check} that says {found:?}:\n{text}");
    assert!(lines.next().is_some_and(|line| line.contains("->") && line.contains(remedy)), "{text}");
}

#[test]
fn a_sound_stack_passes_and_each_fault_is_named_with_its_remedy() {
    run(async {
        let directory = files::gate_directory();
        let server = Server::upstream("mcp_server.py", &[]).await;
        let url = format!("{}/mcp", server.url());
        let made = Command::new(files::program())
            .args(["policy", "init", "--from", &url, "--to", "policy.yaml"])
            .current_dir(&directory)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", said(&made));
        let up = Up::start(&directory, &["--upstream", &server.url(), "--state", "state"]).await;
        let tenant = up.operator(&["tenants", "create", "--name", "A", "--tier", "free", "--json"]);
        let tenant: Value = serde_json::from_slice(&tenant.stdout).unwrap();
        let tenant = tenant["id"].as_str().unwrap();
        let wasm = files::wasm();
        let wasm = wasm.to_str().unwrap();
        let of_stack = ["--state", "state", "--wasm", wasm];

        let manifest = files::root().join("envoy/istio.yaml");
        let sound = [
            &of_stack[..],
            &["--tenant", tenant, "--against", &url, "--manifest", manifest.to_str().unwrap()],
        ]
        .concat();
        let output = doctor(&directory, &sound);
        let text = said(&output);
        assert!(output.status.success() && !text.contains("WRONG"), "{text}");
        for check in [
            "envoy",
            "filter",
            "running",
            "manifest",
            "ledger",
            "clock",
            "credential",
            "servers",
            "gate",
            "round trip",
        ] {
            assert!(
                text.lines().any(|line| line.starts_with("ok ") && line.contains(&format!("  {check} "))),
                "{check}: {text}"
            );
        }
        assert!(text.contains("lists 4 tools of studio through the gate"), "{text}");
        let keys = up.operator(&["keys", "list", "--state", "active", "--json"]);
        assert_eq!(String::from_utf8_lossy(&keys.stdout).trim(), "[]", "its key is revoked");
        let json = doctor(&directory, &[&sound[..], &["--json"]].concat());
        let found: Vec<Value> = serde_json::from_slice(&json.stdout).unwrap();
        assert!(found.len() > 8 && found.iter().all(|finding| finding["state"] == "ok"), "{found:?}");

        // Faults of what runs elsewhere.
        let (gate, ledger) = (up.gate.as_str(), up.ledger.as_str());
        assert_wrong(
            &doctor(&directory, &["--gate", gate, "--ledger", "http://127.0.0.1:1"]),
            "ledger",
            "nothing listens",
            "agentrelay serve",
        );
        assert_wrong(
            &doctor(&directory, &["--gate", gate, "--ledger", gate]),
            "ledger",
            "is no ledger",
            "--ledger",
        );
        assert_wrong(
            &doctor(&directory, &["--gate", gate, "--ledger", ledger]),
            "credential",
            "no admin key",
            "admin key",
        );
        let admin = ["--ledger", ledger, "--admin-key", &up.admin_key];
        assert_wrong(
            &doctor(&directory, &[&admin[..], &["--gate", "http://127.0.0.1:1"]].concat()),
            "gate",
            "nothing listens",
            "--gate",
        );
        assert_wrong(
            &doctor(&directory, &[&admin[..], &["--gate", &server.url()]].concat()),
            "gate",
            "and not 401",
            "filter",
        );
        assert_wrong(
            &doctor(&directory, &[&of_stack[..], &["--tenant", "ten_unknown"]].concat()),
            "round trip",
            "no tenant has this id",
            "503",
        );

        // Faults of files and servers.
        fs::write(directory.join("not.wasm"), "no").unwrap();
        fs::write(directory.join("bad.wasm"), b"\0asm\x01\0\0\0").unwrap();
        let with_wasm = |wasm: &str| doctor(&directory, &["--state", "state", "--wasm", wasm]);
        assert!(said(&with_wasm("not.wasm")).contains("not a wasm module"));
        assert_wrong(&with_wasm("bad.wasm"), "filter", "does not load", "cargo wasm");
        let shipped = fs::read_to_string(files::root().join("envoy/envoy.yaml")).unwrap();
        fs::write(directory.join("envoy.yaml"), shipped.replace("FAIL_RELOAD", "FAIL_OPEN")).unwrap();
        let output = doctor(&directory, &[&of_stack[..], &["--manifest", "envoy.yaml"]].concat());
        assert_wrong(&output, "manifest", "failure_policy is FAIL_OPEN", "envoy/envoy.yaml");
        let shipped = files::shipped_policy();
        let other = [&of_stack[..], &["--policy", shipped.to_str().unwrap(), "--against", &url]].concat();
        assert_wrong(
            &doctor(&directory, &other),
            "servers",
            "`unlisted`, which is missing here",
            "change the policy",
        );
        drop(server);
        let gone = doctor(&directory, &[&of_stack[..], &["--against", &url, "--tenant", tenant]].concat());
        assert_wrong(&gone, "servers", "nothing listens there", "start the server");
        assert_wrong(&gone, "round trip", "can't list the tools", "the upstream is away");
    });
}

#[test]
fn a_gate_that_does_not_reach_its_ledger_is_named() {
    run(async {
        let mut gate = harness::Gate::options().start().await;
        gate.kill_ledger();
        // An administrator asks about this gate with a ledger that answers.
        let other = super::served("doctor").await;
        let url = format!("http://{}", gate.address);
        let elsewhere =
            ["--ledger", &other.url(0), "--admin-key", &other.credentials.admin_key, "--gate", &url];
        let output = doctor(gate.directory(), &elsewhere);
        assert_wrong(&output, "round trip", "to an unknown key, and not 401", "agentrelay_ledger");
    });
}
