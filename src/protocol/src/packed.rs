//! Decisions as a filter sends them: the fields that many decisions share are written once.
//!
//! A busy Envoy makes thousands of decisions per second, for few keys and few tools. An unpacked decision is half a
//! kilobyte of JSON; a packed one is a fifth of that.

use crate::audit::{Decision, Outcome, UsageTokens};
use crate::reason::Reason;
use crate::{AgentId, Credits, EventId, KeyId, LeaseId, PolicyVersion, TenantId, Timestamp};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Serialize, Serializer};

/// How many earlier subjects each new one is compared with. To search all would cost more than to write a subject twice.
const SUBJECTS_COMPARED: usize = 16;

/// Decisions of one Envoy, packed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packed {
    /// The subjects to which rows refer.
    pub subjects: Vec<Subject>,
    /// One row for each decision.
    pub rows: Vec<Row>,
}

impl Packed {
    /// Adds a decision.
    pub fn push(&mut self, decision: Decision) {
        let (subject, mut row) = Row::pack(decision);
        let recent = self.subjects.len().saturating_sub(SUBJECTS_COMPARED);
        let known = self.subjects.iter().skip(recent).position(|known| *known == subject);
        let place = known.map_or(self.subjects.len(), |place| place.saturating_add(recent));
        row.subject = u32::try_from(place).unwrap_or(u32::MAX);
        if known.is_none() {
            self.subjects.push(subject);
        }
        self.rows.push(row);
    }

    /// Adds the decisions of another after these.
    pub fn append(&mut self, other: Packed) {
        let before = u32::try_from(self.subjects.len()).unwrap_or(u32::MAX);
        self.subjects.extend(other.subjects);
        self.rows.extend(
            other.rows.into_iter().map(|row| Row { subject: row.subject.saturating_add(before), ..row }),
        );
    }

    /// The decisions, which `envoy` made.
    pub fn unpack(self, envoy: &str) -> Result<Vec<Decision>, Unreadable> {
        self.rows.into_iter().map(|row| row.unpack(&self.subjects, envoy)).collect()
    }
}

impl FromIterator<Decision> for Packed {
    fn from_iter<D: IntoIterator<Item = Decision>>(decisions: D) -> Packed {
        let mut packed = Packed::default();
        decisions.into_iter().for_each(|decision| packed.push(decision));
        packed
    }
}

/// The part that many decisions share. The fields are those of [`Decision`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Subject {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<KeyId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    pub policy_version: PolicyVersion,
}

/// One decision without its subject. The fields are those of [`Decision`].
///
/// On the wire it is an array of the fields in this order, because an object would repeat the field names thousands of
/// times. Groups of fields at the end are left out if all of them have their default values.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Row {
    /// Index into the report's subjects.
    pub subject: u32,
    pub id: EventId,
    /// Milliseconds since the epoch.
    pub at_ms: u64,
    pub outcome: Outcome,
    pub status: u16,
    pub first_byte_ms: Option<u64>,
    pub duration_ms: u64,
    #[serde(default)]
    pub credits: u64,
    /// True if the call was reserved. The reservation has the same id as the decision.
    #[serde(default)]
    pub reserved: bool,
    #[serde(default)]
    pub lease_id: Option<LeaseId>,
    #[serde(default)]
    pub usage_tokens: Option<UsageTokens>,
    #[serde(default)]
    pub would_deny: Option<Outcome>,
    #[serde(default)]
    pub reason: Option<Box<Reason>>,
    #[serde(default)]
    pub would_deny_reason: Option<Box<Reason>>,
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let has_shadow = self.would_deny_reason.is_some();
        let has_reason = has_shadow || self.reason.is_some();
        let has_usage = has_reason || self.usage_tokens.is_some() || self.would_deny.is_some();
        let has_payment = has_usage || self.credits > 0 || self.reserved || self.lease_id.is_some();
        let mut row = serializer.serialize_seq(None)?;
        row.serialize_element(&self.subject)?;
        row.serialize_element(&self.id)?;
        row.serialize_element(&self.at_ms)?;
        row.serialize_element(&self.outcome)?;
        row.serialize_element(&self.status)?;
        row.serialize_element(&self.first_byte_ms)?;
        row.serialize_element(&self.duration_ms)?;
        if has_payment {
            row.serialize_element(&self.credits)?;
            row.serialize_element(&self.reserved)?;
            row.serialize_element(&self.lease_id)?;
        }
        if has_usage {
            row.serialize_element(&self.usage_tokens)?;
            row.serialize_element(&self.would_deny)?;
        }
        if has_reason {
            row.serialize_element(&self.reason)?;
        }
        if has_shadow {
            row.serialize_element(&self.would_deny_reason)?;
        }
        row.end()
    }
}

