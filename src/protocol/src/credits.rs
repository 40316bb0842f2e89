//! Credits: integer price units. All arithmetic is checked and never wraps.

use serde::{Deserialize, Serialize};
use std::fmt;

/// An amount of credits, from 0 to 2^53 - 1, the range that every JSON reader can represent exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Credits(u64);

impl Credits {
    /// Zero credits.
    pub const ZERO: Credits = Credits(0);
    /// The largest amount: 2^53 - 1.
    pub const MAX: Credits = Credits((1 << 53) - 1);

    /// Creates an amount; `None` above [`Credits::MAX`].
    pub const fn new(amount: u64) -> Option<Credits> {
        if amount <= Credits::MAX.0 { Some(Credits(amount)) } else { None }
    }

    /// The amount as a number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// True for zero, the price of a free tool.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The sum, or `None` above [`Credits::MAX`].
    pub fn checked_add(self, other: Credits) -> Option<Credits> {
        self.0.checked_add(other.0).and_then(Credits::new)
    }

    /// The difference, or `None` below zero.
    pub fn checked_sub(self, other: Credits) -> Option<Credits> {
        self.0.checked_sub(other.0).map(Credits)
    }

    /// The product, or `None` above [`Credits::MAX`].
    pub fn checked_mul(self, factor: u64) -> Option<Credits> {
        self.0.checked_mul(factor).and_then(Credits::new)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Credits {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Credits".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "integer", "minimum": 0, "maximum": Credits::MAX.0})
    }
}

impl TryFrom<u64> for Credits {
    type Error = &'static str;

    fn try_from(amount: u64) -> Result<Self, Self::Error> {
        Credits::new(amount).ok_or("an amount of credits is at most 9007199254740991")
    }
}

impl From<Credits> for u64 {
    fn from(credits: Credits) -> u64 {
        credits.0
    }
}

impl fmt::Display for Credits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_never_wraps() {
        let one = Credits::new(1).unwrap();
        assert_eq!(Credits::MAX.checked_add(one), None);
        assert_eq!(Credits::ZERO.checked_sub(one), None);
        assert_eq!(Credits::MAX.checked_mul(2), None);
        assert_eq!(Credits::new(u64::MAX), None);
        assert_eq!(one.checked_add(one).unwrap().get(), 2);
    }
}
