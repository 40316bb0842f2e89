//! Points in time with millisecond precision, written as RFC 3339 in UTC on the wire, and read as that or as a date.

use ::time::format_description::well_known::Rfc3339;
use ::time::{OffsetDateTime, UtcOffset};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Milliseconds since 1970-01-01T00:00:00Z. This crate never reads a clock; callers pass the time in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp(u64);

/// A calendar month in UTC. Later months compare as greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Month(u32);

impl Month {
    /// Creates a month from its stored number.
    pub const fn from_number(number: u32) -> Month {
        Month(number)
    }

    /// The number to store: twelve per year, plus one per month since January.
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.0 / 12, (self.0 % 12).saturating_add(1))
    }
}

/// The text is neither RFC 3339 nor a date, or the time is outside the years 1970 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidTimestamp;

impl fmt::Display for InvalidTimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "write a date such as 2026-11-22, which begins at 00:00 UTC, or a time such as 2026-11-22T20:00:00Z, between 1970 and 9999",
        )
    }
}

impl std::error::Error for InvalidTimestamp {}

impl Timestamp {
    /// 9999-12-31T23:59:59.999Z, the latest time that RFC 3339 can express.
    pub const MAX: Timestamp = Timestamp(253_402_300_799_999);

    /// Creates a time from milliseconds since the epoch. A later time than [`Timestamp::MAX`] becomes [`Timestamp::MAX`].
    pub const fn from_millis(millis: u64) -> Timestamp {
        if millis > Timestamp::MAX.0 { Timestamp::MAX } else { Timestamp(millis) }
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The time this many milliseconds later.
    pub const fn plus_millis(self, millis: u64) -> Timestamp {
        Timestamp::from_millis(self.0.saturating_add(millis))
    }

    /// The time this many seconds later.
    pub const fn plus_seconds(self, seconds: u64) -> Timestamp {
        self.plus_millis(seconds.saturating_mul(1000))
    }

    /// Milliseconds from `earlier` to this time; 0 if `earlier` is later.
    pub const fn millis_since(self, earlier: Timestamp) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The calendar month in UTC that contains this time.
    pub fn month(self) -> Month {
        let since = i64::try_from(self.0 / 1000).unwrap_or(i64::MAX);
        // A timestamp is at most in the year 9999, which the `time` crate can represent.
        let moment = OffsetDateTime::from_unix_timestamp(since).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let year = u32::try_from(moment.year()).unwrap_or_default();
        Month(year.saturating_mul(12).saturating_add(u32::from(u8::from(moment.month()))).saturating_sub(1))
    }

    /// The first moment of a day in UTC, written as `2026-11-22`.
    pub fn of_day(day: &str) -> Result<Timestamp, InvalidTimestamp> {
        if day.len() == "2026-11-22".len() {
            Timestamp::parse(&format!("{day}T00:00:00Z"))
        } else {
            Err(InvalidTimestamp)
        }
    }

    /// Reads what people write: RFC 3339, or a date, which is its first moment in UTC.
    pub fn read(text: &str) -> Result<Timestamp, InvalidTimestamp> {
        Timestamp::of_day(text).or_else(|_| Timestamp::parse(text))
    }

    /// Reads RFC 3339 with any offset; fractions of a millisecond are cut off.
    pub fn parse(text: &str) -> Result<Timestamp, InvalidTimestamp> {
        let moment = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| InvalidTimestamp)?;
        let millis = moment.unix_timestamp_nanos().div_euclid(1_000_000);
        match u64::try_from(millis) {
            Ok(millis) if millis <= Timestamp::MAX.0 => Ok(Timestamp(millis)),
            _ => Err(InvalidTimestamp),
        }
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Timestamp {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "anyOf": [{"format": "date-time"}, {"format": "date"}],
            "description": "Answers have RFC 3339 in UTC. Requests may have any offset, or a date such as 2026-11-22, which is its first \
                moment in UTC.",
        })
    }
}

impl TryFrom<String> for Timestamp {
    type Error = InvalidTimestamp;

    fn try_from(text: String) -> Result<Self, InvalidTimestamp> {
        Timestamp::read(&text)
    }
}

impl From<Timestamp> for String {
    fn from(timestamp: Timestamp) -> String {
        timestamp.to_string()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = i128::from(self.0).saturating_mul(1_000_000);
        let moment = OffsetDateTime::from_unix_timestamp_nanos(nanos)
            .map_err(|_| fmt::Error)?
            .to_offset(UtcOffset::UTC);
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            moment.year(),
            u8::from(moment.month()),
            moment.day(),
            moment.hour(),
            moment.minute(),
            moment.second(),
            moment.millisecond()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offset_gives_the_same_moment_and_is_printed_in_utc() {
        for text in ["2026-11-22T20:00:00Z", "2026-11-22T20:00:00+00:00", "2026-11-22T22:00:00.0009+02:00"] {
            let moment = Timestamp::parse(text).unwrap();
            assert_eq!(moment.to_string(), "2026-11-22T20:00:00.000Z", "{text}");
        }
        for text in ["2026-11-22", "yesterday", "1960-01-01T00:00:00Z", ""] {
            assert!(Timestamp::parse(text).is_err(), "{text}");
        }
        assert_eq!(Timestamp::parse(&Timestamp::MAX.to_string()), Ok(Timestamp::MAX));
        assert_eq!(Timestamp::read("2026-11-22"), Timestamp::parse("2026-11-22T00:00:00Z"));
        for text in ["2026-11-31", "2026-11", "20261122", "22.11.2026", "+2026-11-2", "2026-11-22T20"] {
            assert!(Timestamp::read(text).is_err(), "{text}");
        }
    }
}
