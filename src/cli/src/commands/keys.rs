//! `agentrelay keys`: the credentials that agents send.

use super::connection::{self, Connection, Once};
use super::parse;
use super::tenants::show_budget;
use crate::output;
use clap::{Args, Subcommand, ValueEnum};
use client::KeyQuery;
use protocol::admin::{CreateKey, Key, KeyWithSecret, Patch, Reason, RotateKey, UpdateKey};
use protocol::key::{Concurrency, Grant, KeySource, KeyState, Limit};
use protocol::{AgentId, Credits, KeyId, TenantId, Timestamp};

/// Keys: the credentials that agents send
#[derive(Args)]
#[command(after_help = "Examples:
  agentrelay keys create --tenant ten_... --name ci --scope read,generate
  agentrelay keys create --tenant ten_... --name builds --scope read --resource project:42@2027-01-01
  agentrelay keys create --tenant ten_... --name mail --scope read --resource user:bob@example.com --resource 'a,b'
  agentrelay keys create --tenant ten_... --name later --no-tools --idempotency-key later-1
  agentrelay keys create --tenant ten_... --name soon --scope translate --allow-unknown   # a policy to come has it
  agentrelay keys create --tenant ten_... --name tests --scope read,trigger --limit 10/60s --budget 500
  agentrelay keys list --tenant ten_... --state active
  agentrelay keys show key_...
  agentrelay keys budget key_...
  agentrelay keys update key_... --scope read --budget 500 --expires never --reason 'less trust'
  agentrelay keys update key_... --no-limits --all-tools --agent none --if-match 3 --reason 'as agreed over version 3'
  agentrelay keys expire key_... --reason 'the pilot is over'
  agentrelay keys rotate key_... --grace 3600
  agentrelay keys revoke key_... --reason 'left the team'

Separate scopes and limits with commas. Repeat --service, --tool and --resource for each grant: NAME, or NAME@TIME with an
expiry. A name that itself ends like @TIME is written NAME@never.")]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Create a key; its secret is shown only once
    Create(Box<Create>),
    /// List keys
    List {
        /// Keys of this tenant only
        #[arg(long, value_parser = parse::tenant)]
        tenant: Option<TenantId>,
        /// Keys of this agent only
        #[arg(long, value_parser = parse::of_agent)]
        agent: Option<AgentId>,
        /// Keys in this state only
        #[arg(long, value_enum)]
        state: Option<State>,
        /// Keys created this way only
        #[arg(long, value_enum)]
        source: Option<Source>,
    },
    /// Change what a key may do
    Update(Box<Update>),
    /// Expire a key now; unlike a revoked key it can get a new expiry
    Expire {
        /// The key, key_...
        #[arg(value_parser = parse::key)]
        id: KeyId,
        /// The reason, for the audit trail
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        once: Once,
    },
    /// Show a key's budget and spending of this month
    Budget {
        /// The key, key_...
        #[arg(value_parser = parse::key)]
        id: KeyId,
    },
    /// Show one key, without its secret
    Show {
        /// The key, key_...
        #[arg(value_parser = parse::key)]
        id: KeyId,
    },
    /// Give a key a new secret, shown only once
    Rotate {
        /// The key, key_...
        #[arg(value_parser = parse::key)]
        id: KeyId,
        /// How long the old secret keeps working
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        grace: u32,
        /// The reason, for the audit trail
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        once: Once,
    },
    /// Revoke a key; this is final
    Revoke {
        /// The key, key_...
        #[arg(value_parser = parse::key)]
        id: KeyId,
        /// The reason, for the audit trail
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        once: Once,
    },
}

