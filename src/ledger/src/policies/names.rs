//! The names that a new policy would drop although rows use them: tenants use tiers; keys use scopes, services and tools.
//!
//! Only names of the policy in force count: a key may be restricted to a name that no policy has yet.

use crate::policies::document::InForce;
use crate::store::{KeyFilter, Store};
use crate::transaction::Unavailable;
use policy::Tool;
use policy::document::Reserve;
use protocol::Timestamp;
use protocol::admin::{NameKind, NameLeaving, ToolLeaving};
use protocol::key::{Grant, KeyState};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Rows per read.
const PAGE: u32 = 1000;
/// Most ids listed for a name; the others are counted.
const IDS_MAX: usize = 10;

/// What of a policy rows can name.
pub(super) type Names = BTreeSet<(NameKind, String)>;

/// All names of a policy that rows can use.
pub(super) fn names(policy: &InForce) -> Names {
    let mut names = Names::new();
    names.extend(policy.policy.tiers().map(|tier| (NameKind::Tier, tier.name.clone())));
    for service in policy.policy.services() {
        names.insert((NameKind::Service, service.name.clone()));
        let tools = service.tools().chain(service.gate_tools.iter().map(|own| &own.rule));
        names.extend(tools.map(|tool| (NameKind::Tool, tool.name.clone())));
    }
    for table in ["risks", "services"] {
        let table = policy.tables.get(table).and_then(|table| serde_json::from_str(table.get()).ok());
        scopes(&table.unwrap_or(Value::Null), &mut names);
    }
    names
}

/// The tools that `after` drops, with what is under way for them.
pub(crate) async fn tools_leaving(
    store: &Store,
    before: &InForce,
    after: &InForce,
) -> Result<Vec<ToolLeaving>, Unavailable> {
    let (before, after) = (tools(before), tools(after));
    let gone: Vec<_> = before.into_iter().filter(|(name, _)| !after.contains_key(name)).collect();
    if gone.is_empty() {
        return Ok(Vec::new());
    }
    let (pending, open_leases) = (store.pending_by_tool().await?, store.open_leases().await?);
    let leaving = gone.into_iter().map(|((service, tool), is_leased)| {
        let pending = pending.get(&(service.clone(), tool.clone())).copied().unwrap_or(0);
        ToolLeaving { service, tool, pending, open_leases: is_leased.then_some(open_leases) }
    });
    Ok(leaving.collect())
}

/// The tools by service, and whether their calls may be paid from leases.
fn tools(policy: &InForce) -> BTreeMap<(String, String), bool> {
    let is_leased = |tool: &Tool| tool.price.as_ref().is_some_and(|price| price.reserve == Reserve::Leased);
    let mut all = BTreeMap::new();
    for service in policy.policy.services() {
        let named = |tool: &Tool| ((service.name.clone(), tool.name.clone()), is_leased(tool));
        all.extend(service.tools().map(named));
    }
    all
}

/// Collects the scopes wherever a policy names them.
fn scopes(value: &Value, names: &mut Names) {
    let Value::Object(fields) = value else { return };
    for (field, value) in fields {
        match (field.as_str(), value) {
            ("scope", Value::String(scope)) => {
                names.insert((NameKind::Scope, scope.clone()));
            }
            ("scopes", Value::Array(all)) => {
                let all = all.iter().filter_map(Value::as_str);
                names.extend(all.map(|scope| (NameKind::Scope, scope.to_owned())));
            }
            _ => scopes(value, names),
        }
    }
}

/// The used names that `after` drops, with their users. Reads all tenants and keys, in pages, if any name is dropped.
pub(crate) async fn in_use(
    store: &Store,
    before: &InForce,
    after: &InForce,
    now: Timestamp,
) -> Result<Vec<NameLeaving>, Unavailable> {
    let gone: Names = names(before).difference(&names(after)).cloned().collect();
    let mut found = Found { gone, by_name: BTreeMap::new() };
    if found.gone.iter().any(|(kind, _)| *kind == NameKind::Tier) {
        let mut last = None;
        loop {
            let tenants = store.tenants(last, PAGE).await?;
            for (tenant, _) in &tenants {
                found.uses(NameKind::Tier, &tenant.tier, tenant.id.as_str());
            }
            last = tenants.last().map(|(tenant, _)| tenant.id.clone());
            if last.is_none() {
                break;
            }
        }
    }
    if found.gone.iter().any(|(kind, _)| *kind != NameKind::Tier) {
        let mut filter = KeyFilter {
            tenant_id: None,
            agent_id: None,
            source: None,
            state: None,
            now,
            after: None,
            limit: PAGE,
        };
        loop {
            let keys = store.keys(filter.clone()).await?;
            filter.after = keys.last().map(|listed| listed.key.id.clone());
            if filter.after.is_none() {
                break;
            }
            for key in keys.into_iter().map(|listed| listed.shown(now)) {
                if matches!(key.state, KeyState::Revoked | KeyState::Expired) {
                    continue;
                }
                let id = key.id.as_str();
                key.scopes.iter().for_each(|scope| found.uses(NameKind::Scope, scope, id));
                for (kind, grants) in [(NameKind::Service, &key.services), (NameKind::Tool, &key.tools)] {
                    let lives = |grant: &&Grant| grant.expires_at.is_none_or(|end| now < end);
                    let grants = grants.iter().flatten().filter(lives);
                    grants.for_each(|grant| found.uses(kind, &grant.name, id));
                }
            }
        }
    }
    Ok(found.by_name.into_values().collect())
}

struct Found {
    gone: Names,
    by_name: BTreeMap<(NameKind, String), NameLeaving>,
}

impl Found {
    fn uses(&mut self, kind: NameKind, name: &str, id: &str) {
        let at = (kind, name.to_owned());
        if !self.gone.contains(&at) {
            return;
        }
        let leaving = self.by_name.entry(at).or_insert_with(|| NameLeaving {
            kind,
            name: name.to_owned(),
            used_by: 0,
            ids: Vec::new(),
        });
        leaving.used_by = leaving.used_by.saturating_add(1);
        if leaving.ids.len() < IDS_MAX {
            leaving.ids.push(id.to_owned());
        }
    }
}
