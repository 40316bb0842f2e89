//! The `agentrelay` binary: reads the command line, runs one command, reports how it went.
//!
//! Results go to stdout, everything else to stderr. The exit status is 0 only if the command did what it says.

mod commands;
mod output;

use std::io;
use std::process::ExitCode;

fn main() -> ExitCode {
    let command = commands::Cli::read();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&anyhow::Error::new(error).context("no threads can be started")),
    };
    match runtime.block_on(command.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    let is_closed_pipe = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    if error.chain().filter_map(|cause| cause.downcast_ref()).any(is_closed_pipe) {
        // Whoever read the output, such as `head`, has enough.
        return ExitCode::SUCCESS;
    }
    // Some errors tell their cause themselves: nothing is said twice.
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(if text.is_empty() { "error: " } else { ": " });
            text.push_str(&cause);
        }
    }
    output::note(&text);
    if let Some(key) = error.downcast_ref().and_then(client::Error::idempotency_key) {
        output::note(&format!(
            "It may have been done all the same: run the command again with --idempotency-key {key}, \
             and it is done once."
        ));
    }
    ExitCode::FAILURE
}
