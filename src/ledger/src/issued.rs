//! Keys that agents ask for through the gate. Such a key may never do more than its parent, the key that asked, may at
//! the same moment, and dies with the very credential that asked.
//!
//! What it was given is kept with it; what it may is worked out anew whenever a filter asks, so that a parent that is
//! narrowed, rotated or revoked takes its children along. A child has no children: there is one level, so that who
//! made a key is always one look away.

use crate::audit::{Event, Kind};
use crate::idempotency::{Idempotency, ReplayKey};
use crate::keys::{Key, Secret};
use crate::store::{Needs, Operation, Refusal, Rows};
use protocol::admin::Agent;
use protocol::api_key::KeyHash;
use protocol::filter::{IssueRequest, KEYS_PATH};
use protocol::key::{self, Grant, KeyRecord, KeySource, KeyState, Limit};
use protocol::{AgentId, KeyId, Timestamp};
use serde_json::json;

/// How many children a key may have that live: what they add to windows and tables is bounded so.
pub const CHILDREN_MAX: u64 = 50;

/// How a key hangs on the one that asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentLink {
    /// The key that asked.
    pub key_id: KeyId,
    /// The secret with which it asked.
    pub secret: KeyHash,
}

/// How long a parent lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// It was revoked, or is no more.
    pub is_revoked: bool,
    /// When it, or the secret with which it asked, ends.
    pub ends_at: Option<Timestamp>,
}

impl Life {
    /// Of a parent that can't be found.
    pub const OVER: Life = Life { is_revoked: true, ends_at: None };

    /// What becomes of a child that by itself would be in this state.
    pub fn bounds(self, child: KeyState, now: Timestamp) -> KeyState {
        match child {
            KeyState::Revoked => KeyState::Revoked,
            _ if self.is_revoked => KeyState::Revoked,
            _ if self.ends_at.is_some_and(|end| end <= now) => KeyState::Expired,
            state => state,
        }
    }
}

/// A parent as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// The key.
    pub key: Key,
    /// When the secret with which it asked ends.
    pub secret_expires_at: Option<Timestamp>,
}

impl Parent {
    /// How long it lives.
    pub fn life(&self) -> Life {
        Life {
            is_revoked: self.key.revoked_at.is_some(),
            ends_at: [self.key.expires_at, self.secret_expires_at].into_iter().flatten().min(),
        }
    }
}

/// A child's record, cut down to what its parent may now.
pub fn within(mut record: KeyRecord, parent: Option<Parent>, now: Timestamp) -> KeyRecord {
    let life = parent.as_ref().map_or(Life::OVER, Parent::life);
    record.state = life.bounds(record.state, now);
    record.expires_at = [record.expires_at, life.ends_at].into_iter().flatten().min();
    let Some(Parent { key, .. }) = parent else { return record };
    record.scopes.retain(|scope| key.scopes.contains(scope));
    record.services = both(record.services, key.services);
    record.tools = both(record.tools, key.tools);
    record.resources = both(record.resources, key.resources);
    record.parent = Some(key::Parent { key_id: key.id, limits: key.limits, concurrency: key.concurrency });
    record
}

/// What both grant, as long as both do.
fn both(child: Option<Vec<Grant>>, parent: Option<Vec<Grant>>) -> Option<Vec<Grant>> {
    let (child, parent) = match (child, parent) {
        (None, one) | (one, None) => return one,
        (Some(child), Some(parent)) => (child, parent),
    };
    let shared = child.iter().flat_map(|own| {
        let of_parent = parent.iter().filter(|other| other.name == own.name);
        of_parent.map(|other| Grant {
            name: own.name.clone(),
            expires_at: [own.expires_at, other.expires_at].into_iter().flatten().min(),
        })
    });
    Some(shared.collect())
}

