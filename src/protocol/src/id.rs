//! Identifiers. Each kind has its own type, so that code can't use a key's id where it needs a tenant's.

use crate::uuid::{Text, Uuid};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Maximum length of an id accepted from outside, in bytes.
const ID_BYTES_MAX: usize = 64;

/// The text is no id of the kind that was to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidId {
    /// It is empty, too long, or contains a character other than `A-Z a-z 0-9 _ -`.
    NotPlain,
    /// It is not a UUID.
    NotUuid,
}

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvalidId::NotPlain => {
                write!(f, "an id is 1 to {ID_BYTES_MAX} characters of A-Z, a-z, 0-9, _ and -")
            }
            InvalidId::NotUuid => f.write_str("an id of this kind is a UUID, 36 characters with dashes"),
        }
    }
}

impl std::error::Error for InvalidId {}

/// True if the text is short and plain enough for an id from outside.
pub fn is_plain_id(text: &str) -> bool {
    (1..=ID_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Reads an id that came from outside.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                if is_plain_id(text) { Ok(Self(Arc::from(text))) } else { Err(InvalidId::NotPlain) }
            }

            /// The id as text, as sent on the wire.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::parse(&text)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"})
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )+};
}

texts! {
    /// A credential record, `key_...`. Never the credential itself.
    KeyId,
    /// A tenant, who pays, `ten_...`.
    TenantId,
    /// A registered caller of a tenant, `agt_...`.
    AgentId,
    /// A credential of an administrator, `adm_...`, or of a filter, `flt_...`. Never the credential itself.
    CredentialId,
    /// Whose requests a limit counts together: the id of a key, an agent or a tenant.
    OwnerId,
    /// One immutable movement of credits.
    TransferId,
    /// The content hash of a policy document, in hexadecimal.
    PolicyVersion,
}

macro_rules! uuids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Reads an id that came from outside.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                Uuid::parse(text).map(Self).ok_or(InvalidId::NotUuid)
            }

            /// The id with this value.
            pub const fn from_bits(bits: u128) -> Self {
                Self(Uuid::from_bits(bits))
            }

            /// The value as a number.
            pub const fn bits(self) -> u128 {
                self.0.bits()
            }

            /// The id as text, as sent on the wire.
            pub fn text(self) -> Text {
                self.0.text()
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::parse(text)
            }
        }

        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "format": "uuid"})
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}

uuids! {
    /// A reservation of credits. A UUIDv7 created by whoever reserves; also the idempotency id of each step on the reservation.
    ReservationId,
    /// A lease: a bounded share of a tenant's credits, held by one Envoy. A UUIDv7 created by the filter.
    LeaseId,
    /// One run of one Envoy. A UUIDv7 created by the filter.
    InstanceId,
    /// One audit event. For a decision this is also the request's id.
    EventId,
    /// One delivery of settlements and decisions. A repeated delivery has the same id.
    BatchId,
}

macro_rules! owners {
    ($($name:ident),+) => {$(
        impl From<&$name> for OwnerId {
            fn from(id: &$name) -> OwnerId {
                OwnerId(id.0.clone())
            }
        }
    )+};
}

owners!(KeyId, AgentId, TenantId);

macro_rules! same {
    ($($(#[$why:meta])* $from:ident => $to:ident),+ $(,)?) => {$(
        $(#[$why])*
        impl From<$from> for $to {
            fn from(id: $from) -> Self {
                Self(id.0)
            }
        }
    )+};
}

same! {
    /// A call's reservation has the id of its request: both are ordered by time, and one is enough to find the other.
    EventId => ReservationId,
    /// A lease has the id of the request that led to it.
    EventId => LeaseId,
    /// The event about the decisions that a batch lacks has the batch's id.
    BatchId => EventId,
}

impl EventId {
    /// The id of the part at this place, such as a message of a batch. It differs from the whole's id and from all other parts'.
    #[must_use]
    pub fn part(self, place: usize) -> EventId {
        // Only the last digits change, so the id keeps its time, and parts of different wholes stay apart.
        EventId::from_bits(self.bits() ^ (place as u128).wrapping_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_refused_unless_it_is_short_and_of_plain_characters() {
        for (text, accepted) in [
            ("key_0192", true),
            ("a-b_C9", true),
            ("", false),
            ("has space", false),
            ("ü", false),
            (&"x".repeat(64), true),
            (&"x".repeat(65), false),
        ] {
            assert_eq!(KeyId::parse(text).is_ok(), accepted, "{text:?}");
        }
    }

    #[test]
    fn parts_have_ids_of_their_own() {
        let whole = EventId::parse("0192f0c0-0000-7000-8000-0000000000ff").unwrap();
        let mut ids: Vec<EventId> = (0..300).map(|place| whole.part(place)).chain([whole]).collect();
        assert!(ids.iter().all(|id| id.text().starts_with("0192f0c0-0000-7000-8000-00000000")), "{ids:?}");
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 301);
    }
}
