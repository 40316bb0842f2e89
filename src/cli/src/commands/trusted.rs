//! Who may have signed the audit trail of a database that a command opens by itself.

use anyhow::Context;
use clap::Args;
use ledger::Database;
use std::collections::BTreeSet;

/// The keys that the operator names.
#[derive(Args)]
pub struct Named {
    /// Trust audit checkpoints that this key signed, beside the key file at the database; give it again for another one
    ///
    /// Where there is neither, any key's signature is taken.
    #[arg(long, value_name = "HEX")]
    public_key: Vec<String>,
}

impl Named {
    /// With the key at this database.
    pub fn and_of(self, database: &Database) -> anyhow::Result<Option<BTreeSet<String>>> {
        ledger::trusted(database, self.public_key)
            .with_context(|| format!("the audit key of {database} can't be read"))
    }
}