#[derive(Args)]
struct Create {
    /// The tenant that pays, ten_...
    #[arg(long, value_parser = parse::tenant)]
    tenant: TenantId,
    /// Display name
    #[arg(long)]
    name: String,
    /// Scopes, such as read,generate
    #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',')]
    scopes: Vec<String>,
    /// Restrict the key to this service; repeatable. NAME, or NAME@TIME with an expiry
    #[arg(long = "service", value_name = "GRANT", value_parser = parse::grant)]
    services: Vec<Grant>,
    /// Allow no service
    #[arg(long, conflicts_with = "services")]
    no_services: bool,
    /// Restrict the key to this tool; repeatable
    #[arg(long = "tool", value_name = "GRANT", value_parser = parse::grant)]
    tools: Vec<Grant>,
    /// Allow no tool
    #[arg(long, conflicts_with = "tools")]
    no_tools: bool,
    /// Restrict the key to this resource, such as project:42; repeatable
    #[arg(long = "resource", value_name = "GRANT", value_parser = parse::grant)]
    resources: Vec<Grant>,
    /// Allow no resource
    #[arg(long, conflicts_with = "resources")]
    no_resources: bool,
    /// A limit in addition to the tier's, such as 10/60s
    #[arg(long = "limit", value_name = "PERMITS/WINDOW", value_delimiter = ',', value_parser = parse::limit)]
    limits: Vec<Limit>,
    /// Most running requests and open streams on one worker of an Envoy, in addition to the tier's bounds, such as 20/2
    #[arg(long, value_name = "REQUESTS/STREAMS", value_parser = parse::concurrency)]
    concurrency: Option<Concurrency>,
    /// When the key expires, such as 2027-01-01 or 2027-01-01T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    expires: Option<Timestamp>,
    /// The agent it belongs to, agt_...
    #[arg(long, value_parser = parse::of_agent)]
    agent: Option<AgentId>,
    /// Take names that the policy in force lacks, for a policy to come
    #[arg(long)]
    allow_unknown: bool,
    /// The most it may spend in a calendar month (UTC)
    #[arg(long, value_name = "CREDITS", value_parser = parse::credits)]
    budget: Option<Credits>,
    #[command(flatten)]
    once: Once,
}

