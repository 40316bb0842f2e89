//! Identifiers. Each kind has its own type, so that code can't use a key's id where it needs a tenant's.

use crate::uuid;
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::sync::Arc;

/// Maximum length of an id accepted from outside, in bytes.
const ID_BYTES_MAX: usize = 64;

/// The text is empty, too long, or contains a character other than `A-Z a-z 0-9 _ -`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidId;

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an id is 1 to {ID_BYTES_MAX} characters of A-Z, a-z, 0-9, _ and -")
    }
}

impl std::error::Error for InvalidId {}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Reads an id that came from outside.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let shape_ok = (1..=ID_BYTES_MAX).contains(&text.len())
                    && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
                if shape_ok { Ok(Self(Arc::from(text))) } else { Err(InvalidId) }
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

ids! {
    /// A credential record, `key_...`. Never the credential itself.
    KeyId,
    /// A tenant, who pays, `ten_...`.
    TenantId,
    /// A registered caller of a tenant, `agt_...`.
    AgentId,
    /// A credential of an administrator, `adm_...`, or of a filter, `flt_...`. Never the credential itself.
    CredentialId,
    /// A reservation of credits. A UUIDv7 created by whoever reserves; also the idempotency id of each step on the reservation.
    ReservationId,
    /// A lease: a bounded share of a tenant's credits, held by one Envoy. A UUIDv7 created by the filter.
    LeaseId,
    /// One run of one Envoy. A UUIDv7 created by the filter.
    InstanceId,
    /// Whose requests a limit counts together: the id of a key, an agent or a tenant.
    OwnerId,
    /// One immutable movement of credits.
    TransferId,
    /// One audit event. For a decision this is also the request's id.
    EventId,
    /// One delivery of settlements and decisions. A repeated delivery has the same id.
    BatchId,
    /// The content hash of a policy document, in hexadecimal.
    PolicyVersion,
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

macro_rules! of_uuids {
    ($($name:ident),+) => {$(
        impl $name {
            /// Creates an id from a UUID.
            pub fn of_uuid(bits: u128) -> Self {
                Self(Arc::from(&*uuid::text(bits)))
            }
        }
    )+};
}

of_uuids!(ReservationId, LeaseId, InstanceId, EventId, BatchId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_from_outside_is_refused_unless_it_is_short_and_plain() {
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
}
