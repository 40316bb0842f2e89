//! `agentrelay filter-keys`: the credentials of filters.

use super::connection::{self, Connection, Once};
use crate::output;
use clap::{Args, Subcommand};
use protocol::CredentialId;
use protocol::admin::{CreateFilterKey, FilterKey, FilterKeyWithSecret, Reason, RotateKey};

/// Filter keys: the credentials of filters to the ledger
#[derive(Args)]
#[command(after_help = "Examples:
  agentrelay filter-keys list
  agentrelay filter-keys create --name 'cluster west'
  agentrelay filter-keys rotate flt_... --grace 86400 --reason 'yearly'    # restart the Envoys with it within a day
  agentrelay filter-keys revoke flt_... --reason 'cluster west is gone'

Envoy gets the secret as AGENTRELAY_FILTER_KEY. A revoked one is refused within 2 s by every ledger.")]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Create a filter key; its secret is shown only once
    Create {
        /// Display name, such as the name of a cluster
        #[arg(long)]
        name: String,
        #[command(flatten)]
        once: Once,
    },
    /// List filter keys
    List,
    /// Give a filter key a new secret, shown only once
    Rotate {
        /// The filter key, flt_...
        #[arg(value_parser = CredentialId::parse)]
        id: CredentialId,
        /// How long the old secret keeps working
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        grace: u32,
        /// The reason, for the audit trail
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        once: Once,
    },
    /// Revoke a filter key; this is final
    Revoke {
        /// The filter key, flt_...
        #[arg(value_parser = CredentialId::parse)]
        id: CredentialId,
        /// The reason, for the audit trail
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        once: Once,
    },
}

impl Arguments {
    pub async fn run(self) -> anyhow::Result<()> {
        let ledger = self.connection.open()?;
        let json = self.connection.json;
        match self.action {
            Action::Create { name, once } => {
                output::check_can_print_secrets()?;
                let made = once.of(ledger).create_filter_key(&CreateFilterKey { name }).await?;
                let undo = format!("Revoke it: agentrelay filter-keys revoke {} --reason lost", made.key.id);
                output::made(|| secret(made, json), &undo)
            }
            Action::List => {
                let keys = connection::all(async |cursor: Option<&str>| ledger.filter_keys(cursor).await);
                let keys = keys.await?;
                if json { output::json(&keys) } else { list(&keys) }
            }
            Action::Rotate { id, grace, reason, once } => {
                output::check_can_print_secrets()?;
                let rotate = RotateKey { grace_seconds: grace, reason };
                let made = once.of(ledger).rotate_filter_key(&id, &rotate).await?;
                output::made(
                    || secret(made, json),
                    &format!("Rotate again: agentrelay filter-keys rotate {id}"),
                )
            }
            Action::Revoke { id, reason, once } => {
                let revoked = once.of(ledger).revoke_filter_key(&id, &Reason { reason }).await?;
                if json { output::json(&revoked) } else { list(&[revoked]) }
            }
        }
    }
}

fn secret(made: FilterKeyWithSecret, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(&made);
    }
    list(std::slice::from_ref(&made.key))?;
    Ok(output::secret(made.secret)?)
}

fn list(keys: &[FilterKey]) -> anyhow::Result<()> {
    let row = |key: &FilterKey| {
        [key.id.to_string(), key.name.clone(), key.created_at.to_string(), output::or_dash(key.revoked_at)]
    };
    let rows: Vec<_> = keys.iter().map(row).collect();
    Ok(output::table(["id", "name", "created", "revoked"], &rows)?)
}
