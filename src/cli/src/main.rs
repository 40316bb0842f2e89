//! The `agentrelay` binary: reads the command line and runs one command.
//!
//! Results go to stdout, everything else to stderr. The exit status is 0 only if the command succeeded.

mod commands;
mod mcp;
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
        // The reader of the output, such as `head`, has closed it.
        return ExitCode::SUCCESS;
    }
    // Some errors include their cause; don't print it twice.
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(if text.is_empty() { "error: " } else { ": " });
            text.push_str(&cause);
        }
    }
    output::note(&without_numbers(&text));
    if let Some(key) = error.downcast_ref().and_then(client::Error::idempotency_key) {
        output::note(&format!(
            "The change may have been made: run the command again with --idempotency-key {key}, so that it is made only \
             once."
        ));
    }
    ExitCode::FAILURE
}

/// Without the numbers of the operating system's errors, whose words stand beside them.
fn without_numbers(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    parts.for_each(|part| plain.push_str(part.split_once(')').map_or("", |(_, rest)| rest)));
    plain
}
