//! `agentrelay tenants`: tenants and their credits.

use super::connection::{self, Connection, Once};
use super::parse;
use crate::output;
use clap::{Args, Subcommand, ValueEnum};
use protocol::admin::{
    Balance, Budget, CorrectCredits, CreateTenant, Direction, GrantCredits, Patch, Reason, Tenant,
    UpdateTenant,
};
use protocol::{Credits, KeyId, ReservationId, TenantId};

/// Tenants and their credits
#[derive(Args)]
#[command(after_help = "Examples:
  agentrelay tenants create --name Acme --tier pro --credits 1000
  agentrelay tenants list
  agentrelay tenants show ten_...
  agentrelay tenants credit ten_... 500 --reason 'invoice 2026-117'
  agentrelay tenants credit ten_... 500 --reason 'invoice 2026-118' --idempotency-key invoice-118
  agentrelay tenants correct ten_... refund 40 --reason 'the service was down'
  agentrelay tenants correct ten_... refund 40 --key key_... --reason 'its service was down'
  agentrelay tenants correct ten_... refund 5 --reservation 0198f0c0-5a1b-7c3d-8e4f-0123456789ab --reason 'the gate was killed'
  agentrelay tenants update ten_... --tier enterprise --budget 100000 --reason 'new contract'
  agentrelay tenants update ten_... --budget none --if-match 3 --reason 'as agreed over version 3'
  agentrelay tenants suspend ten_... --reason 'unpaid'
  agentrelay tenants resume ten_... --reason 'paid'
  agentrelay tenants balance ten_... --json
  agentrelay tenants budget ten_...")]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Clone, Copy, ValueEnum)]
enum Way {
    Refund,
    Withdraw,
}

#[derive(Subcommand)]
enum Action {
    /// Create a tenant
    Create {
        /// Display name
        #[arg(long)]
        name: String,
        /// One of the policy's tiers
        #[arg(long)]
        tier: String,
        /// First grant of credits
        #[arg(long, value_parser = parse::credits)]
        credits: Option<Credits>,
        /// The most it may spend in a calendar month (UTC)
        #[arg(long, value_name = "CREDITS", value_parser = parse::credits)]
        budget: Option<Credits>,
        #[command(flatten)]
        once: Once,
    },
    /// Change a tenant's name, tier or monthly budget
    Update {
        /// The tenant, ten_...
        #[arg(value_parser = parse::tenant)]
        id: TenantId,
        /// New name
        #[arg(long)]
        name: Option<String>,
        /// New tier
        #[arg(long)]
        tier: Option<String>,
        /// The most it may spend in a calendar month (UTC); `none` for no bound
        #[arg(long, value_name = "CREDITS", value_parser = parse::budget)]
        budget: Option<Patch<Credits>>,
        /// Only if this is still its version, as `tenants show` shows it
        #[arg(long, value_name = "VERSION", value_parser = connection::version)]
        if_match: Option<String>,
        /// The reason, for the audit trail
        #[arg(long)]
        reason: String,
    },
    /// Refuse a tenant's keys
    Suspend {
        /// The tenant, ten_...
        #[arg(value_parser = parse::tenant)]
        id: TenantId,
        /// The reason, for the audit trail
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        once: Once,
    },
    /// Accept a tenant's keys again
    Resume {
        /// The tenant, ten_...
        #[arg(value_parser = parse::tenant)]
        id: TenantId,
        /// The reason, for the audit trail
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        once: Once,
    },
    /// Undo what was charged (refund) or granted (withdraw)
    Correct {
        /// The tenant, ten_...
        #[arg(value_parser = parse::tenant)]
        id: TenantId,
        /// Which way
        #[arg(value_enum)]
        direction: Way,
        /// How much
        #[arg(value_parser = parse::credits)]
        amount: Credits,
        /// The reservation that a refund is for; it reduces the spending of that key and month
        #[arg(long, value_name = "ID", value_parser = ReservationId::parse, conflicts_with = "key")]
        reservation: Option<ReservationId>,
        /// The key that a refund is for; it reduces this key's spending. By default it reduces the tenant's, and caps its keys'
        /// at the tenant's
        #[arg(long, value_name = "KEY", value_parser = parse::key)]
        key: Option<KeyId>,
        /// The reason, for the audit trail
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        once: Once,
    },
    /// Show a tenant's budget and spending of this month
    Budget {
        /// The tenant, ten_...
        #[arg(value_parser = parse::tenant)]
        id: TenantId,
    },
    /// List all tenants
    List,
    /// Show one tenant
    Show {
        /// The tenant, ten_...
        #[arg(value_parser = parse::tenant)]
        id: TenantId,
    },
    /// Add credits to a tenant
    Credit {
        /// The tenant, ten_...
        #[arg(value_parser = parse::tenant)]
        id: TenantId,
        /// Amount
        #[arg(value_parser = parse::credits)]
        amount: Credits,
        /// The reason, for the audit trail
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        once: Once,
    },
    /// Show a tenant's balance
    Balance {
        /// The tenant, ten_...
        #[arg(value_parser = parse::tenant)]
        id: TenantId,
    },
}