#[derive(Args)]
struct Update {
    /// The key, key_...
    #[arg(value_parser = parse::key)]
    id: KeyId,
    /// New name
    #[arg(long)]
    name: Option<String>,
    /// New scopes, replacing all
    #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',')]
    scopes: Option<Vec<String>>,
    /// Remove all scopes
    #[arg(long, conflicts_with = "scopes")]
    no_scopes: bool,
    /// Restrict it to this service; repeatable, replaces all. NAME or NAME@TIME
    #[arg(long = "service", value_name = "GRANT", value_parser = parse::grant)]
    services: Option<Vec<Grant>>,
    /// Allow every service
    #[arg(long, conflicts_with = "services")]
    all_services: bool,
    /// Allow no service
    #[arg(long, conflicts_with_all = ["services", "all_services"])]
    no_services: bool,
    /// Restrict it to this tool; repeatable, replaces all
    #[arg(long = "tool", value_name = "GRANT", value_parser = parse::grant)]
    tools: Option<Vec<Grant>>,
    /// Allow every tool
    #[arg(long, conflicts_with = "tools")]
    all_tools: bool,
    /// Allow no tool
    #[arg(long, conflicts_with_all = ["tools", "all_tools"])]
    no_tools: bool,
    /// Restrict it to this resource; repeatable, replaces all
    #[arg(long = "resource", value_name = "GRANT", value_parser = parse::grant)]
    resources: Option<Vec<Grant>>,
    /// Allow every resource
    #[arg(long, conflicts_with = "resources")]
    all_resources: bool,
    /// Allow no resource
    #[arg(long, conflicts_with_all = ["resources", "all_resources"])]
    no_resources: bool,
    /// Limits in addition to the tier's, replacing all
    #[arg(long = "limit", value_name = "PERMITS/WINDOW", value_delimiter = ',', value_parser = parse::limit)]
    limits: Option<Vec<Limit>>,
    /// Remove all limits but the tier's
    #[arg(long, conflicts_with = "limits")]
    no_limits: bool,
    /// Most running requests and open streams on one worker of an Envoy, such as 20/2; `none` for the tier's bounds only
    #[arg(long, value_name = "REQUESTS/STREAMS", value_parser = parse::other_concurrency)]
    concurrency: Option<Patch<Concurrency>>,
    /// When the key expires, or `never`
    #[arg(long, value_name = "TIME", value_parser = parse::end)]
    expires: Option<Patch<Timestamp>>,
    /// New agent, agt_..., or `none`
    #[arg(long, value_parser = parse::agent)]
    agent: Option<Patch<AgentId>>,
    /// The most it may spend in a calendar month (UTC); `none` for no bound
    #[arg(long, value_name = "CREDITS", value_parser = parse::budget)]
    budget: Option<Patch<Credits>>,
    /// Take names that the policy in force lacks, for a policy to come
    #[arg(long)]
    allow_unknown: bool,
    /// Only if the key still has this version, shown by `keys show`
    #[arg(long, value_name = "VERSION", value_parser = connection::version)]
    if_match: Option<String>,
    /// The reason, for the audit trail
    #[arg(long)]
    reason: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum State {
    Active,
    Suspended,
    Expired,
    Revoked,
}

#[derive(Clone, Copy, ValueEnum)]
enum Source {
    Admin,
    Mcp,
    Delegation,
}

impl From<State> for KeyState {
    fn from(state: State) -> KeyState {
        match state {
            State::Active => KeyState::Active,
            State::Suspended => KeyState::Suspended,
            State::Expired => KeyState::Expired,
            State::Revoked => KeyState::Revoked,
        }
    }
}

impl From<Source> for KeySource {
    fn from(source: Source) -> KeySource {
        match source {
            Source::Admin => KeySource::Admin,
            Source::Mcp => KeySource::Mcp,
            Source::Delegation => KeySource::Delegation,
        }
    }
}

impl Arguments {
    pub async fn run(self) -> anyhow::Result<()> {
        let ledger = self.connection.open()?;
        let json = self.connection.json;
        match self.action {
            Action::Create(create) => {
                output::check_can_print_secrets()?;
                let ledger = if create.allow_unknown { ledger.allowing_unknown() } else { ledger };
                let (create, once) = create.body();
                let made = once.of(ledger).create_key(&create).await?;
                let undo = format!("Revoke it: agentrelay keys revoke {} --reason lost", made.key.id);
                output::made(|| secret(&made, json), &undo)
            }
            Action::List { tenant, agent, state, source } => {
                let query = KeyQuery {
                    tenant_id: tenant,
                    agent_id: agent,
                    state: state.map(KeyState::from),
                    source: source.map(KeySource::from),
                };
                let keys = connection::all(async |cursor| ledger.keys(&query, cursor).await).await?;
                if json { output::json(&keys) } else { list(&keys) }
            }
            Action::Show { id } => output::versioned(&ledger.tagged_key(&id).await?, fields, json),
            Action::Update(update) => {
                let ledger = if update.allow_unknown { ledger.allowing_unknown() } else { ledger };
                let (id, if_match, update) = update.body();
                let etag = match if_match {
                    Some(version) => Some(version),
                    None => ledger.tagged_key(&id).await?.etag,
                };
                show(&ledger.update_key(&id, &update, etag.as_deref()).await?, json)
            }
            Action::Expire { id, reason, once } => {
                show(&once.of(ledger).expire_key(&id, &Reason { reason }).await?, json)
            }
            Action::Budget { id } => show_budget(&ledger.key_budget(&id).await?, json),
            Action::Rotate { id, grace, reason, once } => {
                output::check_can_print_secrets()?;
                let rotate = RotateKey { grace_seconds: grace, reason };
                let made = once.of(ledger).rotate_key(&id, &rotate).await?;
                output::made(|| secret(&made, json), &format!("Rotate again: agentrelay keys rotate {id}"))
            }
            Action::Revoke { id, reason, once } => {
                show(&once.of(ledger).revoke_key(&id, &Reason { reason }).await?, json)
            }
        }
    }
}

impl Create {
    fn body(self) -> (CreateKey, Once) {
        // Without grants the key is not restricted; an empty list needs a flag.
        let restricted_to =
            |grants: Vec<Grant>, nothing: bool| Some(grants).filter(|grants| nothing || !grants.is_empty());
        let create = CreateKey {
            tenant_id: self.tenant,
            name: self.name,
            scopes: self.scopes,
            services: restricted_to(self.services, self.no_services),
            tools: restricted_to(self.tools, self.no_tools),
            resources: restricted_to(self.resources, self.no_resources),
            limits: Some(self.limits).filter(|limits| !limits.is_empty()),
            concurrency: self.concurrency,
            expires_at: self.expires,
            agent_id: self.agent,
            budget: self.budget,
        };
        (create, self.once)
    }
}

impl Update {
    /// The key, the expected version and the update.
    fn body(self) -> (KeyId, Option<String>, UpdateKey) {
        let restricted_to = |grants: Option<Vec<Grant>>, all: bool, nothing: bool| match grants {
            Some(grants) => Patch::Set(grants),
            None if all => Patch::Clear,
            None if nothing => Patch::Set(Vec::new()),
            None => Patch::Keep,
        };
        let update = UpdateKey {
            name: self.name,
            scopes: self.scopes.or(self.no_scopes.then(Vec::new)),
            services: restricted_to(self.services, self.all_services, self.no_services),
            tools: restricted_to(self.tools, self.all_tools, self.no_tools),
            resources: restricted_to(self.resources, self.all_resources, self.no_resources),
            limits: self.limits.or(self.no_limits.then(Vec::new)),
            concurrency: self.concurrency.unwrap_or_default(),
            expires_at: self.expires.unwrap_or_default(),
            agent_id: self.agent.unwrap_or_default(),
            budget: self.budget.unwrap_or_default(),
            reason: self.reason,
        };
        (self.id, self.if_match, update)
    }
}

fn secret(key: &KeyWithSecret, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(key);
    }
    show(&key.key, false)?;
    Ok(output::secret(key.secret.clone())?)
}

