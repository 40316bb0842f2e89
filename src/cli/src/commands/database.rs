//! The database that a command works on.

use clap::Args;
use ledger::Database;

/// The database.
#[derive(Args)]
pub struct Argument {
    /// The database: sqlite:PATH or postgres://USER:PASSWORD@HOST:PORT/NAME
    ///
    /// TLS to PostgreSQL is set as in libpq: postgres://...?sslmode=verify-full&sslrootcert=FILE. The default for
    /// sslrootcert are the system's root certificates.
    #[arg(
        long,
        env = "AGENTRELAY_DATABASE",
        hide_env_values = true,
        value_name = "URL",
        default_value = "sqlite:agentrelay.db"
    )]
    pub database: Database,
}