impl Arguments {
    pub async fn run(self) -> anyhow::Result<()> {
        let ledger = self.connection.open()?;
        let json = self.connection.json;
        match self.action {
            Action::Create { name, tier, credits, budget, once } => {
                let create = CreateTenant { name, tier, credits, budget };
                show(&once.of(ledger).create_tenant(&create).await?, json)
            }
            Action::Update { id, name, tier, budget, if_match, reason } => {
                let update = UpdateTenant { name, tier, budget: budget.unwrap_or_default(), reason };
                let etag = match if_match {
                    Some(version) => Some(version),
                    None => ledger.tagged_tenant(&id).await?.etag,
                };
                show(&ledger.update_tenant(&id, &update, etag.as_deref()).await?, json)
            }
            Action::Suspend { id, reason, once } => {
                show(&once.of(ledger).suspend_tenant(&id, &Reason { reason }).await?, json)
            }
            Action::Resume { id, reason, once } => {
                show(&once.of(ledger).resume_tenant(&id, &Reason { reason }).await?, json)
            }
            Action::Correct { id, direction, amount, reservation, key, reason, once } => {
                let direction = match direction {
                    Way::Refund => Direction::Refund,
                    Way::Withdraw => Direction::Withdraw,
                };
                let correction =
                    CorrectCredits { direction, amount, reason, reservation_id: reservation, key_id: key };
                let corrected = once.of(ledger).correct_credits(&id, &correction).await?;
                if json { output::json(&corrected) } else { balance(&corrected.balance) }
            }
            Action::Budget { id } => show_budget(&ledger.tenant_budget(&id).await?, json),
            Action::List => {
                let tenants = connection::all(async |cursor| ledger.tenants(cursor).await).await?;
                if json { output::json(&tenants) } else { list(&tenants) }
            }
            Action::Show { id } => output::versioned(&ledger.tagged_tenant(&id).await?, fields, json),
            Action::Credit { id, amount, reason, once } => {
                let grant = GrantCredits { amount, reason };
                let granted = once.of(ledger).grant_credits(&id, &grant).await?;
                if json { output::json(&granted) } else { balance(&granted.balance) }
            }
            Action::Balance { id } => {
                let balance_now = ledger.balance(&id).await?;
                if json { output::json(&balance_now) } else { balance(&balance_now) }
            }
        }
    }
}

/// Prints a budget.
pub fn show_budget(budget: &Budget, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(budget);
    }
    Ok(output::fields(&[
        ("month", budget.month.clone()),
        ("budget", output::or_dash(budget.budget)),
        ("spent", budget.spent.to_string()),
    ])?)
}

fn show(tenant: &Tenant, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(tenant);
    }
    Ok(output::fields(&fields(tenant))?)
}

fn fields(tenant: &Tenant) -> Vec<(&'static str, String)> {
    let Balance { granted, available, pending, posted } = tenant.balance;
    vec![
        ("id", tenant.id.to_string()),
        ("name", tenant.name.clone()),
        ("tier", tenant.tier.clone()),
        ("created", tenant.created_at.to_string()),
        ("suspended", output::or_dash(tenant.suspended_at)),
        ("budget", output::or_dash(tenant.budget)),
        ("granted", granted.to_string()),
        ("available", available.to_string()),
        ("pending", pending.to_string()),
        ("posted", posted.to_string()),
    ]
}

fn balance(balance: &Balance) -> anyhow::Result<()> {
    let Balance { granted, available, pending, posted } = balance;
    let row = [granted, available, pending, posted].map(ToString::to_string);
    Ok(output::table(["granted", "available", "pending", "posted"], &[row])?)
}

fn list(tenants: &[Tenant]) -> anyhow::Result<()> {
    let row = |tenant: &Tenant| {
        let Balance { available, pending, posted, .. } = tenant.balance;
        [
            tenant.id.to_string(),
            tenant.name.clone(),
            tenant.tier.clone(),
            available.to_string(),
            pending.to_string(),
            posted.to_string(),
        ]
    };
    let rows: Vec<_> = tenants.iter().map(row).collect();
    Ok(output::table(["id", "name", "tier", "available", "pending", "posted"], &rows)?)
}
