//! Api keys: creation, changes, rotation, revocation.
//!
//! A key has one or more secrets, stored as SHA-256. Rotation adds one and sets an expiry on all earlier ones.

use crate::model::event::{Event, Kind};
use crate::model::key::{Key, Listed, Secret};
use crate::model::replay::Idempotency;
use crate::transaction::{Needs, Operation, Refusal, Rows};
use protocol::admin::{self, Patch, UpdateKey};
use protocol::api_key::KeyHash;
use protocol::filter::Change;
use protocol::key::KeyState;
use protocol::{KeyId, Timestamp};
use serde_json::json;

impl Listed {
    /// The form that the admin API shows.
    pub fn shown(self, now: Timestamp) -> admin::Key {
        let state = self.life().state(now);
        let key = self.key;
        admin::Key {
            id: key.id,
            tenant_id: key.tenant_id,
            name: key.name,
            state,
            scopes: key.scopes,
            services: key.services,
            tools: key.tools,
            resources: key.resources,
            limits: key.limits,
            concurrency: key.concurrency,
            expires_at: key.expires_at,
            agent_id: key.agent_id,
            budget: key.budget,
            source: key.source,
            created_at: key.created_at,
            revoked_at: key.revoked_at,
            last_used_at: key.last_used_at,
            parent_id: key.parent.map(|parent| parent.key_id),
            warnings: Vec::new(),
        }
    }
}

/// Creates a key.
#[derive(Clone)]
pub struct Create {
    pub key: Key,
    /// The hash of its first secret.
    pub hash: KeyHash,
    pub actor: String,
    pub idempotency: Option<Idempotency>,
}

impl Operation for Create {
    type Answer = Listed;

    fn needs(&self, needs: &mut Needs) {
        needs.tenants.insert(self.key.tenant_id.clone());
        needs.agents.extend(self.key.agent_id.clone());
        needs.replays.extend(self.idempotency.as_ref().map(|idempotency| idempotency.at.clone()));
    }

    fn apply(self, rows: &mut Rows) -> Result<Listed, Refusal> {
        if let Some(key_id) = rows.replay(&self.idempotency)? {
            return Err(Refusal::KeyExists(key_id));
        }
        let Create { key, hash, actor, idempotency } = self;
        let tenant = rows.tenants.get(&key.tenant_id).ok_or(Refusal::TenantUnknown)?;
        let tenant_suspended = tenant.suspended_at.is_some();
        check_agent(rows, &key)?;
        let detail = json!({
            "key_id": key.id, "name": key.name, "scopes": key.scopes, "services": key.services,
            "tools": key.tools, "resources": key.resources, "limits": key.limits,
            "expires_at": key.expires_at, "agent_id": key.agent_id, "source": key.source,
            "budget": key.budget, "concurrency": key.concurrency,
        });
        rows.record(Event::new(Kind::KeyCreated, key.created_at, actor, &detail).of(&key.tenant_id));
        let secret = Secret { hash, key_id: key.id.clone(), created_at: key.created_at, expires_at: None };
        rows.secrets.insert(hash, secret);
        rows.keep_answer(idempotency, json!(key.id).to_string(), key.created_at);
        rows.keys.insert(key.id.clone(), key.clone());
        Ok(Listed { key, tenant_suspended, parent: None })
    }
}

/// A key belongs to an agent of its own tenant, or to none.
fn check_agent(rows: &Rows, key: &Key) -> Result<(), Refusal> {
    let Some(id) = &key.agent_id else { return Ok(()) };
    match rows.agents.get(id) {
        Some(agent) if agent.tenant_id == key.tenant_id => Ok(()),
        _ => Err(Refusal::AgentUnknown),
    }
}

/// Changes what a key may do. The same change again changes nothing.
#[derive(Clone)]
pub struct Update {
    pub key_id: KeyId,
    pub update: UpdateKey,
    /// Refuses the change unless this is the key's version.
    pub if_version: Option<u64>,
    pub actor: String,
    pub now: Timestamp,
}

impl Operation for Update {
    type Answer = Listed;

    fn needs(&self, needs: &mut Needs) {
        needs.keys.insert(self.key_id.clone());
        needs.agents.extend(self.update.agent_id.set().cloned());
    }

    fn apply(self, rows: &mut Rows) -> Result<Listed, Refusal> {
        let Update { key_id, update, if_version, actor, now } = self;
        let known = listed(rows, &key_id)?;
        if known.key.revoked_at.is_some() {
            return Err(Refusal::KeyInactive(KeyState::Revoked));
        }
        if if_version.is_some_and(|version| version != known.key.version) {
            return Err(Refusal::ChangedSince { version: known.key.version });
        }
        let before = known.key.clone();
        let mut key = known.key;
        let changes_agent = !update.agent_id.is_keep();
        key.name = update.name.unwrap_or(key.name);
        key.scopes = update.scopes.unwrap_or(key.scopes);
        key.services = update.services.apply(key.services);
        key.tools = update.tools.apply(key.tools);
        key.resources = update.resources.apply(key.resources);
        key.limits = update.limits.unwrap_or(key.limits);
        key.concurrency = update.concurrency.apply(key.concurrency);
        key.expires_at = update.expires_at.apply(key.expires_at);
        key.agent_id = update.agent_id.apply(key.agent_id);
        key.budget = update.budget.apply(key.budget);
        if changes_agent {
            check_agent(rows, &key)?;
        }
        if key == before {
            return Ok(Listed { key, ..known });
        }
        key.version = key.version.saturating_add(1);
        let detail = json!({
            "key_id": key_id, "reason": update.reason, "before": changeable(&before), "after": changeable(&key),
        });
        rows.record(Event::new(Kind::KeyUpdated, now, actor, &detail).of(&key.tenant_id));
        rows.change(Change::Key { key_id: key_id.clone() }, now);
        rows.keys.insert(key_id, key.clone());
        Ok(Listed { key, ..known })
    }
}

