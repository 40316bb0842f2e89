//! The request and answer bodies of the filter's own API, `/filter/v1`. The filter authenticates with its credential.
//!
//! | call | answer |
//! | --- | --- |
//! | `GET /filter/v1/policy`, `If-None-Match` | 200 [`PolicyAnswer`] with its tag as `ETag`, or 304 |
//! | `POST /filter/v1/resolve` [`ResolveRequest`] | 200 [`crate::key::KeyRecord`], or 404 |
//! | `POST /filter/v1/reserve` [`ReserveRequest`] | 201 [`ReserveAnswer`], 402 no credits, 403 the key is no longer active |
//! | `POST /filter/v1/keys` [`IssueRequest`] | 201 [`Issued`], 402 too many keys, 403 the key may not ask for one |
//! | `POST /filter/v1/report` [`Report`] | 200 [`ReportAnswer`], once the report is durable |
//! | `POST /filter/v1/leases` [`crate::lease::Round`] | 200 [`crate::lease::RoundAnswer`], once the round is durable |
//! | `GET /filter/v1/changes?instance=I&after=N&wait_ms=M` | 200 [`Changes`], held open until a change comes or the wait ends |

use crate::api_key::KeyHash;
use crate::audit::{Counted, Decision};
use crate::packed::{Packed, Row, Subject, Unreadable};
use crate::session::SessionSecret;
use crate::{AgentId, BatchId, Credits, EventId, KeyId, PolicyVersion, ReservationId, Timestamp};
use serde::{Deserialize, Serialize};

/// Path of the policy document.
pub const POLICY_PATH: &str = "/filter/v1/policy";
/// Path of key resolution.
pub const RESOLVE_PATH: &str = "/filter/v1/resolve";
/// Path of reservations.
pub const RESERVE_PATH: &str = "/filter/v1/reserve";
/// Path of requests to issue a key for an agent.
pub const KEYS_PATH: &str = "/filter/v1/keys";
/// Path of reports: settlements and decisions.
pub const REPORT_PATH: &str = "/filter/v1/report";
/// Path of the change feed.
pub const CHANGES_PATH: &str = "/filter/v1/changes";

/// The policy, and the secrets that bind sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyAnswer {
    /// Identifies this whole answer; sent as `If-None-Match` next time. It reveals nothing about the secrets.
    pub tag: String,
    /// The policy document as text. Its version is the hash of exactly these bytes.
    pub policy: String,
    /// The session secrets, oldest first.
    pub session_secrets: Vec<SessionSecret>,
}

/// Asks for the record of the key with this hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResolveRequest {
    /// SHA-256 of the credential.
    pub hash: KeyHash,
}

/// Asks to reserve credits for one call. Idempotent by `reservation_id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReserveRequest {
    /// A UUIDv7; also the request's id.
    pub reservation_id: ReservationId,
    /// The key that calls; its tenant pays.
    pub key_id: KeyId,
    /// The service that is called.
    pub service: String,
    /// The tool's name in the policy.
    pub tool: String,
    /// How many credits to reserve.
    pub credits: Credits,
    /// How many credits may be charged in addition, if the tenant has them when the call is settled.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub overrun_credits_max: Credits,
    /// How long the reservation stays pending unless renewed.
    pub ttl_seconds: u32,
    /// The version of the policy that set the price.
    pub policy_version: PolicyVersion,
}

// `skip_serializing_if` passes a reference.
fn is_zero(credits: &Credits) -> bool {
    credits.is_zero()
}

/// Confirms that the credits are reserved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReserveAnswer {
    /// The reservation.
    pub reservation_id: ReservationId,
    /// When the reservation expires unless renewed.
    pub expires_at: Timestamp,
    /// The credits that the tenant still has available.
    pub available: Credits,
}

