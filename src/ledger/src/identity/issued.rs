//! Issued keys: keys that agents request through the gate. An issued key never does more than its parent, the key that
//! requested it, may do at the same moment, and it expires with the secret that the parent used.
//!
//! The grants are stored with the key. The record is computed for each filter request, so a change, rotation or revocation
//! of the parent applies to its children. A child can't have children, so a key's origin is always its direct parent.

use crate::identity::records::intersect;
use crate::model::event::{Event, Kind};
use crate::model::key::{Key, ParentLink, Secret};
use crate::model::replay::{Idempotency, ReplayKey};
use crate::transaction::{Needs, Operation, Refusal, Rows};
use protocol::admin::Agent;
use protocol::api_key::KeyHash;
use protocol::filter::{IssueRequest, KEYS_PATH};
use protocol::key::{Grant, KeySource, KeyState, Limit};
use protocol::{AgentId, KeyId, Timestamp};
use serde_json::json;

/// Most live children of a key, which bounds their share of windows and tables.
pub const CHILDREN_MAX: u64 = 50;

/// Issues a key.
#[derive(Clone)]
pub struct Issue {
    pub request: IssueRequest,
    /// The key whose secret the request names.
    pub parent_id: KeyId,
    /// The id for the new key.
    pub key_id: KeyId,
    /// The id for a new agent, if the parent belongs to none.
    pub agent_id: AgentId,
    /// The hash of the new secret.
    pub hash: KeyHash,
    /// The id of the filter's credential.
    pub filter: String,
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
        match parent.life(tenant.suspended_at.is_some()).until(secret_expires_at).state(now) {
            KeyState::Active => {}
            state => return Err(Refusal::KeyInactive(state)),
        }
        if parent.parent.is_some() {
            return Err(Refusal::KeyIsIssued);
        }
        let asked = Some(vec![Grant { name: request.service.clone(), expires_at: None }]);
        let services = intersect(asked, parent.services.clone()).map(|mut services| {
            services.retain(|grant| grant.expires_at.is_none_or(|end| now < end));
            services
        });
        if services.as_ref().is_some_and(Vec::is_empty) {
            return Err(Refusal::ServiceNotGranted);
        }
        let live = rows.children.entry(parent_id.clone()).or_default();
        if *live >= CHILDREN_MAX {
            return Err(Refusal::TooManyChildren);
        }
        *live = live.saturating_add(1);
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
        rows.secrets.insert(hash, Secret { hash, key_id: key.id.clone(), created_at: now, expires_at: None });
        rows.keep_answer(idempotency, json!(key.id).to_string(), now);
        rows.keys.insert(key.id.clone(), key.clone());
        Ok(key)
    }
}

/// Every issued key has an agent, so that upstreams can tell their holders apart.
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
