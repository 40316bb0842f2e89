//! The Python programs: PyPI `mcp` as server and as client.

use crate::clock::in_time;
use crate::files;
use crate::reaper::Reaper;
use serde_json::Value;
use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// A running MCP server of PyPI `mcp`. Ends when it is dropped.
pub struct Server {
    /// Base URL.
    pub url: String,
    _child: Child,
    _reaper: Reaper,
}

impl Server {
    /// Starts `tests/upstreams/mcp_server.py` on a free port.
    pub async fn start(arguments: &[&str]) -> Server {
        Server::start_program("mcp_server", arguments).await
    }

    /// Starts a server of `tests/upstreams` that prints its port as `mcp_server.py` does.
    pub async fn start_program(name: &str, arguments: &[&str]) -> Server {
        let mut command = python(&files::root().join(format!("tests/upstreams/{name}.py")));
        Server::start_command(name, command.args(arguments)).await
    }

    /// Starts a server by any command.
    pub async fn start_command(name: &str, command: &mut Command) -> Server {
        let log = files::process_directory().join(format!("{name}.log"));
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(File::create(log).expect("logs can be written"))
            .spawn()
            .expect("the MCP server can be started: run scripts/test, or set AGENTRELAY_ENVIRONMENT");
        let mut reaper = Reaper::start();
        child.id().into_iter().for_each(|id| reaper.watch(id));
        let output = child.stdout.take().expect("stdout is piped");
        let line = in_time("the MCP server's port", BufReader::new(output).lines().next_line()).await;
        let line = line.expect("in time").expect("its output can be read").expect("it says its port");
        let port = serde_json::from_str::<Value>(&line).expect("a line of JSON")["port"].clone();
        Server { url: format!("http://127.0.0.1:{port}"), _child: child, _reaper: reaper }
    }
}

/// Runs `tests/clients/mcp_client.py` and returns its output, a line of JSON. `steps` are its actions after connecting:
/// `["list"]`, or `["call", NAME, ARGUMENTS]`.
pub async fn client(url: &str, secret: &str, mode: &str, steps: &[Value]) -> Vec<Value> {
    let running = python(&files::root().join("tests/clients/mcp_client.py"))
        .args([url, mode])
        .args(steps.iter().map(Value::to_string))
        .env("AGENTRELAY_API_KEY", secret)
        .output();
    let output = in_time("the MCP client", running).await.expect("in time").expect("python can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the MCP client failed: {said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Runs a program of `tests`, such as `clients/events`, to its end, and returns its output.
pub async fn program(path: &str, arguments: &[&str]) -> Vec<u8> {
    let running = python(&files::root().join(format!("tests/{path}.py"))).args(arguments).output();
    let output =
        in_time("the program in Python", running).await.expect("in time").expect("python can be run");
    assert!(output.status.success(), "{path}: {output:?}");
    output.stdout
}

fn python(script: &Path) -> Command {
    let mut command = Command::new(files::environment().join("bin/python"));
    command.arg(script).stdin(Stdio::null()).process_group(0).kill_on_drop(true);
    command
}
