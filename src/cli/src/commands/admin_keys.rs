//! `agentrelay admin-keys`: the credentials of administrators.

use super::connection::{self, Connection, Once};
use super::database;
use super::parse;
use crate::output;
use clap::{Args, Subcommand, ValueEnum};
use protocol::admin::{AdminKey, AdminKeyWithSecret, CreateAdminKey, Reason, Role};
use protocol::{CredentialId, TenantId};

/// Admin keys: the credentials of administrators
#[derive(Args)]
#[command(after_help = "Examples:
  agentrelay admin-keys create --name 'on call' --role operator
  agentrelay admin-keys create --name 'Acme' --role owner --tenant ten_...    # sees and touches only that tenant
  agentrelay admin-keys create --name 'audit 2026' --role auditor
  agentrelay admin-keys list
  agentrelay admin-keys revoke adm_... --reason 'left the team'
  agentrelay admin-keys recover --database sqlite:/var/lib/agentrelay/ledger.db --reason 'all keys lost'

An auditor reads; an operator also manages keys, tenants, credits and agents; an owner also manages admin keys, filter keys
and the policy.")]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Clone, Copy, ValueEnum)]
enum Named {
    Owner,
    Operator,
    Auditor,
}

impl From<Named> for Role {
    fn from(named: Named) -> Role {
        match named {
            Named::Owner => Role::Owner,
            Named::Operator => Role::Operator,
            Named::Auditor => Role::Auditor,
        }
    }
}

#[derive(Subcommand)]
enum Action {
    /// Create an admin key; its secret is shown only once
    Create {
        /// Display name
        #[arg(long)]
        name: String,
        /// Its role
        #[arg(long, value_enum)]
        role: Named,
        /// Bind it to this tenant
        #[arg(long, value_parser = parse::tenant)]
        tenant: Option<TenantId>,
        #[command(flatten)]
        once: Once,
    },
    /// Create another owner without an admin key, with access to the database itself
    ///
    /// Stop the ledger of a SQLite database first. The audit trail records it as service_credential_recovered.
    Recover {
        #[command(flatten)]
        at: database::Argument,
        /// Display name
        #[arg(long, default_value = "recovered")]
        name: String,
        /// The reason, for the audit trail
        #[arg(long)]
        reason: String,
    },
    /// List admin keys
    List {
        /// Only keys that are bound to this tenant
        #[arg(long, value_parser = parse::tenant)]
        tenant: Option<TenantId>,
    },
    /// Revoke an admin key; this is final
    Revoke {
        /// The admin key, adm_...
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
        let json = self.connection.json;
        match self.action {
            Action::Create { name, role, tenant, once } => {
                output::check_can_print_secrets()?;
                let create = CreateAdminKey { name, role: role.into(), tenant_id: tenant };
                let made = once.of(self.connection.open()?).create_admin_key(&create).await?;
                let undo = format!("Revoke it: agentrelay admin-keys revoke {} --reason lost", made.key.id);
                output::made(|| secret(&made, json), &undo)
            }
            Action::List { tenant } => {
                let ledger = self.connection.open()?;
                let keys = async |cursor: Option<&str>| ledger.admin_keys(tenant.as_ref(), cursor).await;
                let keys = connection::all(keys).await?;
                if json { output::json(&keys) } else { list(&keys) }
            }
            Action::Revoke { id, reason, once } => {
                let revoked =
                    once.of(self.connection.open()?).revoke_admin_key(&id, &Reason { reason }).await?;
                if json { output::json(&revoked) } else { list(&[revoked]) }
            }
            Action::Recover { at, name, reason } => {
                output::check_can_print_secrets()?;
                let work = tokio::task::spawn_blocking(move || {
                    let deliver =
                        |made: &AdminKeyWithSecret| secret(made, json).map_err(std::io::Error::other);
                    ledger::recover(&at.database, name, reason, deliver).map_err(anyhow::Error::from)
                });
                work.await??;
                output::note("It is stored and valid. Revoke the keys that are no longer needed.");
                Ok(())
            }
        }
    }
}

fn secret(made: &AdminKeyWithSecret, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(made);
    }
    list(std::slice::from_ref(&made.key))?;
    Ok(output::secret(made.secret.clone())?)
}

fn list(keys: &[AdminKey]) -> anyhow::Result<()> {
    let row = |key: &AdminKey| {
        [
            key.id.to_string(),
            key.name.clone(),
            key.role.to_string(),
            output::or_dash(key.tenant_id.as_ref()),
            key.created_at.to_string(),
            output::or_dash(key.revoked_at),
        ]
    };
    let rows: Vec<_> = keys.iter().map(row).collect();
    Ok(output::table(["id", "name", "role", "tenant", "created", "revoked"], &rows)?)
}
