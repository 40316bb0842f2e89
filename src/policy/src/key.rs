//! A key record, shaped for deciding.

use crate::limit::LimitRule;
use protocol::key::{Concurrency, Grant, KeyRecord, KeyState};
use protocol::{KeyId, Timestamp, key::Limit};
use sha2::{Digest, Sha256};

/// A key that the ledger knows.
#[derive(Debug, Clone)]
pub struct Key {
    /// What the ledger said.
    pub record: KeyRecord,
    /// Stands for the key's id in packed windows, or for its parent's, with which it shares them. 64 bits of SHA-256: a
    /// key can't be made to collide with another's, because ids are chosen by the ledger.
    pub fingerprint: u64,
    /// Stands for the tenant's id in packed leases, in the same way.
    pub tenant: u64,
    /// The key's own limits, and those of its parent.
    pub limits: Box<[LimitRule]>,
    /// What it and its parent may have under way on one worker, where that is said of them.
    pub concurrency: Option<Concurrency>,
    /// Its scopes as an upstream is told them, unless there is just the one.
    scopes: Option<Box<str>>,
}

impl Key {
    /// Shapes a record. Limits out of bounds are taken at the nearest bound, which is never looser than a day.
    pub fn new(mut record: KeyRecord) -> Key {
        let limits = match &record.parent {
            None => rules("own", &record.limits).into(),
            // What many children do together is no more than their parent may do; each has windows of its own beside.
            Some(parent) => {
                let subject = format!("own of {}", record.key_id);
                [rules("own", &parent.limits), rules(&subject, &record.limits)].concat().into()
            }
        };
        let own =
            fingerprint(record.parent.as_ref().map_or(&record.key_id, |parent| &parent.key_id).as_str());
        // A worker holds many keys, and what was read from JSON has room to spare.
        record.scopes.shrink_to_fit();
        record.limits.shrink_to_fit();
        for held_to in [&mut record.services, &mut record.tools, &mut record.resources].into_iter().flatten()
        {
            held_to.shrink_to_fit();
        }
        Key {
            scopes: (record.scopes.len() != 1).then(|| record.scopes.join(" ").into()),
            fingerprint: own,
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

    /// Whose windows it counts in: its own, or its parent's.
    pub fn counted_as(&self) -> &KeyId {
        self.record.parent.as_ref().map_or(&self.record.key_id, |parent| &parent.key_id)
    }

    /// The headers that tell an upstream who asks.
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

/// An active key with the scope `read`, for tests.
#[cfg(test)]
pub(crate) fn record(key_id: &str, tenant_id: &str) -> KeyRecord {
    serde_json::from_value(serde_json::json!({
        "key_id": key_id, "tenant_id": tenant_id, "tier": "pro", "state": "active", "scopes": ["read"], "source": "admin",
    }))
    .unwrap()
}

/// Stands for an id in shared data.
pub fn fingerprint(id: &str) -> u64 {
    let digest: [u8; 32] = Sha256::digest(id).into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

fn rules(subject: &str, limits: &[Limit]) -> Vec<LimitRule> {
    let mut rules: Vec<LimitRule> = Vec::with_capacity(limits.len());
    for limit in limits {
        let limit = Limit {
            permits: limit.permits.clamp(1, Limit::PERMITS_MAX),
            window_seconds: limit.window_seconds.clamp(1, Limit::WINDOW_SECONDS_MAX),
        };
        match rules.iter_mut().find(|rule| rule.limit.window_seconds == limit.window_seconds) {
            // Asked twice, one window would count each request twice.
            Some(rule) => rule.limit.permits = rule.limit.permits.min(limit.permits),
            None => rules.push(LimitRule::new(subject, limit)),
        }
    }
    rules
}

/// True if something is not held to names at all, or to this one at `now`.
pub(crate) fn grants(held_to: Option<&[Grant]>, name: &str, now: Timestamp) -> bool {
    held_to.is_none_or(|grants| {
        grants.iter().any(|grant| grant.name == name && grant.expires_at.is_none_or(|end| now < end))
    })
}
