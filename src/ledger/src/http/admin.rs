//! `/v1`: what administrators ask. Bodies and answers are `protocol::admin`'s.

mod admin_keys;
mod agents;
mod audit;
pub(super) mod check;
mod filter_keys;
mod keys;
mod leases;
mod policy;
mod reports;
mod reservations;
mod tenants;

use super::api::Endpoint;
use super::problem::Refused;
use crate::policies::document::FILE_BYTES_MAX;
use protocol::Timestamp;
use protocol::admin::{
    AdminKey, AdminKeyWithSecret, Agent, AuditKeys, AuditRow, AuditStatus, Balance, Because, Budget,
    CorrectCredits, CreateAdminKey, CreateAgent, CreateFilterKey, CreateKey, CreateTenant, CreditsGranted,
    FilterKey, FilterKeyWithSecret, GrantCredits, Key, KeyWithSecret, Lease, Page, PolicyChecked,
    PolicyInForce, Reservation, RevokeKey, Role, RotateKey, ShadowRow, Tenant, UpdateKey, UpdateTenant,
    UsageRow,
};
use serde_json::Value;

/// All of it.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    let mut all = money();
    all.extend(callers());
    all.extend(filters());
    all.extend(facts());
    all
}

fn money() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/v1/tenants", tenants::create)
            .says("Make a tenant")
            .for_all_tenants()
            .body::<CreateTenant>()
            .answers::<Tenant>(201),
        Endpoint::get("/v1/tenants", tenants::list)
            .says("List tenants")
            .query::<tenants::ListParams>()
            .answers::<Page<Tenant>>(200),
        Endpoint::get("/v1/tenants/{id}", tenants::show)
            .says("Show a tenant")
            .with_etag()
            .answers::<Tenant>(200),
        Endpoint::patch("/v1/tenants/{id}", tenants::update)
            .says("Change a tenant's name, tier or budget")
            .for_all_tenants()
            .with_etag()
            .body::<UpdateTenant>()
            .answers::<Tenant>(200),
        Endpoint::post("/v1/tenants/{id}/suspend", tenants::suspend)
            .says("Refuse a tenant's keys")
            .for_all_tenants()
            .with_etag()
            .body::<Because>()
            .answers::<Tenant>(200),
        Endpoint::post("/v1/tenants/{id}/resume", tenants::resume)
            .says("Accept a tenant's keys again")
            .for_all_tenants()
            .with_etag()
            .body::<Because>()
            .answers::<Tenant>(200),
        Endpoint::post("/v1/tenants/{id}/credits", tenants::grant)
            .says("Give a tenant credits")
            .for_all_tenants()
            .body::<GrantCredits>()
            .answers::<CreditsGranted>(201),
        Endpoint::post("/v1/tenants/{id}/corrections", tenants::correct)
            .says("Undo what was charged or granted")
            .for_all_tenants()
            .body::<CorrectCredits>()
            .answers::<CreditsGranted>(201),
        Endpoint::get("/v1/tenants/{id}/balance", tenants::balance)
            .says("Show what a tenant holds")
            .answers::<Balance>(200),
        Endpoint::get("/v1/tenants/{id}/budget", tenants::budget)
            .says("Show what a tenant may spend and has spent this month")
            .answers::<Budget>(200),
        Endpoint::get("/v1/keys/{id}/budget", keys::budget)
            .says("Show what a key may spend and has spent this month")
            .answers::<Budget>(200),
        Endpoint::get("/v1/leases", leases::list)
            .says("List credits that Envoys hold or held")
            .query::<leases::ListParams>()
            .answers::<Page<Lease>>(200),
        Endpoint::get("/v1/reservations", reservations::list)
            .says("List calls whose reservation ended without an account of them")
            .query::<reservations::ListParams>()
            .answers::<Page<Reservation>>(200),
    ]
}

fn callers() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/v1/keys", keys::create)
            .says("Make a key; its secret is in this answer and nowhere else")
            .body::<CreateKey>()
            .answers::<KeyWithSecret>(201),
        Endpoint::get("/v1/keys", keys::list)
            .says("List keys")
            .query::<keys::ListParams>()
            .answers::<Page<Key>>(200),
        Endpoint::get("/v1/keys/{id}", keys::show).says("Show a key").with_etag().answers::<Key>(200),
        Endpoint::patch("/v1/keys/{id}", keys::update)
            .says("Change what a key may do")
            .with_etag()
            .body::<UpdateKey>()
            .answers::<Key>(200),
        Endpoint::post("/v1/keys/{id}/rotate", keys::rotate)
            .says("Give a key a new secret; the old one works until the grace is over")
            .body::<RotateKey>()
            .answers::<KeyWithSecret>(200),
        Endpoint::post("/v1/keys/{id}/expire", keys::expire)
            .says("End a key now")
            .body::<Because>()
            .answers::<Key>(200),
        Endpoint::post("/v1/keys/{id}/revoke", keys::revoke)
            .says("Withdraw a key for good")
            .body::<RevokeKey>()
            .answers::<Key>(200),
        Endpoint::post("/v1/agents", agents::create)
            .says("Register an agent")
            .body::<CreateAgent>()
            .answers::<Agent>(201),
        Endpoint::get("/v1/agents", agents::list)
            .says("List agents")
            .query::<agents::ListParams>()
            .answers::<Page<Agent>>(200),
        Endpoint::get("/v1/agents/{id}", agents::show).says("Show an agent").answers::<Agent>(200),
        Endpoint::post("/v1/admin-keys", admin_keys::create)
            .says("Make an administrator's key; its secret is in this answer and nowhere else")
            .needs(Role::Owner)
            .body::<CreateAdminKey>()
            .answers::<AdminKeyWithSecret>(201),
        Endpoint::get("/v1/admin-keys", admin_keys::list)
            .says("List administrators' keys")
            .needs(Role::Owner)
            .query::<admin_keys::ListParams>()
            .answers::<Page<AdminKey>>(200),
        Endpoint::post("/v1/admin-keys/{id}/revoke", admin_keys::revoke)
            .says("Withdraw an administrator's key for good")
            .needs(Role::Owner)
            .body::<Because>()
            .answers::<AdminKey>(200),
    ]
}

