//! Credentials to the ledger itself: administrators' (`ara_`) and filters' (`arf_`). Agents' keys are in `keys`.
//!
//! An administrator has a role and may be held to one tenant. Who is held to a tenant makes no one mightier or freer
//! than itself: that is decided in `http`, which knows who asks.

use crate::audit::{Event, Kind as Fact};
use crate::idempotency::Idempotency;
use crate::keys::end_by;
use crate::store::{Needs, Operation, Refusal, Rows};
use protocol::admin::{AdminKey, FilterKey, Role};
use protocol::api_key::{KeyHash, Kind};
use protocol::key::KeyState;
use protocol::{AdminKeyId, TenantId, Timestamp};
use serde_json::json;

/// Who a credential of the ledger belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceCredential {
    /// Its id, `adm_...` or `flt_...`: the actor in the audit trail.
    pub id: AdminKeyId,
    /// Which door it opens.
    pub door: Door,
    /// For people.
    pub name: String,
    /// What an administrator may do; without meaning for a filter.
    pub role: Role,
    /// The one tenant that an administrator is held to.
    pub tenant_id: Option<TenantId>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// When the secret ends by which it was found: a newer one took its place.
    pub secret_expires_at: Option<Timestamp>,
}

impl ServiceCredential {
    /// One that is usable from now on.
    pub fn new(
        id: AdminKeyId,
        door: Door,
        name: String,
        role: Role,
        tenant_id: Option<TenantId>,
        now: Timestamp,
    ) -> ServiceCredential {
        ServiceCredential {
            id,
            door,
            name,
            role,
            tenant_id,
            created_at: now,
            revoked_at: None,
            secret_expires_at: None,
        }
    }

    /// May its bearer come in.
    pub fn is_usable(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.secret_expires_at.is_none_or(|end| now < end)
    }

    /// A filter's as administrators see it.
    pub fn shown_of_filter(self) -> FilterKey {
        let ServiceCredential { id, name, created_at, revoked_at, .. } = self;
        FilterKey { id, name, created_at, revoked_at }
    }

    /// An administrator's as administrators see it.
    pub fn shown(self) -> AdminKey {
        AdminKey {
            id: self.id,
            name: self.name,
            role: self.role,
            tenant_id: self.tenant_id,
            created_at: self.created_at,
            revoked_at: self.revoked_at,
        }
    }

    /// May it do everything, everywhere.
    fn is_owner_of_all(&self) -> bool {
        self.door == Door::Admin
            && self.role == Role::Owner
            && self.tenant_id.is_none()
            && self.revoked_at.is_none()
    }
}

/// A part of the API with credentials of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// `/v1`.
    Admin,
    /// `/filter/v1`.
    Filter,
}

impl Door {
    /// Its name at rest.
    pub const fn as_str(self) -> &'static str {
        match self {
            Door::Admin => "admin",
            Door::Filter => "filter",
        }
    }

    /// The shape of its credentials.
    pub const fn kind(self) -> Kind {
        match self {
            Door::Admin => Kind::Admin,
            Door::Filter => Kind::Filter,
        }
    }
}

/// Makes the first credentials of a new database.
#[derive(Clone)]
pub struct Initialise {
    /// Hash and owner of each.
    pub credentials: Vec<(KeyHash, ServiceCredential)>,
}

impl Operation for Initialise {
    type Answer = ();

    fn needs(&self, needs: &mut Needs) {
        needs.service_credentials = true;
    }

    fn apply(self, rows: &mut Rows) -> Result<(), Refusal> {
        if !rows.service_credentials.is_empty() {
            return Err(Refusal::AlreadyInitialised);
        }
        for (hash, credential) in self.credentials {
            record_created(rows, &credential, crate::audit::LEDGER);
            rows.service_credentials.insert(hash, credential);
        }
        Ok(())
    }
}

/// Makes another owner, for who has the database itself.
#[derive(Clone)]
pub struct Recover {
    /// The credential.
    pub credential: ServiceCredential,
    /// The hash of its secret.
    pub hash: KeyHash,
    /// Why.
    pub reason: String,
}

impl Operation for Recover {
    type Answer = ();

    fn needs(&self, _: &mut Needs) {}

    fn apply(self, rows: &mut Rows) -> Result<(), Refusal> {
        let Recover { credential, hash, reason } = self;
        let detail = json!({
            "id": credential.id, "name": credential.name, "role": credential.role, "reason": reason,
        });
        let at = credential.created_at;
        rows.record(Event::new(Fact::ServiceCredentialRecovered, at, crate::audit::LEDGER, &detail));
        rows.service_credentials.insert(hash, credential);
        Ok(())
    }
}

/// Makes a credential.
#[derive(Clone)]
pub struct Create {
    /// The credential.
    pub credential: ServiceCredential,
    /// The hash of its secret.
    pub hash: KeyHash,
    /// Who asks.
    pub actor: String,
    /// So that asking again makes no second one.
    pub idempotency: Option<Idempotency>,
}

impl Operation for Create {
    type Answer = ServiceCredential;

    fn needs(&self, needs: &mut Needs) {
        needs.tenants.extend(self.credential.tenant_id.clone());
        needs.replays.extend(self.idempotency.as_ref().map(|idempotency| idempotency.at.clone()));
    }

