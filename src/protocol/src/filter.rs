//! The bodies of the filter's own API, `/filter/v1`. Authenticated by the filter's credential.
//!
//! | call | answer |
//! | --- | --- |
//! | `GET /filter/v1/policy`, `If-None-Match` | 200 [`PolicyAnswer`] with its tag as `ETag`, or 304 |
//! | `POST /filter/v1/resolve` [`ResolveRequest`] | 200 [`crate::key::KeyRecord`], or 404 |
//! | `POST /filter/v1/reserve` [`ReserveRequest`] | 201 [`ReserveAnswer`], 402 no credits, 403 the key is no longer active |
//! | `POST /filter/v1/keys` [`IssueRequest`] | 201 [`Issued`], 402 too many keys, 403 the key may not ask for one |
//! | `POST /filter/v1/report` [`Report`] | 200 [`ReportAnswer`] after it is durable |
//! | `POST /filter/v1/leases` [`crate::lease::Round`] | 200 [`crate::lease::RoundAnswer`] after it is durable |
//! | `GET /filter/v1/changes?after=N&wait_ms=M` | 200 [`Changes`], held open until there is one or the wait is over |

use crate::api_key::KeyHash;
use crate::audit::{Counted, Decision};
use crate::packed::{Row, Subject, Unreadable};
use crate::session::SessionSecret;
use crate::{AgentId, BatchId, Credits, EventId, KeyId, PolicyVersion, ReservationId, Timestamp};
use serde::{Deserialize, Serialize};

/// Path of the policy document.
pub const POLICY_PATH: &str = "/filter/v1/policy";
/// Path of key resolution.
pub const RESOLVE_PATH: &str = "/filter/v1/resolve";
/// Path of reservations.
pub const RESERVE_PATH: &str = "/filter/v1/reserve";
/// Path of keys that agents ask for.
pub const KEYS_PATH: &str = "/filter/v1/keys";
/// Path of settlements and events.
pub const REPORT_PATH: &str = "/filter/v1/report";
/// Path of the change feed.
pub const CHANGES_PATH: &str = "/filter/v1/changes";

/// What decides, and what binds sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyAnswer {
    /// Stands for all of it, to be sent as `If-None-Match` next time. It shows nothing of the secrets.
    pub tag: String,
    /// The policy document as text: its version is the hash of these very bytes.
    pub policy: String,
    /// Oldest first.
    pub session_secrets: Vec<SessionSecret>,
}

/// Asks whose key has this hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResolveRequest {
    /// SHA-256 of the credential.
    pub hash: KeyHash,
}

/// Asks to set credits aside for one call. Idempotent by `reservation_id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReserveRequest {
    /// A UUIDv7; also the request's id.
    pub reservation_id: ReservationId,
    /// Whose tenant pays.
    pub key_id: KeyId,
    /// The service called.
    pub service: String,
    /// The policy's name of the tool.
    pub tool: String,
    /// How much.
    pub credits: Credits,
    /// How much more than that may be charged in the end, as far as the tenant then has it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub overrun_credits_max: Credits,
    /// How long the reservation stays pending unless renewed.
    pub ttl_seconds: u32,
    /// The policy that set the price.
    pub policy_version: PolicyVersion,
}

// Serde asks by reference.
fn is_zero(credits: &Credits) -> bool {
    credits.is_zero()
}

/// The credits are set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReserveAnswer {
    /// The reservation.
    pub reservation_id: ReservationId,
    /// When it expires unless renewed.
    pub expires_at: Timestamp,
    /// What the tenant has left.
    pub available: Credits,
}

/// Asks for a key that may do no more than the one that asks, and lives no longer. Idempotent by `request_id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssueRequest {
    /// A UUIDv7; the id of the request in which the agent asked.
    pub request_id: EventId,
    /// SHA-256 of the credential that asks: the key dies with this very credential.
    pub parent: KeyHash,
    /// The one service that it is for.
    pub service: String,
    /// How long it is to live, 1 s to [`IssueRequest::TTL_SECONDS_MAX`].
    pub ttl_seconds: u32,
    /// Requests in any minute, 1 to [`crate::key::Limit::PERMITS_MAX`].
    pub rate_limit: u32,
}

impl IssueRequest {
    /// The longest life: one day.
    pub const TTL_SECONDS_MAX: u32 = 86_400;
    /// The window of its rate limit.
    pub const WINDOW_SECONDS: u32 = 60;
}

/// The key is made. Its secret is in this answer and stored nowhere.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// The key.
    pub key_id: KeyId,
    /// The credential.
    pub secret: String,
    /// The agent that it belongs to.
    pub agent_id: AgentId,
    /// What it may do.
    pub scopes: Vec<String>,
    /// When it ends, if its parent does not end before.
    pub expires_at: Timestamp,
}

