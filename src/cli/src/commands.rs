//! The command line. Each command's arguments and code are in its module.

mod admin_keys;
mod agents;
mod audit;
mod backup;
mod connection;
mod database;
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
mod tenants;
mod trusted;
mod up;
mod usage;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// The gate for agents' tools: who may call what, how often, and at what price.
#[derive(Parser)]
#[command(name = "agentrelay", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Examples:
  agentrelay up --policy envoy/policy.yaml --upstream http://127.0.0.1:9000
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
}

impl Cli {
    /// Reads the command line. Prints help or an error and exits if needed.
    pub fn read() -> Cli {
        let mut program = examples::distribute(Cli::command());
        let matches = program.clone().get_matches();
        Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut program).exit())
    }

    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Init(arguments) => arguments.run().await,
            Command::Serve(arguments) => arguments.run().await,
            Command::Up(arguments) => arguments.run().await,
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
