//! A tool as the policy lists it: what is called, and under which rules.

use crate::document::{OnUnknown, Risk};
use crate::limit::LimitRule;
use crate::price::Price;
use crate::scope::ScopeRule;

/// What may be called, and under which rules.
#[derive(Debug, Clone)]
pub struct Tool {
    /// The policy's name: an MCP tool's name, or `GET /path/{template}`.
    pub name: String,
    /// How much harm the tool can do.
    pub risk: Risk,
    /// The scopes that a call needs.
    pub scope: ScopeRule,
    /// The resource that a call uses, such as `project:{project}`, with names from the path template.
    pub resource: Option<String>,
    /// The limits on each key for this tool.
    pub limits: Vec<LimitRule>,
    /// The price; `None` if the tool is free.
    pub price: Option<Price>,
    /// Who pays for a call whose end the gate did not see.
    pub on_unknown: OnUnknown,
    /// The tiers that a call needs.
    pub requires: Vec<Requirement>,
}

impl Tool {
    /// The arguments that decide the price or the tier of a call.
    pub fn deciding_arguments(&self) -> impl Iterator<Item = &str> {
        let of_price =
            self.price.as_ref().and_then(|price| price.times.as_ref()).map(|times| &times.argument);
        let of_tiers =
            self.requires.iter().filter_map(|tier| tier.when.as_ref()).map(|(argument, _)| argument);
        of_price.into_iter().chain(of_tiers).map(String::as_str)
    }
}

/// A tier that a call needs: always, or only with one value of one argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The argument and the value to which the requirement applies; `None` for every call.
    pub when: Option<(String, String)>,
    /// The lowest tier that is enough.
    pub tier: String,
    /// The rank of that tier.
    pub rank: u32,
    /// The requirement is audited, but not enforced.
    pub shadow: bool,
}