/// Asks for a new key that has no wider permissions and no later expiry than the key that asks. Idempotent by
/// `request_id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssueRequest {
    /// A UUIDv7; the id of the request in which the agent asked.
    pub request_id: EventId,
    /// SHA-256 of the credential that asks. The new key ends when this credential ends.
    pub parent: KeyHash,
    /// The only service that the key is for.
    pub service: String,
    /// Time to live of the key, from 1 s to [`IssueRequest::TTL_SECONDS_MAX`].
    pub ttl_seconds: u32,
    /// Requests per minute, from 1 to [`crate::key::Limit::PERMITS_MAX`].
    pub rate_limit: u32,
}

impl IssueRequest {
    /// The longest time to live: one day.
    pub const TTL_SECONDS_MAX: u32 = 86_400;
    /// The window of the key's rate limit.
    pub const WINDOW_SECONDS: u32 = 60;
}

/// The new key. Its secret is only in this answer and is not stored anywhere.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// The key.
    pub key_id: KeyId,
    /// The credential.
    pub secret: String,
    /// The agent that the key belongs to.
    pub agent_id: AgentId,
    /// The scopes of the key.
    pub scopes: Vec<String>,
    /// When the key expires, unless its parent ends earlier.
    pub expires_at: Timestamp,
}

/// Omits the secret, so that no log shows it.
impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// What to do with a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "action", deny_unknown_fields)]
pub enum Action {
    /// The call succeeded: charge this amount, at most the reserved credits plus the overrun, and return the rest.
    Post {
        /// The amount to charge.
        credits: Credits,
    },
    /// The call failed: return all reserved credits.
    Void,
    /// The call is still running: keep the reservation pending.
    Renew {
        /// Time to live from now.
        ttl_seconds: u32,
    },
}

/// One step on a reservation. Idempotent by reservation and action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    /// The reservation.
    pub reservation_id: ReservationId,
    /// The step.
    #[serde(flatten)]
    pub action: Action,
}

/// A batch of settlements and decisions from one worker of one Envoy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Identifies the batch. A batch with a known id is a repeated delivery.
    pub batch_id: BatchId,
    /// The Envoy's node id.
    pub envoy: String,
    /// Steps on reservations.
    #[serde(default)]
    pub settlements: Vec<Settlement>,
    /// The subjects to which rows refer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subjects: Vec<Subject>,
    /// Decisions since the last batch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<Row>,
    /// Counts of decisions that had no usable key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub counted: Vec<Counted>,
    /// Number of decisions that this worker dropped since the last batch because its queue was full.
    #[serde(default)]
    pub decisions_dropped: u64,
}

impl Report {
    /// Takes the decisions out of the report.
    pub fn unpack(&mut self) -> Result<Vec<Decision>, Unreadable> {
        let (subjects, rows) = (std::mem::take(&mut self.subjects), std::mem::take(&mut self.rows));
        Packed { subjects, rows }.unpack(&self.envoy)
    }
}

/// Confirms that the batch is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportAnswer {
    /// Number of settlements that had an effect; repeated ones are not counted.
    pub settled: u64,
    /// Number of decisions written; those already known are not counted.
    pub recorded: u64,
}

/// A change in the ledger that filters must know about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", try_from = "ChangeForm")]
pub enum Change {
    /// The record of this key has changed: drop the cached one.
    Key {
        /// The key.
        key_id: KeyId,
    },
    /// A tenant has changed (its tier or its suspension): drop the cached records of all its keys.
    Tenant {
        /// The tenant.
        tenant_id: crate::TenantId,
    },
    /// All remaining credits of the tenant are leased: every Envoy must return the credits that it does not need.
    Recall {
        /// The tenant.
        tenant_id: crate::TenantId,
    },
    /// Another Envoy needs permits of a global limit: every Envoy must return the permits that it does not use.
    Share {
        /// Whose limit it is.
        owner: crate::OwnerId,
        /// The limit, as the policy identifies it.
        limit_id: u32,
    },
    /// An Envoy has joined: the number of Envoys in the answer has changed.
    Envoy {
        /// The run of the Envoy.
        instance: crate::InstanceId,
    },
    /// The contents of [`PolicyAnswer`] have changed.
    Policy {
        /// The version of the policy in force.
        version: PolicyVersion,
    },
}

