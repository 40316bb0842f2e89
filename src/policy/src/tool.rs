//! A tool as the policy lists it: what is called, and on which terms.

use crate::document::{OnUnknown, Risk};
use crate::limit::LimitRule;
use crate::price::Price;
use crate::scope::ScopeRule;

/// What may be called, and on which terms.
#[derive(Debug, Clone)]
pub struct Tool {
    /// The policy's name: an MCP tool's name, or `GET /path/{template}`.
    pub name: String,
    /// How much harm it can do.
    pub risk: Risk,
    /// The scopes it needs.
    pub scope: ScopeRule,
    /// The resource it touches, such as `project:{project}`, with names from its path template.
    pub resource: Option<String>,
    /// Limits for each key on this tool.
    pub limits: Vec<LimitRule>,
    /// What it costs; `None` is free.
    pub price: Option<Price>,
    /// Who bears a call whose end was not seen.
    pub on_unknown: OnUnknown,
    /// Tiers it needs.
    pub requires: Vec<Requirement>,
}

/// A tier that a call needs, always or with one value of one argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The argument and the value that need it; `None` for every call.
    pub when: Option<(String, String)>,
    /// The lowest tier that will do.
    pub tier: String,
    /// Its rank.
    pub rank: u32,
    /// Audited, not enforced.
    pub shadow: bool,
}