/// Expires a key now. An expired key stays as it is.
#[derive(Clone)]
pub struct Expire {
    pub key_id: KeyId,
    pub reason: String,
    pub actor: String,
    pub now: Timestamp,
}

impl Operation for Expire {
    type Answer = Listed;

    fn needs(&self, needs: &mut Needs) {
        needs.keys.insert(self.key_id.clone());
    }

    fn apply(self, rows: &mut Rows) -> Result<Listed, Refusal> {
        let Expire { key_id, reason, actor, now } = self;
        let known = listed(rows, &key_id)?;
        if known.key.expires_at.is_some_and(|end| end <= now) {
            return Ok(known);
        }
        let update = UpdateKey { expires_at: Patch::Set(now), reason, ..UpdateKey::default() };
        Update { key_id, update, if_version: None, actor, now }.apply(rows)
    }
}

/// The fields that an update can change, for the audit trail.
fn changeable(key: &Key) -> serde_json::Value {
    json!({
        "name": key.name, "scopes": key.scopes, "services": key.services, "tools": key.tools,
        "resources": key.resources, "limits": key.limits, "expires_at": key.expires_at,
        "agent_id": key.agent_id, "budget": key.budget, "concurrency": key.concurrency,
    })
}

/// Moves the expiry to `end` unless it is sooner already. True if it moved.
pub(crate) fn end_by(expires_at: &mut Option<Timestamp>, end: Timestamp) -> bool {
    let ends_sooner = expires_at.is_none_or(|known| known > end);
    if ends_sooner {
        *expires_at = Some(end);
    }
    ends_sooner
}

/// Gives a key a new secret. The earlier ones expire after the grace period, or sooner if they already had to.
#[derive(Clone)]
pub struct Rotate {
    pub key_id: KeyId,
    /// The hash of the new secret.
    pub hash: KeyHash,
    /// How long the earlier secrets keep working.
    pub grace_seconds: u32,
    pub reason: Option<String>,
    pub idempotency: Option<Idempotency>,
    pub actor: String,
    pub now: Timestamp,
}

impl Operation for Rotate {
    type Answer = Listed;

    fn needs(&self, needs: &mut Needs) {
        needs.keys.insert(self.key_id.clone());
        needs.secrets_of.insert(self.key_id.clone());
        needs.replays.extend(self.idempotency.as_ref().map(|idempotency| idempotency.at.clone()));
    }

    fn apply(self, rows: &mut Rows) -> Result<Listed, Refusal> {
        if let Some(key_id) = rows.replay(&self.idempotency)? {
            return Err(Refusal::KeyExists(key_id));
        }
        let listed = listed(rows, &self.key_id)?;
        match listed.key.life(listed.tenant_suspended).state(self.now) {
            // Allowed for a suspended tenant, so that a leaked secret can be replaced meanwhile.
            KeyState::Active | KeyState::Suspended => {}
            state @ (KeyState::Revoked | KeyState::Expired) => return Err(Refusal::KeyInactive(state)),
        }
        let end = self.now.plus_seconds(self.grace_seconds.into());
        rows.secrets
            .change_each(|_, secret| secret.key_id == self.key_id && end_by(&mut secret.expires_at, end));
        let secret =
            Secret { hash: self.hash, key_id: self.key_id.clone(), created_at: self.now, expires_at: None };
        rows.secrets.insert(self.hash, secret);
        let detail = json!({
            "key_id": self.key_id, "grace_seconds": self.grace_seconds, "earlier_secrets_end_at": end,
            "reason": self.reason,
        });
        rows.keep_answer(self.idempotency, json!(self.key_id).to_string(), self.now);
        rows.record(Event::new(Kind::KeyRotated, self.now, self.actor, &detail).of(&listed.key.tenant_id));
        rows.change(Change::Key { key_id: self.key_id }, self.now);
        Ok(listed)
    }
}

/// Revokes a key, finally. Revoking it again changes nothing.
#[derive(Clone)]
pub struct Revoke {
    pub key_id: KeyId,
    pub reason: String,
    pub actor: String,
    pub now: Timestamp,
}

impl Operation for Revoke {
    type Answer = Listed;

    fn needs(&self, needs: &mut Needs) {
        needs.keys.insert(self.key_id.clone());
    }

    fn apply(self, rows: &mut Rows) -> Result<Listed, Refusal> {
        let known = listed(rows, &self.key_id)?;
        if known.key.revoked_at.is_some() {
            return Ok(known);
        }
        if let Some(key) = rows.keys.get_mut(&self.key_id) {
            key.revoked_at = Some(self.now);
            key.version = key.version.saturating_add(1);
        }
        let detail = json!({"key_id": self.key_id, "reason": self.reason});
        rows.record(Event::new(Kind::KeyRevoked, self.now, self.actor, &detail).of(&known.key.tenant_id));
        rows.change(Change::Key { key_id: self.key_id.clone() }, self.now);
        listed(rows, &self.key_id)
    }
}

fn listed(rows: &Rows, id: &KeyId) -> Result<Listed, Refusal> {
    let key = rows.keys.get(id).ok_or(Refusal::KeyUnknown)?.clone();
    let tenant_suspended =
        rows.tenants.get(&key.tenant_id).is_some_and(|tenant| tenant.suspended_at.is_some());
    let parent = rows.parent_life(&key);
    Ok(Listed { key, tenant_suspended, parent })
}