    fn apply(self, rows: &mut Rows) -> Result<ServiceCredential, Refusal> {
        if let Some(id) = rows.replay(&self.idempotency)? {
            return Err(Refusal::AdminKeyExists(id));
        }
        let Create { credential, hash, actor, idempotency } = self;
        if credential.tenant_id.as_ref().is_some_and(|id| rows.tenants.get(id).is_none()) {
            return Err(Refusal::TenantUnknown);
        }
        record_created(rows, &credential, &actor);
        rows.keep_answer(idempotency, json!(credential.id).to_string(), credential.created_at);
        rows.service_credentials.insert(hash, credential.clone());
        Ok(credential)
    }
}

fn record_created(rows: &mut Rows, credential: &ServiceCredential, actor: &str) {
    let detail = json!({
        "id": credential.id, "door": credential.door.as_str(), "name": credential.name, "role": credential.role,
        "tenant_id": credential.tenant_id,
    });
    let event = Event::new(Fact::ServiceCredentialCreated, credential.created_at, actor, &detail);
    rows.record(match &credential.tenant_id {
        Some(tenant_id) => event.of(tenant_id),
        None => event,
    });
}

/// Gives a filter's credential a new secret. The earlier ones end after the grace, or sooner if they already had to.
#[derive(Clone)]
pub struct Rotate {
    /// Which.
    pub id: AdminKeyId,
    /// The hash of the new secret.
    pub hash: KeyHash,
    /// How long the earlier secrets go on working.
    pub grace_seconds: u32,
    /// Why.
    pub reason: Option<String>,
    /// So that asking again does not rotate again.
    pub idempotency: Option<Idempotency>,
    /// Who asks.
    pub actor: String,
    /// When.
    pub now: Timestamp,
}

impl Operation for Rotate {
    type Answer = ServiceCredential;

    fn needs(&self, needs: &mut Needs) {
        needs.service_credentials = true;
        needs.replays.extend(self.idempotency.as_ref().map(|idempotency| idempotency.at.clone()));
    }

    fn apply(self, rows: &mut Rows) -> Result<ServiceCredential, Refusal> {
        if let Some(id) = rows.replay(&self.idempotency)? {
            return Err(Refusal::AdminKeyExists(id));
        }
        let Rotate { id, hash, grace_seconds, reason, idempotency, actor, now } = self;
        let known = found(rows, &id, Door::Filter)?;
        if known.revoked_at.is_some() {
            return Err(Refusal::KeyInactive(KeyState::Revoked));
        }
        let end = now.plus_seconds(grace_seconds.into());
        rows.service_credentials
            .change_each(|_, row| row.id == id && end_by(&mut row.secret_expires_at, end));
        let detail = json!({
            "id": id, "grace_seconds": grace_seconds, "earlier_secrets_end_at": end, "reason": reason,
        });
        rows.keep_answer(idempotency, json!(id).to_string(), now);
        rows.record(Event::new(Fact::ServiceCredentialRotated, now, actor, &detail));
        rows.service_credentials.insert(hash, known.clone());
        Ok(known)
    }
}

/// The credential with its newest secret.
fn found(rows: &Rows, id: &AdminKeyId, door: Door) -> Result<ServiceCredential, Refusal> {
    let mut all = rows.service_credentials.rows().map(|(_, row)| row);
    let newest = all.find(|row| row.id == *id && row.door == door && row.secret_expires_at.is_none());
    newest.cloned().ok_or(Refusal::AdminKeyUnknown)
}

/// Withdraws a credential for good. Revoking it again changes nothing.
#[derive(Clone)]
pub struct Revoke {
    /// Which.
    pub id: AdminKeyId,
    /// Of which kind.
    pub door: Door,
    /// The one tenant that whoever asks is held to.
    pub within: Option<TenantId>,
    /// Why.
    pub reason: String,
    /// Who asks.
    pub actor: String,
    /// When.
    pub now: Timestamp,
}

impl Operation for Revoke {
    type Answer = ServiceCredential;

    fn needs(&self, needs: &mut Needs) {
        needs.service_credentials = true;
    }

    fn apply(self, rows: &mut Rows) -> Result<ServiceCredential, Refusal> {
        let Revoke { id, door, within, reason, actor, now } = self;
        let mut known = found(rows, &id, door)?;
        if within.is_some() && known.tenant_id != within {
            return Err(Refusal::AdminKeyUnknown);
        }
        if known.revoked_at.is_some() {
            return Ok(known);
        }
        // Without an owner nobody could make another one.
        let owners = rows.service_credentials.rows().filter(|(_, other)| other.is_owner_of_all()).count();
        if known.is_owner_of_all() && owners <= 1 {
            return Err(Refusal::LastOwner);
        }
        known.revoked_at = Some(now);
        rows.service_credentials.change_each(|_, row| {
            let found = row.id == id;
            if found {
                row.revoked_at = Some(now);
            }
            found
        });
        let detail = json!({"id": known.id, "door": door.as_str(), "reason": reason});
        let event = Event::new(Fact::ServiceCredentialRevoked, now, actor, &detail);
        rows.record(match &known.tenant_id {
            Some(tenant_id) => event.of(tenant_id),
            None => event,
        });
        Ok(known)
    }
}