fn filters() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/v1/filter-keys", filter_keys::create)
            .says("Make a filter's key; its secret is in this answer and nowhere else")
            .needs(Role::Owner)
            .for_all_tenants()
            .body::<CreateFilterKey>()
            .answers::<FilterKeyWithSecret>(201),
        Endpoint::get("/v1/filter-keys", filter_keys::list)
            .says("List filters' keys")
            .needs(Role::Owner)
            .for_all_tenants()
            .query::<filter_keys::ListParams>()
            .answers::<Page<FilterKey>>(200),
        Endpoint::post("/v1/filter-keys/{id}/rotate", filter_keys::rotate)
            .says("Give a filter's key a new secret; the old one works until the grace is over")
            .needs(Role::Owner)
            .for_all_tenants()
            .body::<RotateKey>()
            .answers::<FilterKeyWithSecret>(200),
        Endpoint::post("/v1/filter-keys/{id}/revoke", filter_keys::revoke)
            .says("Withdraw a filter's key for good; Envoys that use it lose the ledger")
            .needs(Role::Owner)
            .for_all_tenants()
            .body::<Because>()
            .answers::<FilterKey>(200),
    ]
}

fn facts() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/v1/usage", reports::usage)
            .says("Sum what was called and charged, by the hour")
            .query::<reports::UsageParams>()
            .answers::<Page<UsageRow>>(200),
        Endpoint::get("/v1/audit", audit::list)
            .says("List the audit trail, newest first")
            .query::<audit::ListParams>()
            .answers::<Page<AuditRow<Value>>>(200),
        Endpoint::get("/v1/audit/key", audit::keys)
            .says("Show the public keys that sign the audit trail")
            .answers::<AuditKeys>(200),
        Endpoint::get("/v1/audit/status", audit::status)
            .says("Show how far the audit trail is sealed, and what was lost or removed")
            .for_all_tenants()
            .answers::<AuditStatus>(200),
        Endpoint::get("/v1/audit/export", audit::export)
            .says("Export the audit trail as lines of JSON, to be verified anywhere")
            .for_all_tenants()
            .query::<audit::ExportParams>()
            .media_type("application/jsonl")
            .answers::<String>(200),
        Endpoint::get("/v1/policy", policy::show)
            .says("Show the policy in force")
            .with_etag()
            .answers::<PolicyInForce<Value>>(200),
        Endpoint::put("/v1/policy", policy::replace)
            .says("Put another policy in force, whole or not at all")
            .needs(Role::Owner)
            .for_all_tenants()
            .with_etag()
            .query::<policy::ReplaceParams>()
            .body::<Value>()
            .or_yaml()
            .body_bytes_max(FILE_BYTES_MAX)
            .answers::<PolicyInForce<Value>>(200),
        Endpoint::post("/v1/policy/check", policy::check)
            .says("Say what a policy would take from tenants and keys; changes nothing")
            .needs(Role::Auditor)
            .for_all_tenants()
            .body::<Value>()
            .or_yaml()
            .body_bytes_max(FILE_BYTES_MAX)
            .answers::<PolicyChecked>(200),
        Endpoint::get("/v1/policy/shadow-report", reports::shadow)
            .says("Sum what shadow rules would have refused")
            .query::<reports::ShadowParams>()
            .answers::<Page<ShadowRow>>(200),
        Endpoint::get("/v1/tiers", policy::tiers).says("Show the policy's tiers, verbatim"),
        Endpoint::get("/v1/tools", policy::tools).says("Show the policy's services and tools, verbatim"),
    ]
}

/// Items on a page unless asked otherwise, and at most.
const LIMIT: u32 = 100;
const LIMIT_MAX: u32 = 1000;

fn limit(asked: Option<u32>) -> Result<u32, Refused> {
    match asked.unwrap_or(LIMIT) {
        limit @ 1..=LIMIT_MAX => Ok(limit),
        _ => Err(Refused::invalid(format!("limit: must be 1 to {LIMIT_MAX}"))),
    }
}

/// A period has its begin and not its end. One that ends before it begins is a mistake.
fn ordered(from: Option<Timestamp>, to: Option<Timestamp>) -> Result<(), Refused> {
    match (from, to) {
        (Some(from), Some(to)) if to < from => {
            Err(Refused::invalid(format!("to: {to} is before from, {from}; say the earlier time first")))
        }
        _ => Ok(()),
    }
}

/// A page of at most `limit` items out of what was found, which is one more where there is another page.
fn page<T>(mut items: Vec<T>, limit: u32, cursor: impl Fn(&T) -> String) -> Page<T> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = items.len() > limit;
    items.truncate(limit);
    let next_cursor = items.last().filter(|_| more).map(cursor);
    Page { items, next_cursor }
}