/// Without the secret.
impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// What is to become of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "action", deny_unknown_fields)]
pub enum Action {
    /// The call succeeded: charge this much, at most what was reserved and its overrun; the rest goes back.
    Post {
        /// What to charge.
        credits: Credits,
    },
    /// The call failed: everything goes back.
    Void,
    /// The call still runs: stay pending for this much longer.
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

/// A batch from one worker of one Envoy: what to settle, and what happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The same id again is the same batch, delivered again.
    pub batch_id: BatchId,
    /// The Envoy's node id.
    pub envoy: String,
    /// Steps on reservations.
    #[serde(default)]
    pub settlements: Vec<Settlement>,
    /// Decisions since the last batch, whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decisions: Vec<Decision>,
    /// What the packed decisions are about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subjects: Vec<Subject>,
    /// Decisions since the last batch, packed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<Row>,
    /// Decisions without a key that may call, counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub counted: Vec<Counted>,
    /// Decisions lost by this worker since the last batch because its queue was full.
    #[serde(default)]
    pub decisions_dropped: u64,
}

impl Report {
    /// The same report with every decision whole.
    pub fn unpack(mut self) -> Result<Report, Unreadable> {
        let rows = std::mem::take(&mut self.rows);
        self.decisions.reserve(rows.len());
        for row in rows {
            self.decisions.push(row.unpack(&self.subjects, &self.envoy)?);
        }
        self.subjects.clear();
        Ok(self)
    }
}

/// The batch is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportAnswer {
    /// Settlements that moved or renewed something now.
    pub settled: u64,
    /// Decisions written now; those already known count as nothing.
    pub recorded: u64,
}

/// One thing that changed in the ledger and that filters must know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", try_from = "ChangeForm")]
pub enum Change {
    /// The record of this key is no longer what it was: drop it.
    Key {
        /// The key.
        key_id: KeyId,
    },
    /// All keys of a tenant changed (its tier, its suspension): drop them.
    Tenant {
        /// The tenant.
        tenant_id: crate::TenantId,
    },
    /// The tenant has nothing left but what is out on lease: every Envoy is to give back what it does not need.
    Recall {
        /// The tenant.
        tenant_id: crate::TenantId,
    },
    /// Another Envoy needs permits of a global limit: every Envoy is to give back what it does not use.
    Share {
        /// Whose limit.
        key_id: KeyId,
        /// Which of its limits.
        limit_id: u32,
    },
    /// What [`PolicyAnswer`] holds has changed.
    Policy {
        /// The version of the policy in force.
        version: PolicyVersion,
    },
}

/// A change as it is read. What serde derives for a tagged enum keeps the fields until it has seen the tag, in any order
/// and of any type, which is 17 KB of the filter.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeForm {
    kind: ChangeKind,
    key_id: Option<KeyId>,
    tenant_id: Option<crate::TenantId>,
    limit_id: Option<u32>,
    version: Option<PolicyVersion>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum ChangeKind {
    Key,
    Tenant,
    Recall,
    Share,
    Policy,
}

impl TryFrom<ChangeForm> for Change {
    type Error = &'static str;

    fn try_from(form: ChangeForm) -> Result<Change, &'static str> {
        let ChangeForm { kind, key_id, tenant_id, limit_id, version } = form;
        match (kind, key_id, tenant_id, limit_id, version) {
            (ChangeKind::Key, Some(key_id), None, None, None) => Ok(Change::Key { key_id }),
            (ChangeKind::Tenant, None, Some(tenant_id), None, None) => Ok(Change::Tenant { tenant_id }),
            (ChangeKind::Recall, None, Some(tenant_id), None, None) => Ok(Change::Recall { tenant_id }),
            (ChangeKind::Share, Some(key_id), None, Some(limit_id), None) => {
                Ok(Change::Share { key_id, limit_id })
            }
            (ChangeKind::Policy, None, None, None, Some(version)) => Ok(Change::Policy { version }),
            _ => Err("a change has the fields of its kind, and no other"),
        }
    }
}

/// Changes after a position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changes {
    /// Ask with `after=` this next time.
    pub next: u64,
    /// True if the position asked for is older than what the ledger kept: forget every key record.
    pub reset: bool,
    /// In the order they happened.
    pub changes: Vec<Change>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_reads_as_it_was_written_and_has_no_other_fields() {
        let key_id = KeyId::parse("key_1").unwrap();
        let tenant_id = crate::TenantId::parse("ten_1").unwrap();
        let version = PolicyVersion::parse("0a").unwrap();
        let changes = vec![
            Change::Key { key_id: key_id.clone() },
            Change::Tenant { tenant_id: tenant_id.clone() },
            Change::Recall { tenant_id },
            Change::Share { key_id, limit_id: 7 },
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
            r#"{"kind":"key","key_id":"key_1","other":7}"#,
            r#"{"kind":"other","key_id":"key_1"}"#,
            r#"{"key_id":"key_1"}"#,
        ] {
            assert!(serde_json::from_str::<Change>(text).is_err(), "{text}");
        }
    }
}
