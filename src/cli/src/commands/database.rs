//! Which database a command works on.

use clap::Args;
use ledger::Database;

/// The database.
#[derive(Args)]
pub struct Argument {
    /// The database: sqlite:PATH or postgres://USER:PASSWORD@HOST:PORT/NAME
    ///
    /// PostgreSQL by TLS: postgres://...?sslmode=verify-full&sslrootcert=FILE, in libpq's words. Without sslrootcert those
    /// that the system trusts.
    #[arg(
        long,
        env = "AGENTRELAY_DATABASE",
        hide_env_values = true,
        value_name = "URL",
        default_value = "sqlite:agentrelay.db"
    )]
    pub database: Database,
}