/// The state of a key among a transaction's rows. Its parent is loaded with it.
pub fn state_in(rows: &Rows, key: &Key, tenant_suspended: bool, now: Timestamp) -> KeyState {
    let own = key.state(tenant_suspended, now);
    life_in(rows, key).map_or(own, |life| life.bounds(own, now))
}

/// How long the parent of a key among a transaction's rows lives, as far as the key itself says.
pub fn life_in(rows: &Rows, key: &Key) -> Option<Life> {
    let link = key.parent.as_ref()?;
    let parent = rows.keys.get(&link.key_id).cloned();
    Some(parent.map_or(Life::OVER, |key| Parent { key, secret_expires_at: None }.life()))
}

/// Makes a key for one that asks.
#[derive(Clone)]
pub struct Issue {
    /// What was asked for.
    pub request: IssueRequest,
    /// The key whose secret it names.
    pub parent_id: KeyId,
    /// The id of the new key.
    pub key_id: KeyId,
    /// The agent that it belongs to where its parent belongs to none.
    pub agent_id: AgentId,
    /// The hash of the new secret.
    pub hash: KeyHash,
    /// The filter that asks for it.
    pub filter: String,
    /// When.
    pub now: Timestamp,
}

impl Issue {
    fn idempotency(&self) -> Idempotency {
        let at = ReplayKey {
            actor: self.filter.clone(),
            route: format!("POST {KEYS_PATH}"),
            key: self.request.request_id.to_string(),
        };
        Idempotency::new(at, json!(self.request).to_string().as_bytes())
    }
}

impl Operation for Issue {
    type Answer = Key;

    fn needs(&self, needs: &mut Needs) {
        needs.keys.insert(self.parent_id.clone());
        needs.secrets_of.insert(self.parent_id.clone());
        needs.children_of.insert((self.parent_id.clone(), self.now));
        needs.replays.insert(self.idempotency().at);
    }

    fn apply(self, rows: &mut Rows) -> Result<Key, Refusal> {
        let idempotency = Some(self.idempotency());
        if let Some(key_id) = rows.replay(&idempotency)? {
            return Err(Refusal::KeyExists(key_id));
        }
        let Issue { request, parent_id, key_id, agent_id, hash, filter: _, now } = self;
        let parent = rows.keys.get(&parent_id).ok_or(Refusal::KeyUnknown)?.clone();
        let tenant = rows.tenants.get(&parent.tenant_id).ok_or(Refusal::TenantUnknown)?;
        let secret = rows.secrets.get(&request.parent).filter(|secret| secret.key_id == parent_id);
        let secret_expires_at = secret.ok_or(Refusal::KeyUnknown)?.expires_at;
        match parent.state(tenant.suspended_at.is_some(), now) {
            KeyState::Active if secret_expires_at.is_some_and(|end| end <= now) => {
                return Err(Refusal::KeyInactive(KeyState::Expired));
            }
            KeyState::Active => {}
            state => return Err(Refusal::KeyInactive(state)),
        }
        if parent.parent.is_some() {
            return Err(Refusal::KeyIsIssued);
        }
        let asked = Some(vec![Grant { name: request.service.clone(), expires_at: None }]);
        let services = both(asked, parent.services.clone()).map(|mut services| {
            services.retain(|grant| grant.expires_at.is_none_or(|end| now < end));
            services
        });
        if services.as_ref().is_some_and(Vec::is_empty) {
            return Err(Refusal::ServiceNotGranted);
        }
        let living = rows.children.entry(parent_id.clone()).or_default();
        if *living >= CHILDREN_MAX {
            return Err(Refusal::TooManyChildren);
        }
        *living = living.saturating_add(1);
        let ends_at = now.plus_seconds(request.ttl_seconds.into());
        let key = Key {
            id: key_id,
            tenant_id: parent.tenant_id.clone(),
            name: format!("{} by {parent_id}", request.service),
            scopes: parent.scopes,
            services,
            tools: parent.tools,
            resources: parent.resources,
            limits: vec![Limit { permits: request.rate_limit, window_seconds: IssueRequest::WINDOW_SECONDS }],
            concurrency: None,
            expires_at: [Some(ends_at), parent.expires_at, secret_expires_at].into_iter().flatten().min(),
            agent_id: Some(parent.agent_id.clone().unwrap_or(agent_id)),
            budget: None,
            version: 1,
            source: KeySource::Mcp,
            created_at: now,
            revoked_at: None,
            last_used_at: None,
            parent: Some(ParentLink { key_id: parent_id.clone(), secret: request.parent }),
        };
        if let (None, Some(id)) = (parent.agent_id, &key.agent_id) {
            register(rows, id, &key, &parent_id);
        }
        let detail = json!({
            "key_id": key.id, "name": key.name, "scopes": key.scopes, "services": key.services,
            "tools": key.tools, "resources": key.resources, "limits": key.limits,
            "expires_at": key.expires_at, "agent_id": key.agent_id, "source": key.source,
            "parent_id": parent_id, "request_id": request.request_id,
        });
        rows.record(Event::new(Kind::KeyCreated, now, parent_id.as_str(), &detail).of(&key.tenant_id));
        rows.secrets.insert(hash, Secret { key_id: key.id.clone(), created_at: now, expires_at: None });
        rows.keep_answer(idempotency, json!(key.id).to_string(), now);
        rows.keys.insert(key.id.clone(), key.clone());
        Ok(key)
    }
}

