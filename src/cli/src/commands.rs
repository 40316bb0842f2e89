//! The command line. Each command's arguments and code are in its module.

mod admin_keys;
mod agents;
mod audit;
mod backup;
mod call;
mod connection;
mod database;
mod doctor;
mod examples;
mod explain;
mod filter_keys;
mod init;
mod keys;
mod leases;
mod ledger;
mod parse;
mod policy;
mod reservations;
mod serve;
mod shell;
mod tenants;
mod trusted;
mod up;
mod usage;

use crate::output;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use protocol::api_key::{self, Kind};
use std::ffi::OsString;

/// The gate for agents' tools: who may call what, how often, and at what price.
#[derive(Parser)]
#[command(name = "agentrelay", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Examples:
  agentrelay up --policy envoy/policy.yaml --upstream http://127.0.0.1:9000
  agentrelay doctor
  agentrelay tenants create --name Acme --tier pro --credits 1000
  agentrelay keys create --tenant ten_... --name ci --scope read,generate
  agentrelay usage --group-by tool

Commands for operators call the ledger at AGENTRELAY_LEDGER with the key in AGENTRELAY_ADMIN_KEY.")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Init(init::Arguments),
    Serve(serve::Arguments),
    Up(Box<up::Arguments>),
    Doctor(Box<doctor::Arguments>),
    Call(call::Arguments),
    Tenants(tenants::Arguments),
    Keys(keys::Arguments),
    Agents(agents::Arguments),
    Leases(leases::Arguments),
    Reservations(reservations::Arguments),
    AdminKeys(admin_keys::Arguments),
    FilterKeys(filter_keys::Arguments),
    Usage(usage::Arguments),
    Audit(audit::Arguments),
    Explain(explain::Arguments),
    Policy(policy::Arguments),
    Backup(backup::Backup),
    Restore(backup::Restore),
    Ledger(ledger::Arguments),
    Completions(shell::Completions),
    Man(shell::Man),
}

/// The whole command line, with the examples of each command.
fn program() -> clap::Command {
    examples::distribute(Cli::command())
}

impl Cli {
    /// Reads the command line. Prints help or an error and exits if needed.
    pub fn read() -> Cli {
        // Other programs see the command line of this one, and the text of a refusal would repeat the secret.
        let is_secret = |word: &OsString| {
            let word = word.as_encoded_bytes();
            [Kind::Agent, Kind::Filter].into_iter().any(|kind| api_key::is_well_formed(kind, word))
        };
        if std::env::args_os().any(|word| is_secret(&word)) {
            output::note(
                "error: a key's secret stands on the command line; give its id, key_..., as `agentrelay keys list` shows it",
            );
            std::process::exit(2);
        }
        let mut program = program();
        let matches = program.clone().get_matches();
        Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut program).exit())
    }

    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Init(arguments) => arguments.run().await,
            Command::Serve(arguments) => arguments.run().await,
            Command::Up(arguments) => arguments.run().await,
            Command::Doctor(arguments) => arguments.run().await,
            Command::Call(arguments) => arguments.run().await,
            Command::Tenants(arguments) => arguments.run().await,
            Command::Keys(arguments) => arguments.run().await,
            Command::Agents(arguments) => arguments.run().await,
            Command::Leases(arguments) => arguments.run().await,
            Command::Reservations(arguments) => arguments.run().await,
            Command::AdminKeys(arguments) => arguments.run().await,
            Command::FilterKeys(arguments) => arguments.run().await,
            Command::Backup(arguments) => arguments.run().await,
            Command::Restore(arguments) => arguments.run().await,
            Command::Ledger(arguments) => arguments.run().await,
            Command::Completions(arguments) => arguments.run(),
            Command::Man(arguments) => arguments.run(),
            Command::Usage(arguments) => arguments.run().await,
            Command::Audit(arguments) => arguments.run().await,
            Command::Explain(arguments) => arguments.run().await,
            Command::Policy(arguments) => arguments.run().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