/// The form in which a [`Change`] is deserialised. Serde's derived code for a tagged enum buffers fields of any type
/// until it sees the tag, which would add 17 KB to the filter.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeForm {
    kind: ChangeKind,
    key_id: Option<KeyId>,
    tenant_id: Option<crate::TenantId>,
    owner: Option<crate::OwnerId>,
    limit_id: Option<u32>,
    version: Option<PolicyVersion>,
    instance: Option<crate::InstanceId>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum ChangeKind {
    Key,
    Tenant,
    Recall,
    Share,
    Envoy,
    Policy,
}

impl TryFrom<ChangeForm> for Change {
    type Error = &'static str;

    fn try_from(form: ChangeForm) -> Result<Change, &'static str> {
        let ChangeForm { kind, key_id, tenant_id, owner, limit_id, version, instance } = form;
        match (kind, key_id, tenant_id, (owner, limit_id), version, instance) {
            (ChangeKind::Key, Some(key_id), None, (None, None), None, None) => Ok(Change::Key { key_id }),
            (ChangeKind::Tenant, None, Some(tenant_id), (None, None), None, None) => {
                Ok(Change::Tenant { tenant_id })
            }
            (ChangeKind::Recall, None, Some(tenant_id), (None, None), None, None) => {
                Ok(Change::Recall { tenant_id })
            }
            (ChangeKind::Share, None, None, (Some(owner), Some(limit_id)), None, None) => {
                Ok(Change::Share { owner, limit_id })
            }
            (ChangeKind::Envoy, None, None, (None, None), None, Some(instance)) => {
                Ok(Change::Envoy { instance })
            }
            (ChangeKind::Policy, None, None, (None, None), Some(version), None) => {
                Ok(Change::Policy { version })
            }
            _ => Err("a change has the fields of its kind, and no other"),
        }
    }
}

/// The changes after a position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changes {
    /// The value of `after` for the next call.
    pub next: u64,
    /// True if the ledger no longer has all changes after the requested position: drop all cached key records.
    pub reset: bool,
    /// How many Envoys follow the feed, the one that asks included.
    pub envoys: u32,
    /// The changes, in the order in which they happened.
    pub changes: Vec<Change>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_survives_serialisation_and_refuses_unknown_fields() {
        let key_id = KeyId::parse("key_1").unwrap();
        let tenant_id = crate::TenantId::parse("ten_1").unwrap();
        let version = PolicyVersion::parse("0a").unwrap();
        let changes = vec![
            Change::Key { key_id: key_id.clone() },
            Change::Tenant { tenant_id: tenant_id.clone() },
            Change::Recall { tenant_id },
            Change::Share { owner: (&key_id).into(), limit_id: 7 },
            Change::Envoy { instance: crate::InstanceId::from_bits(1) },
            Change::Policy { version },
        ];
        let text = serde_json::to_string(&changes).unwrap();
        assert!(
            text.starts_with(r#"[{"kind":"key","key_id":"key_1"},{"kind":"tenant","tenant_id":"ten_1"}"#)
        );
        assert_eq!(serde_json::from_str::<Vec<Change>>(&text).unwrap(), changes);
        for text in [
            r#"{"kind":"key"}"#,
            r#"{"kind":"key","tenant_id":"ten_1"}"#,
            r#"{"kind":"key","key_id":"key_1","limit_id":7}"#,
            r#"{"kind":"key","key_id":"key_1","owner":"key_1"}"#,
            r#"{"kind":"share","owner":"key_1"}"#,
            r#"{"kind":"key","key_id":"key_1","other":7}"#,
            r#"{"kind":"other","key_id":"key_1"}"#,
            r#"{"key_id":"key_1"}"#,
        ] {
            assert!(serde_json::from_str::<Change>(text).is_err(), "{text}");
        }
    }
}
