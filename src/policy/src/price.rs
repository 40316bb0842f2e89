//! What a call costs. All values are integers, so nothing is rounded.

use crate::document::{OnLedgerOutage, Reserve, Times};
use protocol::Credits;

/// A tool's price.
#[derive(Debug, Clone)]
pub struct Price {
    /// The base price, at least 1.
    pub credits: Credits,
    /// The factor on the base price, if there is one.
    pub times: Option<Times>,
    /// How credits are reserved.
    pub reserve: Reserve,
    /// What happens to a call while the ledger does not answer.
    pub on_ledger_outage: OnLedgerOutage,
    /// The upstream may report the cost of a call in `_meta`.
    pub upstream_cost: bool,
    /// How much the reported cost may exceed the price.
    pub overrun_credits_max: Credits,
}

/// The argument has a value that is not in the price table. Refusals list the values that are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownValue {
    /// The argument.
    pub argument: String,
    /// The values that have a price.
    pub known: Vec<String>,
}

impl Price {
    /// The price of a call whose pricing argument has this value; `None` if the argument is absent.
    pub fn of(&self, value: Option<&str>) -> Result<Credits, UnknownValue> {
        let Some(times) = &self.times else { return Ok(self.credits) };
        times
            .values
            .get(value.unwrap_or(&times.default))
            // Overflow was excluded when the policy was parsed.
            .and_then(|factor| self.credits.checked_mul(u64::from(*factor)))
            .ok_or_else(|| UnknownValue {
                argument: times.argument.clone(),
                known: times.values.keys().cloned().collect(),
            })
    }

    /// The highest cost that the upstream may report for a call with this price; `None` if its report is ignored.
    pub fn cost_max(&self, price: Credits) -> Option<Credits> {
        // Overflow was excluded when the policy was parsed.
        self.upstream_cost.then(|| price.checked_add(self.overrun_credits_max).unwrap_or(price))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image_generate() -> Price {
        Price {
            credits: Credits::new(5).unwrap(),
            times: Some(Times {
                argument: "quality".into(),
                values: [("standard", 1), ("premium", 3), ("ultra", 5), ("ultra_plus", 8)]
                    .map(|(name, factor)| (name.to_owned(), factor))
                    .into(),
                default: "standard".into(),
            }),
            reserve: Reserve::Exact,
            on_ledger_outage: OnLedgerOutage::Deny,
            upstream_cost: false,
            overrun_credits_max: Credits::ZERO,
        }
    }

    #[test]
    fn an_argument_multiplies_the_price() {
        for (value, credits) in [
            (None, 5),
            (Some("standard"), 5),
            (Some("premium"), 15),
            (Some("ultra"), 25),
            (Some("ultra_plus"), 40),
        ] {
            assert_eq!(image_generate().of(value).unwrap().get(), credits, "{value:?}");
        }
    }

    #[test]
    fn a_value_without_a_price_is_refused_and_the_priced_ones_are_named() {
        let unknown = image_generate().of(Some("Ultra")).unwrap_err();
        assert_eq!(unknown.known, ["premium", "standard", "ultra", "ultra_plus"]);
    }
}
