//! How commands for operators call a ledger: connection, idempotent changes, lists.

use crate::output;
use anyhow::{Context, bail};
use clap::Args;
use client::Client;
use protocol::admin::Page;
use std::fs;
use std::path::PathBuf;

/// The ledger and the credential.
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
    /// The admin key, ara_...; `ps` does not show it if it is set in the environment
    #[arg(long, global = true, env = "AGENTRELAY_ADMIN_KEY", value_name = "KEY", hide_env_values = true)]
    admin_key: Option<String>,
    /// The root certificates for an https:// ledger, in PEM
    #[arg(long, global = true, env = "AGENTRELAY_CA_CERT", value_name = "FILE")]
    ca_cert: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

impl Connection {
    /// The ledger's base URL, as it was given.
    pub fn address(&self) -> &str {
        &self.ledger
    }

    /// Takes ledger and admin key of a stack on this machine.
    pub fn use_stack(&mut self, ledger: String, admin_key: String) {
        self.ledger = ledger;
        self.admin_key = Some(admin_key);
    }

    /// An HTTP client that trusts what the ledger's client does.
    pub fn http(&self) -> anyhow::Result<reqwest::Client> {
        Ok(client::trusting(self.authorities()?.as_deref())?.no_proxy().build()?)
    }

    fn authorities(&self) -> anyhow::Result<Option<Vec<u8>>> {
        let read =
            |path: &PathBuf| fs::read(path).with_context(|| format!("{} can't be read", path.display()));
        self.ca_cert.as_ref().map(read).transpose()
    }

    /// The ledger's client, if there is an admin key: for commands that can do without.
    pub fn open_if_given(&self) -> anyhow::Result<Option<Client>> {
        self.admin_key.is_some().then(|| self.open()).transpose()
    }

    /// The ledger's client.
    pub fn open(&self) -> anyhow::Result<Client> {
        let Some(admin_key) = &self.admin_key else {
            bail!(
                "no admin key was given: set AGENTRELAY_ADMIN_KEY to the key that `agentrelay init` showed \
                 (`agentrelay up` writes it to STATE/admin-key)"
            );
        };
        let admin_key = admin_key.trim();
        if !Client::is_admin_key(admin_key) {
            bail!(
                "the admin key is malformed: it must start with ara_, and a character may be missing or changed"
            );
        }
        Ok(Client::trusting(&self.ledger, admin_key, self.authorities()?.as_deref())?)
    }
}

/// The idempotency key of a change.
#[derive(Args)]
pub struct Once {
    /// Make the change only once, even if it is repeated with this key within a week
    #[arg(long, value_name = "KEY", value_parser = idempotency_key)]
    idempotency_key: Option<String>,
}

impl Once {
    /// The client that sends this key.
    pub fn of(self, ledger: Client) -> Client {
        match self.idempotency_key {
            Some(key) => ledger.repeating(key),
            None => ledger,
        }
    }
}

fn idempotency_key(text: &str) -> Result<String, &'static str> {
    let is_key = (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_key { Ok(text.to_owned()) } else { Err("a key is 1 to 255 visible ASCII characters") }
}

/// Parses a version as shown by `show`, a quoted ETag, or `*`, into the value of `If-Match`.
pub fn version(text: &str) -> Result<String, &'static str> {
    let bare = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let is_version = !bare.is_empty() && bare.bytes().all(|byte| byte.is_ascii_alphanumeric());
    match text {
        "*" => Ok(text.to_owned()),
        _ if is_version => Ok(format!("\"{bare}\"")),
        _ => Err("a version is letters and digits, as shown by `show`"),
    }
}

/// Fetches all pages of a list, and shows progress on a terminal.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_sent_as_an_etag_however_it_was_copied() {
        assert_eq!(version("3"), Ok("\"3\"".into()));
        assert_eq!(version("\"5f1c\""), Ok("\"5f1c\"".into()));
        assert_eq!(version("*"), Ok("*".into()));
        for text in ["", "\"", "\"\"", "\"*\"", "W/\"3\"", "3, 4", "3\n"] {
            assert!(version(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_idempotency_key_is_what_a_header_can_carry() {
        assert_eq!(idempotency_key("invoice-118"), Ok("invoice-118".into()));
        for text in ["", "an invoice", "caf\u{e9}", "x\n", &"x".repeat(256)] {
            assert!(idempotency_key(text).is_err(), "{text:?}");
        }
    }
}
