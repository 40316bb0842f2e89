//! The keys to trust for the audit trail of a database that a command opens.

use anyhow::Context;
use clap::Args;
use ledger::Database;
use std::collections::BTreeSet;

/// The public keys on the command line.
#[derive(Args)]
pub struct Named {
    /// Trust audit checkpoints signed with this key, in addition to the key file next to the database; may be repeated
    ///
    /// Without any key, every signature is accepted.
    #[arg(long, value_name = "HEX")]
    public_key: Vec<String>,
}

impl Named {
    /// These keys, and the key file next to the database.
    pub fn and_of(self, database: &Database) -> anyhow::Result<Option<BTreeSet<String>>> {
        ledger::trusted(database, self.public_key)
            .with_context(|| format!("the audit key of {database} can't be read"))
    }
}