fn show(key: &Key, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(key);
    }
    Ok(output::fields(&fields(key))?)
}

fn fields(key: &Key) -> Vec<(&'static str, String)> {
    let mut fields = vec![
        ("id", key.id.to_string()),
        ("tenant", key.tenant_id.to_string()),
        ("name", key.name.clone()),
        ("state", state(key.state).to_owned()),
        ("scopes", key.scopes.join(" ")),
        ("services", grants(key.services.as_deref())),
        ("tools", grants(key.tools.as_deref())),
        ("resources", grants(key.resources.as_deref())),
        ("limits", limits(&key.limits)),
        ("concurrency", concurrency(key.concurrency)),
        ("budget", output::or_dash(key.budget)),
        ("agent", output::or_dash(key.agent_id.as_ref())),
        ("source", source(key.source).to_owned()),
        ("parent", output::or_dash(key.parent_id.as_ref())),
        ("created", key.created_at.to_string()),
        ("expires", output::or_dash(key.expires_at)),
        ("revoked", output::or_dash(key.revoked_at)),
        ("last used", output::or_dash(key.last_used_at)),
    ];
    fields.extend(key.warnings.iter().map(|warning| ("warning", warning.clone())));
    fields
}

fn list(keys: &[Key]) -> anyhow::Result<()> {
    let row = |key: &Key| {
        [
            key.id.to_string(),
            key.tenant_id.to_string(),
            key.name.clone(),
            state(key.state).to_owned(),
            source(key.source).to_owned(),
            key.scopes.join(" "),
            output::or_dash(key.expires_at),
            output::or_dash(key.last_used_at),
        ]
    };
    let rows: Vec<_> = keys.iter().map(row).collect();
    Ok(output::table(["id", "tenant", "name", "state", "source", "scopes", "expires", "last used"], &rows)?)
}

const fn state(state: KeyState) -> &'static str {
    match state {
        KeyState::Active => "active",
        KeyState::Revoked => "revoked",
        KeyState::Expired => "expired",
        KeyState::Suspended => "suspended",
    }
}

const fn source(source: KeySource) -> &'static str {
    match source {
        KeySource::Admin => "admin",
        KeySource::Mcp => "mcp",
        KeySource::Delegation => "delegation",
    }
}

fn grants(grants: Option<&[Grant]>) -> String {
    let Some(grants) = grants else { return "all".into() };
    if grants.is_empty() {
        return "none".into();
    }
    grants.iter().map(parse::as_text).collect::<Vec<_>>().join(" ")
}

fn concurrency(concurrency: Option<Concurrency>) -> String {
    let as_text = |most: Concurrency| format!("{}/{}", most.requests, most.streams);
    concurrency.map_or_else(|| "the tier's".into(), as_text)
}

fn limits(limits: &[Limit]) -> String {
    let as_text = |limit: &Limit| format!("{}/{}s", limit.permits, limit.window_seconds);
    let text = limits.iter().map(as_text).collect::<Vec<_>>().join(" ");
    if text.is_empty() { "the tier's".into() } else { text }
}