/// A row refers to a subject that its report does not have, or holds an invalid value, such as too many credits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable;

impl Row {
    /// Splits a decision into its subject and a row that refers to the first subject.
    fn pack(decision: Decision) -> (Subject, Row) {
        let about = Subject {
            key_id: decision.key_id,
            tenant_id: decision.tenant_id,
            agent_id: decision.agent_id,
            service: decision.service,
            tool: decision.tool,
            policy_version: decision.policy_version,
        };
        let row = Row {
            subject: 0,
            id: decision.id,
            at_ms: decision.at.as_millis(),
            outcome: decision.outcome,
            would_deny: decision.would_deny,
            reason: decision.reason,
            would_deny_reason: decision.would_deny_reason,
            credits: decision.credits.get(),
            reserved: decision.reservation_id.is_some(),
            lease_id: decision.lease_id,
            usage_tokens: decision.usage_tokens,
            status: decision.status,
            first_byte_ms: decision.first_byte_ms,
            duration_ms: decision.duration_ms,
        };
        (about, row)
    }

    /// Puts the decision together again.
    fn unpack(self, subjects: &[Subject], envoy: &str) -> Result<Decision, Unreadable> {
        let place = usize::try_from(self.subject).map_err(|_| Unreadable)?;
        let subject = subjects.get(place).ok_or(Unreadable)?.clone();
        Ok(Decision {
            id: self.id,
            at: Timestamp::from_millis(self.at_ms),
            outcome: self.outcome,
            would_deny: self.would_deny,
            reason: self.reason,
            would_deny_reason: self.would_deny_reason,
            key_id: subject.key_id,
            tenant_id: subject.tenant_id,
            agent_id: subject.agent_id,
            service: subject.service,
            tool: subject.tool,
            credits: Credits::new(self.credits).ok_or(Unreadable)?,
            reservation_id: self.reserved.then(|| self.id.into()),
            lease_id: self.lease_id,
            usage_tokens: self.usage_tokens,
            status: self.status,
            first_byte_ms: self.first_byte_ms,
            duration_ms: self.duration_ms,
            policy_version: subject.policy_version,
            envoy: envoy.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_decision_is_the_same_and_much_shorter() {
        let text = r#"{"id":"0192f0c0-0000-7000-8000-000000000001","at":"2026-11-22T20:00:00.000Z","outcome":"allowed",
            "key_id":"key_01890a5dac96774bbcceb302099a8057","tenant_id":"ten_01890a5dac96774bbcceb302099a8057",
            "service":"studio","tool":"summarize","credits":1,
            "lease_id":"0192f0c0-0000-7000-8000-000000000000","usage_tokens":{"input":7},"status":200,
            "first_byte_ms":3,"duration_ms":4,
            "policy_version":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","envoy":"node-1"}"#;
        let decision: Decision = serde_json::from_str(text).unwrap();
        let Packed { subjects, rows } = Packed::from_iter([decision.clone()]);
        let written = serde_json::to_string(&rows[0]).unwrap();
        assert!(written.len() < 140, "{written}");
        let rows: Vec<Row> = vec![serde_json::from_str(&written).unwrap()];
        let unpacked = Packed { subjects, rows: rows.clone() }.unpack("node-1");
        assert_eq!(unpacked, Ok(vec![decision]));
        assert_eq!(Packed { subjects: Vec::new(), rows }.unpack("node-1"), Err(Unreadable));
    }

    #[test]
    fn a_row_omits_empty_fields_at_its_end() {
        let written = r#"[0,"0192f0c0-0000-7000-8000-000000000001",5,"rate_limited",429,null,1]"#;
        let row: Row = serde_json::from_str(written).unwrap();
        assert_eq!((row.credits, row.reserved, &row.lease_id, row.would_deny), (0, false, &None, None));
        assert_eq!(serde_json::to_string(&row).unwrap(), written);
        for other in [
            r#"{"subject":0,"other":1}"#.to_owned(),
            written.replace("null,1]", "null,1,0,false,null,null,null,null,0]"),
        ] {
            assert!(serde_json::from_str::<Row>(&other).is_err(), "{other}");
        }
        let shadowed = Row { would_deny: Some(Outcome::TierDenied), ..row.clone() };
        let reason = Some(Box::new(Reason::Concurrency { max: 7 }));
        let explained = Row { reason: reason.clone(), ..row };
        let shadow_explained = Row { would_deny_reason: reason, ..shadowed.clone() };
        for row in [shadowed, explained, shadow_explained] {
            let written = serde_json::to_string(&row).unwrap();
            assert_eq!(serde_json::from_str::<Row>(&written).unwrap(), row, "{written}");
        }
    }
}
