//! What the audit trail says. Owns the vocabulary of facts and their details; where they are kept is the store's.
//!
//! A fact is written in the transaction that makes it true, never edited, and numbered without gaps. No detail ever
//! holds a secret.

use protocol::audit::Outcome;
use protocol::{EventId, TenantId, Timestamp};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// The actor of what the ledger does by itself.
pub const LEDGER: &str = "ledger";
/// The actor of a decision about a request that no key was recognised in.
pub const ANONYMOUS: &str = "anonymous";

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A credential of an administrator or a filter was made.
    ServiceCredentialCreated,
    /// A credential of a filter got a new secret.
    ServiceCredentialRotated,
    /// Who has the database made another owner, without a credential.
    ServiceCredentialRecovered,
    /// A credential of an administrator or a filter was withdrawn.
    ServiceCredentialRevoked,
    /// A key that signs checkpoints of this trail came into use.
    AuditKeyAdded,
    /// Rows older than what is retained were removed.
    AuditRemoved,
    /// A tenant got another name, tier or budget.
    TenantUpdated,
    /// A tenant's keys are refused from now on.
    TenantSuspended,
    /// A tenant's keys are accepted again.
    TenantResumed,
    /// An administrator undid what was charged or granted.
    CreditsCorrected,
    /// An agent was registered.
    AgentCreated,
    /// A key got another name, end, or other permissions.
    KeyUpdated,
    /// A tenant was made.
    TenantCreated,
    /// A tenant got credits.
    CreditsGranted,
    /// A key was made.
    KeyCreated,
    /// A key got a new secret.
    KeyRotated,
    /// A key was withdrawn.
    KeyRevoked,
    /// Credits were set aside for a call.
    Reserved,
    /// A call was charged.
    Posted,
    /// A call's credits went back.
    Voided,
    /// A forgotten call's credits went back: what earlier releases did.
    Expired,
    /// Nobody had accounted for a call when its reservation's time was over: all that was set aside is charged.
    Unaccounted,
    /// Somebody has after all, and its charge is what the account says.
    Correction,
    /// An Envoy got credits to spend.
    LeaseOpened,
    /// It has accounted for them.
    LeaseClosed,
    /// It has not: all that it held is charged.
    LeaseLost,
    /// It has after all, and what was not spent went back.
    LeaseSetRight,
    /// A filter decided.
    Decision,
    /// Filters decided on requests without a key that may call: so many, within a minute.
    DecisionsCounted,
    /// A filter could not keep all decisions.
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

    /// Its name on the wire and at rest.
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

/// One fact, not yet numbered.
#[derive(Debug, Clone)]
pub struct Event {
    pub kind: Kind,
    /// When the ledger learned of it.
    pub at: Timestamp,
    pub actor: String,
    pub tenant_id: Option<TenantId>,
    /// How it ended, for decisions.
    pub outcome: Option<Outcome>,
    /// An id by which the same fact, told again, is recognised.
    pub event_id: Option<EventId>,
    /// The rest, as a JSON object.
    pub detail: String,
}

impl Event {
    /// A fact without tenant, outcome and id of its own.
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

    /// The fact is this tenant's.
    pub fn of(mut self, tenant_id: &TenantId) -> Event {
        self.tenant_id = Some(tenant_id.clone());
        self
    }
}

/// A row of the audit trail. Its JSON is what checkpoints are made over: what is written here for a row that is there must
/// never change, whatever the API shows.
#[derive(Debug, Clone, Serialize)]
pub struct SealedRow {
    /// Position in the trail, from 1, without gaps.
    pub sequence: u64,
    /// When the ledger wrote it.
    pub recorded_at: Timestamp,
    pub kind: String,
    pub actor: String,
    /// Whose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
    /// The outcome, for decisions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The rest of the fact, by kind.
    pub detail: Box<RawValue>,
}
