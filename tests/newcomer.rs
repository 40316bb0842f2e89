//! README's part on own tools, by copy and paste: its own lines in a shell, with a server that nobody prepared, and how long
//! that takes.

use crate::TURN;
use harness::clock::eventually_within;
use harness::servers::Server;
use harness::{files, run};
use std::fs;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// From the policy of an own server to a refused and a billed call of its tools, on what is built.
const FIRST_MINUTE: Duration = Duration::from_secs(60);

/// What a command printed, on both ways out.
fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The blocks of commands below this line.
fn blocks(readme: &str, begin: &str) -> Vec<String> {
    let rest = readme.split_once(begin).expect("README has this part").1;
    let rest = rest.split("\n## ").next().unwrap_or(rest);
    rest.split("```").skip(1).step_by(2).map(|block| block.trim_start_matches('\n').to_owned()).collect()
}

fn local(port: u16) -> String {
    std::net::SocketAddr::from(([127, 0, 0, 1], port)).to_string()
}

#[test]
fn own_tools_are_behind_the_gate_by_copy_and_paste() {
    let _turn = TURN.blocking_lock();
    run(async {
        let directory = files::gate_directory();
        let server = Server::upstream("own_server.py", &[]).await;
        let gate = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        // Where README's reader has it after `scripts/run`.
        let release = directory.join("target/release");
        fs::create_dir_all(&release).unwrap();
        std::os::unix::fs::symlink(files::program(), release.join("agentrelay")).unwrap();
        fs::copy(files::wasm(), release.join("agentrelay.wasm")).unwrap();
        let readme = fs::read_to_string(files::root().join("README.md")).unwrap();
        let blocks = blocks(&readme, "Your own tools behind it");
        let [first, second] = blocks.as_slice() else { panic!("two blocks: {blocks:?}") };
        // Only the addresses are this test's.
        let mine = |block: &str| {
            let block = block.replace(&local(9000), &server.address.to_string());
            block
                .replace(&local(10000), &gate.to_string())
                .replace("--port 10000", &format!("--port {}", gate.port()))
        };
        let shell = |script: &str| {
            let mut command = Command::new("bash");
            command.args(["-euc", script]).current_dir(&directory);
            command.env("AGENTRELAY_ENVIRONMENT", files::environment()).env_remove("AGENTRELAY_ADMIN_KEY");
            command
        };
        // The last line stays; what is before it must succeed, but for the check, which names a price in a text.
        let began = Instant::now();
        let first = mine(first).replace(" --against", " || true; : --against");
        let mut up = shell(&first.replace("agentrelay up", "exec agentrelay up"))
            .stdout(fs::File::create(directory.join("up.out")).unwrap())
            .stderr(fs::File::create(directory.join("up.err")).unwrap())
            .spawn()
            .unwrap();
        eventually_within(Duration::from_secs(240), "the gate is ready", async || {
            let text = fs::read_to_string(directory.join("up.err")).unwrap_or_default();
            if text.contains("ready; Ctrl-C") { Ok(()) } else { Err(text) }
        })
        .await;
        let second =
            mine(second).replace("agentrelay doctor", &format!("agentrelay doctor --gate http://{gate}"));
        // The refused call is told by its status too.
        let second = second.replace("# 403", "|| test $? = 1 # 403");
        let output = shell(&format!("export AGENTRELAY_GATE=http://{gate}/mcp\n{second}")).output().unwrap();
        let took = began.elapsed();
        let text = said(&output);
        let _ = Command::new("kill").args(["-s", "TERM", &up.id().to_string()]).status();
        assert!(output.status.success(), "{text}");
        assert!(text.contains("\"text\": \"3\""), "add is allowed: {text}");
        assert!(
            text.contains("report was not called") && text.contains("needs the scopes: generate"),
            "report is refused: {text}"
        );
        // Charged, or about to be.
        assert!(text.lines().any(|line| line.starts_with("11       9 ")), "{text}");
        assert!(!text.contains("WRONG"), "{text}");
        println!(
            "from an own server to a refused and a billed call of its tools: {:.1} s",
            took.as_secs_f64()
        );
        assert!(took < FIRST_MINUTE, "it took {} s", took.as_secs());
        let ended = harness::clock::apart(|| up.wait().unwrap());
        assert!(ended.success(), "{ended}");
    });
}
