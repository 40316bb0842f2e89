//! Credentials to the ledger itself: administrators' (`ara_`) and filters' (`arf_`). Agents' keys are in `keys`.
//!
//! An administrator has a role and may be held to one tenant. Who is held to a tenant makes no one mightier or freer
//! than itself: that is decided in `http`, which knows who asks.

use crate::audit::{Event, Kind as Fact};
use crate::idempotency::Idempotency;
use crate::store::{Needs, Operation, Refusal, Rows};
use protocol::admin::{AdminKey, Role};
use protocol::api_key::{KeyHash, Kind};
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
}

impl ServiceCredential {
    /// As administrators see it.
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

/// Makes an administrator's credential.
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
    type Answer = AdminKey;

    fn needs(&self, needs: &mut Needs) {
        needs.tenants.extend(self.credential.tenant_id.clone());
        needs.replays.extend(self.idempotency.as_ref().map(|idempotency| idempotency.at.clone()));
    }

    fn apply(self, rows: &mut Rows) -> Result<AdminKey, Refusal> {
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
        Ok(credential.shown())
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

/// Withdraws an administrator's credential for good. Revoking it again changes nothing.
pub struct Revoke {
    /// Which.
    pub id: AdminKeyId,
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
    type Answer = AdminKey;

    fn needs(&self, needs: &mut Needs) {
        needs.service_credentials = true;
    }

    fn apply(self, rows: &mut Rows) -> Result<AdminKey, Refusal> {
        let Revoke { id, within, reason, actor, now } = self;
        let all = || rows.service_credentials.rows();
        let (_, known) = all()
            .find(|(_, known)| known.id == id && known.door == Door::Admin)
            .filter(|(_, known)| within.is_none() || known.tenant_id == within)
            .ok_or(Refusal::AdminKeyUnknown)?;
        let mut known = known.clone();
        if known.revoked_at.is_some() {
            return Ok(known.shown());
        }
        // Without an owner nobody could make another one.
        if known.is_owner_of_all() && all().filter(|(_, other)| other.is_owner_of_all()).count() <= 1 {
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
        let event = Event::new(
            Fact::ServiceCredentialRevoked,
            now,
            actor,
            &json!({"id": known.id, "reason": reason}),
        );
        rows.record(match &known.tenant_id {
            Some(tenant_id) => event.of(tenant_id),
            None => event,
        });
        Ok(known.shown())
    }
}
