//! Events of the audit trail: their kinds and rows.
//!
//! An event is written in the transaction of the change that it records, never edited, and numbered without gaps. No detail
//! contains a secret.

use protocol::audit::Outcome;
use protocol::{EventId, TenantId, Timestamp};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// The actor of the ledger's own changes.
pub const LEDGER: &str = "ledger";
/// The actor of a decision on a request without a recognised key.
pub const ANONYMOUS: &str = "anonymous";

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A credential of an administrator or a filter was created.
    ServiceCredentialCreated,
    /// A credential of a filter got a new secret.
    ServiceCredentialRotated,
    /// An operator with access to the database created another owner, without a credential.
    ServiceCredentialRecovered,
    /// A credential of an administrator or a filter was revoked.
    ServiceCredentialRevoked,
    /// A signing key for checkpoints was first used.
    AuditKeyAdded,
    /// Rows beyond the retention period were removed.
    AuditRemoved,
    /// A tenant's name, tier or budget was changed.
    TenantUpdated,
    /// A tenant's keys are refused from now on.
    TenantSuspended,
    /// A tenant's keys are accepted again.
    TenantResumed,
    /// An administrator refunded a charge or withdrew a grant.
    CreditsCorrected,
    /// An agent was registered.
    AgentCreated,
    /// A key's name, expiry or permissions were changed.
    KeyUpdated,
    /// A tenant was created.
    TenantCreated,
    /// A tenant got credits.
    CreditsGranted,
    /// A key was created.
    KeyCreated,
    /// A key got a new secret.
    KeyRotated,
    /// A key was revoked.
    KeyRevoked,
    /// Credits were reserved for a call.
    Reserved,
    /// A call was charged.
    Posted,
    /// A call's credits were returned.
    Voided,
    /// Earlier releases: an expired reservation's credits were returned.
    Expired,
    /// A reservation's time ended without a settlement: all of it was charged.
    Unaccounted,
    /// A late settlement changed the charge of an expired reservation.
    Correction,
    /// A lease was opened for an Envoy.
    LeaseOpened,
    /// A lease was closed by its last statement.
    LeaseClosed,
    /// A lease ended without its last statement: all that it held was charged.
    LeaseLost,
    /// The last statement of a lost lease arrived, and what was not spent was returned.
    LeaseSetRight,
    /// A filter decided on a request.
    Decision,
    /// Filters counted decisions on requests without a usable key, within a minute.
    DecisionsCounted,
    /// A filter dropped decisions.
    DecisionsDropped,
    /// A policy came into force.
    PolicyInForce,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 31] = [
        Kind::ServiceCredentialCreated,
        Kind::ServiceCredentialRotated,
        Kind::ServiceCredentialRecovered,
        Kind::ServiceCredentialRevoked,
        Kind::AuditKeyAdded,
        Kind::AuditRemoved,
        Kind::TenantUpdated,
        Kind::TenantSuspended,
        Kind::TenantResumed,
        Kind::CreditsCorrected,
        Kind::AgentCreated,
        Kind::KeyUpdated,
        Kind::TenantCreated,
        Kind::CreditsGranted,
        Kind::KeyCreated,
        Kind::KeyRotated,
        Kind::KeyRevoked,
        Kind::Reserved,
        Kind::Posted,
        Kind::Voided,
        Kind::Expired,
        Kind::Unaccounted,
        Kind::Correction,
        Kind::LeaseOpened,
        Kind::LeaseClosed,
        Kind::LeaseLost,
        Kind::LeaseSetRight,
        Kind::Decision,
        Kind::DecisionsCounted,
        Kind::DecisionsDropped,
        Kind::PolicyInForce,
    ];

    /// Its name on the wire and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::ServiceCredentialCreated => "service_credential_created",
            Kind::ServiceCredentialRotated => "service_credential_rotated",
            Kind::ServiceCredentialRecovered => "service_credential_recovered",
            Kind::ServiceCredentialRevoked => "service_credential_revoked",
            Kind::AuditKeyAdded => "audit_key_added",
            Kind::AuditRemoved => "audit_removed",
            Kind::TenantUpdated => "tenant_updated",
            Kind::TenantSuspended => "tenant_suspended",
            Kind::TenantResumed => "tenant_resumed",
            Kind::CreditsCorrected => "credits_corrected",
            Kind::AgentCreated => "agent_created",
            Kind::KeyUpdated => "key_updated",
            Kind::TenantCreated => "tenant_created",
            Kind::CreditsGranted => "credits_granted",
            Kind::KeyCreated => "key_created",
            Kind::KeyRotated => "key_rotated",
            Kind::KeyRevoked => "key_revoked",
            Kind::Reserved => "reserved",
            Kind::Posted => "posted",
            Kind::Voided => "voided",
            Kind::Expired => "expired",
            Kind::Unaccounted => "unaccounted",
            Kind::Correction => "correction",
            Kind::LeaseOpened => "lease_opened",
            Kind::LeaseClosed => "lease_closed",
            Kind::LeaseLost => "lease_lost",
            Kind::LeaseSetRight => "lease_set_right",
            Kind::Decision => "decision",
            Kind::DecisionsCounted => "decisions_counted",
            Kind::DecisionsDropped => "decisions_dropped",
            Kind::PolicyInForce => "policy_in_force",
        }
    }
}

/// An event that is not numbered yet.
#[derive(Debug, Clone)]
pub struct Event {
    pub kind: Kind,
    /// When the ledger recorded it.
    pub at: Timestamp,
    pub actor: String,
    pub tenant_id: Option<TenantId>,
    /// The outcome, for decisions.
    pub outcome: Option<Outcome>,
    /// An id that makes a repeated event idempotent.
    pub event_id: Option<EventId>,
    /// The details, as a JSON object.
    pub detail: String,
}

impl Event {
    /// An event without tenant, outcome and id.
    pub fn new(kind: Kind, at: Timestamp, actor: impl Into<String>, detail: &impl Serialize) -> Event {
        Event {
            kind,
            at,
            actor: actor.into(),
            tenant_id: None,
            outcome: None,
            event_id: None,
            // Only maps with keys other than text fail to serialize, and no detail has one.
            detail: serde_json::to_string(detail)
                .unwrap_or_else(|error| Value::from(error.to_string()).to_string()),
        }
    }

    /// Sets the tenant.
    pub fn of(mut self, tenant_id: &TenantId) -> Event {
        self.tenant_id = Some(tenant_id.clone());
        self
    }
}

/// A row of the audit trail. Checkpoints hash its JSON, so the JSON of an existing row must never change, whatever the API
/// shows.
#[derive(Debug, Clone, Serialize)]
pub struct SealedRow {
    /// Position in the trail, from 1, without gaps.
    pub sequence: u64,
    /// When the ledger wrote it.
    pub recorded_at: Timestamp,
    pub kind: String,
    pub actor: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
    /// The outcome, for decisions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The details, by kind.
    pub detail: Box<RawValue>,
}
