//! How the crate's types are stored in columns. A new type of column has a line here.

use super::sql::{FromColumn, InvalidColumn, Kind, Param, ToParam};
use crate::model::credential::CredentialKind;
use protocol::admin::{LeaseState, Role};
use protocol::api_key::KeyHash;
use protocol::audit::{Digest, Outcome};
use protocol::filter::Change;
use protocol::key::{Concurrency, Grant, KeySource, Limit};
use protocol::{
    AgentId, CredentialId, Credits, EventId, InstanceId, KeyId, LeaseId, Month, OwnerId, PolicyVersion,
    ReservationId, TenantId, Timestamp, TransferId,
};
use serde_json::value::RawValue;

type Read<T> = Result<T, InvalidColumn>;

/// Validated texts.
macro_rules! texts {
    ($($text:ty),+ $(,)?) => {$(
        impl ToParam for $text {
            const KIND: Kind = Kind::Text;

            fn to_param(&self) -> Param<'_> {
                Param::text(self.as_str())
            }
        }

        impl FromColumn<'_> for $text {
            fn from_column(column: Param<'_>) -> Read<Self> {
                <$text>::try_from(String::from_column(column)?).map_err(InvalidColumn::because)
            }
        }
    )+};
}

texts!(CredentialId, AgentId, KeyId, OwnerId, PolicyVersion, TenantId, TransferId);

/// UUIDs, stored as text.
macro_rules! uuids {
    ($($uuid:ty),+ $(,)?) => {$(
        impl ToParam for $uuid {
            const KIND: Kind = Kind::Text;

            fn to_param(&self) -> Param<'_> {
                Param::Text(self.to_string().into())
            }
        }

        impl FromColumn<'_> for $uuid {
            fn from_column(column: Param<'_>) -> Read<Self> {
                match column {
                    Param::Text(text) => <$uuid>::parse(&text).map_err(InvalidColumn::because),
                    _ => Err(InvalidColumn::because("it is not text")),
                }
            }
        }
    )+};
}

uuids!(EventId, InstanceId, LeaseId, ReservationId);

/// Enums, stored by name.
macro_rules! words {
    ($($word:ty),+ $(,)?) => {$(
        impl ToParam for $word {
            const KIND: Kind = Kind::Text;

            fn to_param(&self) -> Param<'_> {
                Param::text(self.as_str())
            }
        }

        impl FromColumn<'_> for $word {
            fn from_column(column: Param<'_>) -> Read<Self> {
                let text = String::from_column(column)?;
                let known = <$word>::ALL.into_iter().find(|known| known.as_str() == text);
                known.ok_or_else(|| InvalidColumn::because(format!("{text:?} is not known")))
            }
        }
    )+};
}

words!(CredentialKind, LeaseState, Outcome, Role);

/// Types that are stored as JSON.
macro_rules! json {
    ($($json:ty),+ $(,)?) => {$(
        impl ToParam for $json {
            const KIND: Kind = Kind::Text;

            fn to_param(&self) -> Param<'_> {
                // Serializing never fails here. If it did, an unreadable row is safer than a default.
                Param::Text(serde_json::to_string(self).unwrap_or_else(|error| error.to_string()).into())
            }
        }

        impl FromColumn<'_> for $json {
            fn from_column(column: Param<'_>) -> Read<Self> {
                match column {
                    Param::Text(text) => serde_json::from_str(&text).map_err(InvalidColumn::because),
                    _ => Err(InvalidColumn::because("it is not text")),
                }
            }
        }
    )+};
}

json!(Vec<String>, Vec<Grant>, Vec<Limit>, KeySource, Concurrency, Change, Box<RawValue>);

/// Numbers.
macro_rules! numbers {
    ($($type:ty: $to:expr, $from:expr);+ $(;)?) => {$(
        impl ToParam for $type {
            const KIND: Kind = Kind::Integer;

            fn to_param(&self) -> Param<'_> {
                let number: fn(&$type) -> u64 = $to;
                Param::number(number(self))
            }
        }

        impl FromColumn<'_> for $type {
            fn from_column(column: Param<'_>) -> Read<Self> {
                let read: fn(u64) -> Read<$type> = $from;
                read(u64::from_column(column)?)
            }
        }
    )+};
}

numbers! {
    Timestamp: |moment| moment.as_millis(), |millis| Ok(Timestamp::from_millis(millis));
    Credits: |credits| credits.get(), |number| Credits::try_from(number).map_err(InvalidColumn::because);
    Month: |month| month.number().into(), |number| {
        u32::try_from(number).map(Month::from_number).map_err(InvalidColumn::because)
    };
}

/// Hashes.
macro_rules! hashes {
    ($($hash:ty),+) => {$(
        impl ToParam for $hash {
            const KIND: Kind = Kind::Bytes;

            fn to_param(&self) -> Param<'_> {
                Param::Bytes(self.as_bytes())
            }
        }

        impl FromColumn<'_> for $hash {
            fn from_column(column: Param<'_>) -> Read<Self> {
                <[u8; 32]>::from_column(column).map(<$hash>::from_bytes)
            }
        }
    )+};
}

hashes!(KeyHash, Digest);
