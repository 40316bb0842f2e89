//! Keys that agents ask for through the gate. Such a key may never do more than its parent, the key that asked, may at
//! the same moment, and dies with the very credential that asked.
//!
//! What it was given is kept with it; what it may is worked out anew whenever a filter asks, so that a parent that is
//! narrowed, rotated or revoked takes its children along. A child has no children: there is one level, so that who
//! made a key is always one look away.

use crate::identity::records::both;
use crate::model::event::{Event, Kind};
use crate::model::key::{Key, ParentLink, Secret};
use crate::model::replay::ReplayKey;
use crate::transaction::idempotency::Idempotency;
use crate::transaction::{Needs, Operation, Refusal, Rows};
use protocol::admin::Agent;
use protocol::api_key::KeyHash;
use protocol::filter::{IssueRequest, KEYS_PATH};
use protocol::key::{Grant, KeySource, KeyState, Limit};
use protocol::{AgentId, KeyId, Timestamp};
use serde_json::json;

/// How many children a key may have that live: what they add to windows and tables is bounded so.
pub const CHILDREN_MAX: u64 = 50;

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
        rows.secrets.insert(hash, Secret { hash, key_id: key.id.clone(), created_at: now, expires_at: None });
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