/// Upstreams tell the holders of issued keys apart by their agents, so each has one.
fn register(rows: &mut Rows, id: &AgentId, key: &Key, parent_id: &KeyId) {
    let agent = Agent {
        id: id.clone(),
        tenant_id: key.tenant_id.clone(),
        name: key.name.clone(),
        created_at: key.created_at,
    };
    let detail = json!({"agent_id": agent.id, "name": agent.name});
    let event = Event::new(Kind::AgentCreated, key.created_at, parent_id.as_str(), &detail);
    rows.record(event.of(&agent.tenant_id));
    rows.agents.insert(id.clone(), agent);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(names: &[(&str, Option<u64>)]) -> Option<Vec<Grant>> {
        let grant = |(name, end): &(&str, Option<u64>)| Grant {
            name: (*name).to_owned(),
            expires_at: end.map(Timestamp::from_millis),
        };
        Some(names.iter().map(grant).collect())
    }

    #[test]
    fn a_child_is_granted_what_both_are_and_no_longer() {
        for (child, parent, expected) in [
            (None, None, None),
            (None, grants(&[("a", Some(5))]), grants(&[("a", Some(5))])),
            (grants(&[("a", None)]), None, grants(&[("a", None)])),
            (grants(&[("a", None), ("b", None)]), grants(&[("a", Some(5))]), grants(&[("a", Some(5))])),
            (grants(&[("a", Some(3))]), grants(&[("a", Some(5))]), grants(&[("a", Some(3))])),
            (grants(&[("a", None)]), grants(&[]), grants(&[])),
        ] {
            assert_eq!(both(child.clone(), parent.clone()), expected, "{child:?} within {parent:?}");
        }
    }

    #[test]
    fn a_child_outlives_neither_its_parent_nor_its_parents_secret() {
        let now = Timestamp::from_millis(10);
        for (is_revoked, ends_at, child, state) in [
            (false, None, KeyState::Active, KeyState::Active),
            (false, Some(11), KeyState::Active, KeyState::Active),
            (false, Some(10), KeyState::Active, KeyState::Expired),
            (true, None, KeyState::Active, KeyState::Revoked),
            (true, None, KeyState::Expired, KeyState::Revoked),
            (false, None, KeyState::Suspended, KeyState::Suspended),
            (false, None, KeyState::Expired, KeyState::Expired),
        ] {
            let life = Life { is_revoked, ends_at: ends_at.map(Timestamp::from_millis) };
            assert_eq!(life.bounds(child, now), state, "{life:?} {child:?}");
        }
    }
}
