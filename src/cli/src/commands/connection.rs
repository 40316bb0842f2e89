//! How the operator's commands reach a ledger, and how they walk its lists.

use crate::output;
use anyhow::{Context, bail};
use clap::Args;
use client::Client;
use protocol::admin::Page;
use std::fs;
use std::path::PathBuf;

/// Which ledger to ask, and as whom.
#[derive(Args)]
pub struct Connection {
    /// The ledger's base URL
    #[arg(
        long,
        global = true,
        env = "AGENTRELAY_LEDGER",
        value_name = "URL",
        default_value = "http://127.0.0.1:7420"
    )]
    ledger: String,
    /// The admin key, ara_...; better given in the environment, where `ps` doesn't show it
    #[arg(long, global = true, env = "AGENTRELAY_ADMIN_KEY", value_name = "KEY", hide_env_values = true)]
    admin_key: Option<String>,
    /// The authorities that signed the ledger's certificate, in PEM, for an https:// ledger
    #[arg(long, global = true, env = "AGENTRELAY_CA_CERT", value_name = "FILE")]
    ca_cert: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

impl Connection {
    /// The ledger's client.
    pub fn open(&self) -> anyhow::Result<Client> {
        let Some(admin_key) = &self.admin_key else {
            bail!(
                "no admin key was given: set AGENTRELAY_ADMIN_KEY to the key that `agentrelay init` showed \
                 (`agentrelay up` keeps it in STATE/admin-key)"
            );
        };
        let admin_key = admin_key.trim();
        if !Client::is_admin_key(admin_key) {
            bail!(
                "the admin key is not well formed: it starts with ara_, and a character may be missing or changed"
            );
        }
        let authorities = match &self.ca_cert {
            Some(path) => Some(fs::read(path).with_context(|| format!("{} can't be read", path.display()))?),
            None => None,
        };
        Ok(Client::trusting(&self.ledger, admin_key, authorities.as_deref())?)
    }
}

/// All items of a list, page by page, telling on the terminal how many there are so far.
pub async fn all<T>(
    mut page: impl AsyncFnMut(Option<&str>) -> Result<Page<T>, client::Error>,
) -> anyhow::Result<Vec<T>> {
    let mut items = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let next = page(cursor.as_deref()).await?;
        items.extend(next.items);
        if next.next_cursor.is_none() || next.next_cursor == cursor {
            output::done();
            return Ok(items);
        }
        cursor = next.next_cursor;
        output::progress(&format!("{} so far ...", items.len()));
    }
}
