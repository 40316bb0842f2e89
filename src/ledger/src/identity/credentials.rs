//! Credentials to the ledger itself: administrators' (`ara_`) and filters' (`arf_`). Agents' keys are in `keys`.
//!
//! An administrator has a role and may be bound to one tenant. A tenant-bound admin can't create credentials with wider
//! reach: `http` checks that, because it knows the caller.

use crate::identity::keys::end_by;
use crate::model::credential::{CredentialKind, ServiceCredential};
use crate::model::event::{Event, Kind as Fact, LEDGER};
use crate::model::replay::Idempotency;
use crate::transaction::{Needs, Operation, Refusal, Rows};
use protocol::api_key::KeyHash;
use protocol::key::KeyState;
use protocol::{CredentialId, TenantId, Timestamp};
use serde_json::json;

/// Creates the first credentials of a new database.
#[derive(Clone)]
pub struct Initialise {
    pub credentials: Vec<ServiceCredential>,
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
        for credential in self.credentials {
            record_created(rows, &credential, LEDGER);
            rows.service_credentials.insert(credential.hash, credential);
        }
        Ok(())
    }
}

/// Creates another owner, for an operator who can open the database itself.
#[derive(Clone)]
pub struct Recover {
    pub credential: ServiceCredential,
    pub reason: String,
}

impl Operation for Recover {
    type Answer = ();

    fn needs(&self, _: &mut Needs) {}

    fn apply(self, rows: &mut Rows) -> Result<(), Refusal> {
        let Recover { credential, reason } = self;
        let detail = json!({
            "id": credential.id, "name": credential.name, "role": credential.role, "reason": reason,
        });
        let at = credential.created_at;
        rows.record(Event::new(Fact::ServiceCredentialRecovered, at, LEDGER, &detail));
        rows.service_credentials.insert(credential.hash, credential);
        Ok(())
    }
}

/// Creates a credential.
#[derive(Clone)]
pub struct Create {
    pub credential: ServiceCredential,
    pub actor: String,
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
        let Create { credential, actor, idempotency } = self;
        if credential.tenant_id.as_ref().is_some_and(|id| rows.tenants.get(id).is_none()) {
            return Err(Refusal::TenantUnknown);
        }
        record_created(rows, &credential, &actor);
        rows.keep_answer(idempotency, json!(credential.id).to_string(), credential.created_at);
        rows.service_credentials.insert(credential.hash, credential.clone());
        Ok(credential)
    }
}

fn record_created(rows: &mut Rows, credential: &ServiceCredential, actor: &str) {
    let detail = json!({
        "id": credential.id, "door": credential.kind.as_str(), "name": credential.name, "role": credential.role,
        "tenant_id": credential.tenant_id,
    });
    let event = Event::new(Fact::ServiceCredentialCreated, credential.created_at, actor, &detail);
    rows.record(match &credential.tenant_id {
        Some(tenant_id) => event.of(tenant_id),
        None => event,
    });
}

/// Gives a filter's credential a new secret. The earlier ones expire after the grace period, or sooner if they already had to.
#[derive(Clone)]
pub struct Rotate {
    pub id: CredentialId,
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
        let known = newest(rows, &id, CredentialKind::Filter)?;
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
        rows.service_credentials.insert(hash, ServiceCredential { hash, ..known.clone() });
        Ok(known)
    }
}

/// The credential with its newest secret.
fn newest(rows: &Rows, id: &CredentialId, kind: CredentialKind) -> Result<ServiceCredential, Refusal> {
    let mut all = rows.service_credentials.rows().map(|(_, row)| row);
    let newest = all.find(|row| row.id == *id && row.kind == kind && row.secret_expires_at.is_none());
    newest.cloned().ok_or(Refusal::AdminKeyUnknown)
}

/// Revokes a credential, finally. Revoking it again changes nothing.
#[derive(Clone)]
pub struct Revoke {
    pub id: CredentialId,
    pub kind: CredentialKind,
    /// The tenant that the caller is bound to.
    pub within: Option<TenantId>,
    pub reason: String,
    pub actor: String,
    pub now: Timestamp,
}

impl Operation for Revoke {
    type Answer = ServiceCredential;

    fn needs(&self, needs: &mut Needs) {
        needs.service_credentials = true;
    }

    fn apply(self, rows: &mut Rows) -> Result<ServiceCredential, Refusal> {
        let Revoke { id, kind, within, reason, actor, now } = self;
        let mut known = newest(rows, &id, kind)?;
        if within.is_some() && known.tenant_id != within {
            return Err(Refusal::AdminKeyUnknown);
        }
        if known.revoked_at.is_some() {
            return Ok(known);
        }
        // Only an owner can create another owner.
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
        let detail = json!({"id": known.id, "door": kind.as_str(), "reason": reason});
        let event = Event::new(Fact::ServiceCredentialRevoked, now, actor, &detail);
        rows.record(match &known.tenant_id {
            Some(tenant_id) => event.of(tenant_id),
            None => event,
        });
        Ok(known)
    }
}
