//! A key record, prepared for decisions.

use crate::document::Per;
use crate::limit::{LimitRule, Origin};
use protocol::key::{Concurrency, Grant, KeyRecord, KeyState};
use protocol::{AgentId, KeyId, OwnerId, Timestamp, key::Limit};
use sha2::{Digest, Sha256};

/// A key that the ledger knows.
#[derive(Debug, Clone)]
pub struct Key {
    /// The ledger's record.
    pub record: KeyRecord,
    /// Identifies the key in packed windows; a child key has its parent's, so that both share their windows. It is 64 bits of
    /// SHA-256. Nobody can make two keys collide, because the ledger chooses the ids.
    pub fingerprint: u64,
    /// Identifies the tenant in packed leases, in the same way.
    pub tenant: u64,
    /// Identifies the agent whose windows count its requests, or the key if it has none.
    agent: u64,
    /// The key's own limits, and those of its parent.
    pub limits: Box<[LimitRule]>,
    /// The most requests and streams that it and its parent may have in progress on one worker, if their records say so.
    pub concurrency: Option<Concurrency>,
    /// The scopes as the upstream gets them; `None` if there is exactly one, which is then used directly.
    scopes: Option<Box<str>>,
}

impl Key {
    /// Prepares a record. A limit that is out of bounds is set to the nearest bound; its window is never longer than a day.
    pub fn new(mut record: KeyRecord) -> Key {
        let limits = match &record.parent {
            None => rules(Origin::Key, "own", &record.limits).into(),
            // All children together may do no more than their parent; each child's own limits have separate windows.
            Some(parent) => {
                let subject = format!("own of {}", record.key_id);
                let of_parent = rules(Origin::Parent, "own", &parent.limits);
                [of_parent, rules(Origin::Key, &subject, &record.limits)].concat().into()
            }
        };
        let own =
            fingerprint(record.parent.as_ref().map_or(&record.key_id, |parent| &parent.key_id).as_str());
        // A worker holds many keys, and collections read from JSON have spare capacity.
        record.scopes.shrink_to_fit();
        record.limits.shrink_to_fit();
        for held_to in [&mut record.services, &mut record.tools, &mut record.resources].into_iter().flatten()
        {
            held_to.shrink_to_fit();
        }
        Key {
            scopes: (record.scopes.len() != 1).then(|| record.scopes.join(" ").into()),
            fingerprint: own,
            agent: counted_agent(&record).map_or(own, |agent| fingerprint(agent.as_str())),
            tenant: fingerprint(record.tenant_id.as_str()),
            limits,
            concurrency: record
                .concurrency
                .into_iter()
                .chain(record.parent.as_ref().and_then(|parent| parent.concurrency))
                .reduce(Concurrency::min),
            record,
        }
    }

    /// The key whose windows count its requests: itself, or its parent.
    pub fn window_key_id(&self) -> &KeyId {
        self.record.parent.as_ref().map_or(&self.record.key_id, |parent| &parent.key_id)
    }

    /// Identifies the owner of a limit's windows in shared data.
    pub fn owner(&self, per: Per) -> u64 {
        match per {
            Per::Key => self.fingerprint,
            Per::Agent => self.agent,
            Per::Tenant => self.tenant,
        }
    }

    /// The owner of a limit's windows, as the ledger knows it.
    pub fn owner_id(&self, per: Per) -> OwnerId {
        match (per, counted_agent(&self.record)) {
            (Per::Tenant, _) => (&self.record.tenant_id).into(),
            (Per::Agent, Some(agent)) => agent.into(),
            (Per::Agent, None) | (Per::Key, _) => self.window_key_id().into(),
        }
    }

    /// The headers that tell the upstream who sent the request.
    pub fn identity(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let record = &self.record;
        let scopes = self.scopes.as_deref().or(record.scopes.first().map(String::as_str)).unwrap_or_default();
        let always = [
            ("x-agentrelay-key-id", record.key_id.as_str()),
            ("x-agentrelay-tenant-id", record.tenant_id.as_str()),
            ("x-agentrelay-tier", record.tier.as_str()),
            ("x-agentrelay-scopes", scopes),
        ];
        let agent_id = record.agent_id.as_ref().map(|agent_id| ("x-agentrelay-agent-id", agent_id.as_str()));
        always.into_iter().chain(agent_id)
    }

    /// True if the key may be used at `now`.
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.record.state == KeyState::Active && self.record.expires_at.is_none_or(|end| now < end)
    }
}

/// The agent whose windows count the key's requests: its own, or its parent's.
fn counted_agent(record: &KeyRecord) -> Option<&AgentId> {
    record.parent.as_ref().map_or(&record.agent_id, |parent| &parent.agent_id).as_ref()
}

/// An active key with the scope `read`, for tests.
#[cfg(test)]
pub(crate) fn record(key_id: &str, tenant_id: &str) -> KeyRecord {
    serde_json::from_value(serde_json::json!({
        "key_id": key_id, "tenant_id": tenant_id, "tier": "pro", "state": "active", "scopes": ["read"], "source": "admin",
    }))
    .unwrap()
}

/// The fingerprint of an id, which identifies it in shared data.
pub fn fingerprint(id: &str) -> u64 {
    let digest: [u8; 32] = Sha256::digest(id).into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

fn rules(origin: Origin, subject: &str, limits: &[Limit]) -> Vec<LimitRule> {
    let mut rules: Vec<LimitRule> = Vec::with_capacity(limits.len());
    for limit in limits {
        let limit = Limit {
            permits: limit.permits.clamp(1, Limit::PERMITS_MAX),
            window_seconds: limit.window_seconds.clamp(1, Limit::WINDOW_SECONDS_MAX),
        };
        match rules.iter_mut().find(|rule| rule.limit.window_seconds == limit.window_seconds) {
            // If one request asked a window twice, it would be counted twice.
            Some(rule) => rule.limit.permits = rule.limit.permits.min(limit.permits),
            None => rules.push(LimitRule::new(origin, Per::Key, subject, limit)),
        }
    }
    rules
}

/// True if there is no list of grants, or if it grants this name at `now`.
pub(crate) fn grants(held_to: Option<&[Grant]>, name: &str, now: Timestamp) -> bool {
    held_to.is_none_or(|grants| {
        grants.iter().any(|grant| grant.name == name && grant.expires_at.is_none_or(|end| now < end))
    })
}
