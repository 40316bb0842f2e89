//! `agentrelay keys`: the credentials that agents send.

pub mod parse;

use super::connection::{self, Connection};
use super::tenants::tenant_id;
use crate::output;
use clap::{Args, Subcommand};
use client::KeyQuery;
use protocol::admin::{CreateKey, Key, KeyWithSecret, RevokeKey, RotateKey};
use protocol::key::{Grant, KeyState, Limit};
use protocol::{AgentId, InvalidId, KeyId, TenantId, Timestamp};

/// Keys: the credentials that agents send
#[derive(Args)]
#[command(after_help = "Examples:
  agentrelay keys create --tenant ten_... --name ci --scope read,generate
  agentrelay keys create --tenant ten_... --name builds --scope read,trigger \\
      --service builds --resource project:42@2027-01-01T00:00:00Z --limit 10/60s
  agentrelay keys list --tenant ten_...
  agentrelay keys rotate key_... --grace 3600
  agentrelay keys revoke key_... --reason 'left the team'")]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make a key; its secret is shown this once
    Create(Box<Create>),
    /// List keys
    List {
        /// Keys of this tenant only
        #[arg(long, value_parser = tenant_id)]
        tenant: Option<TenantId>,
    },
    /// Show one key, without its secret
    Show {
        /// The key, key_...
        #[arg(value_parser = key_id)]
        id: KeyId,
    },
    /// Give a key a new secret, shown this once
    Rotate {
        /// The key, key_...
        #[arg(value_parser = key_id)]
        id: KeyId,
        /// How long the old secret goes on working
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        grace: u32,
    },
    /// Withdraw a key for good
    Revoke {
        /// The key, key_...
        #[arg(value_parser = key_id)]
        id: KeyId,
        /// Why, for the audit
        #[arg(long)]
        reason: String,
    },
}

#[derive(Args)]
struct Create {
    /// Who pays, ten_...
    #[arg(long, value_parser = tenant_id)]
    tenant: TenantId,
    /// For people
    #[arg(long)]
    name: String,
    /// Permissions, such as read,generate
    #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',')]
    scopes: Vec<String>,
    /// Hold the key to these services; NAME or NAME@TIME, where the grant ends
    #[arg(long = "service", value_name = "GRANT", value_delimiter = ',', value_parser = parse::grant)]
    services: Vec<Grant>,
    /// Hold the key to these tools
    #[arg(long = "tool", value_name = "GRANT", value_delimiter = ',', value_parser = parse::grant)]
    tools: Vec<Grant>,
    /// Hold the key to these resources, such as project:42
    #[arg(long = "resource", value_name = "GRANT", value_delimiter = ',', value_parser = parse::grant)]
    resources: Vec<Grant>,
    /// A limit beside the tier's, such as 10/60s
    #[arg(long = "limit", value_name = "PERMITS/WINDOW", value_delimiter = ',', value_parser = parse::limit)]
    limits: Vec<Limit>,
    /// When the key ends, such as 2027-01-01T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    expires: Option<Timestamp>,
    /// The agent it belongs to, agt_...
    #[arg(long, value_parser = agent_id)]
    agent: Option<AgentId>,
}

impl Arguments {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let ledger = self.connection.open()?;
        let json = self.connection.json;
        match self.action {
            Action::Create(create) => secret(&ledger.create_key(&create.body()).await?, json),
            Action::List { tenant } => {
                let query = KeyQuery { tenant_id: tenant };
                let keys = connection::all(async |cursor| ledger.keys(&query, cursor).await).await?;
                if json { output::json(&keys) } else { list(&keys) }
            }
            Action::Show { id } => show(&ledger.key(&id).await?, json),
            Action::Rotate { id, grace } => {
                secret(&ledger.rotate_key(&id, &RotateKey { grace_seconds: grace }).await?, json)
            }
            Action::Revoke { id, reason } => {
                show(&ledger.revoke_key(&id, &RevokeKey { reason }).await?, json)
            }
        }
    }
}

impl Create {
    fn body(self) -> CreateKey {
        // Not given means not held to any; the command line has no way to say "held to nothing".
        let given = |grants: Vec<Grant>| Some(grants).filter(|grants| !grants.is_empty());
        CreateKey {
            tenant_id: self.tenant,
            name: self.name,
            scopes: self.scopes,
            services: given(self.services),
            tools: given(self.tools),
            resources: given(self.resources),
            limits: Some(self.limits).filter(|limits| !limits.is_empty()),
            expires_at: self.expires,
            agent_id: self.agent,
        }
    }
}

fn key_id(text: &str) -> Result<KeyId, InvalidId> {
    KeyId::parse(text)
}

fn agent_id(text: &str) -> Result<AgentId, InvalidId> {
    AgentId::parse(text)
}

fn secret(key: &KeyWithSecret, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(key);
    }
    show(&key.key, false)?;
    output::fields(&[("secret", key.secret.clone())])?;
    output::note("Keep the secret now: it is stored nowhere and can't be shown again.");
    Ok(())
}

fn show(key: &Key, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(key);
    }
    Ok(output::fields(&[
        ("id", key.id.to_string()),
        ("tenant", key.tenant_id.to_string()),
        ("name", key.name.clone()),
        ("state", state(key.state).to_owned()),
        ("scopes", key.scopes.join(" ")),
        ("services", grants(key.services.as_deref())),
        ("tools", grants(key.tools.as_deref())),
        ("resources", grants(key.resources.as_deref())),
        ("limits", limits(&key.limits)),
        ("agent", output::or_dash(key.agent_id.as_ref())),
        ("created", key.created_at.to_string()),
        ("expires", output::or_dash(key.expires_at)),
        ("revoked", output::or_dash(key.revoked_at)),
        ("last used", output::or_dash(key.last_used_at)),
    ])?)
}

fn list(keys: &[Key]) -> anyhow::Result<()> {
    let row = |key: &Key| {
        [
            key.id.to_string(),
            key.tenant_id.to_string(),
            key.name.clone(),
            state(key.state).to_owned(),
            key.scopes.join(" "),
            output::or_dash(key.expires_at),
            output::or_dash(key.last_used_at),
        ]
    };
    let rows: Vec<_> = keys.iter().map(row).collect();
    Ok(output::table(["id", "tenant", "name", "state", "scopes", "expires", "last used"], &rows)?)
}

const fn state(state: KeyState) -> &'static str {
    match state {
        KeyState::Active => "active",
        KeyState::Revoked => "revoked",
        KeyState::Expired => "expired",
        KeyState::Suspended => "suspended",
    }
}

fn grants(grants: Option<&[Grant]>) -> String {
    let Some(grants) = grants else { return "all".into() };
    let written = |grant: &Grant| match grant.expires_at {
        Some(end) => format!("{}@{end}", grant.name),
        None => grant.name.clone(),
    };
    grants.iter().map(written).collect::<Vec<_>>().join(" ")
}

fn limits(limits: &[Limit]) -> String {
    let written = |limit: &Limit| format!("{}/{}s", limit.permits, limit.window_seconds);
    let text = limits.iter().map(written).collect::<Vec<_>>().join(" ");
    if text.is_empty() { "the tier's".into() } else { text }
}
