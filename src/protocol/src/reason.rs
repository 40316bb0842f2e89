//! Why a request was refused: the rule that decided, what it needed, and what there was.

use crate::Credits;
use serde::{Deserialize, Serialize};

/// The longest text in a reason, in bytes.
pub const TEXT_BYTES_MAX: usize = 256;
/// The most names in one list of a reason.
pub const NAMES_MAX: usize = 16;

/// The rule that refused a request. It holds names and numbers of the policy and of the key, never a part of a body.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", schemars(rename = "RefusalReason"))]
#[serde(rename_all = "snake_case", tag = "rule", deny_unknown_fields)]
pub enum Reason {
    /// The key is limited to other services, tools or resources, or its grant has ended.
    Grant {
        /// `service`, `tool` or `resource`.
        kind: String,
        /// What the key is not granted.
        needed: String,
    },
    /// The key lacks a scope.
    Scope {
        /// All scopes that are needed.
        needed: Vec<String>,
        /// The scopes of the key.
        had: Vec<String>,
    },
    /// The tenant's tier is too low.
    Tier {
        /// The lowest tier that is enough.
        needed: String,
        /// The tenant's tier.
        had: String,
        /// The argument that needs the tier, if not every call does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        argument: Option<String>,
        /// The value of the argument that needs the tier.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value: Option<String>,
        /// The values of the argument that the tenant's tier has, if the policy lists them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        open: Vec<String>,
    },
    /// The policy does not have the tenant's tier.
    UnknownTier {
        /// The tenant's tier.
        had: String,
    },
    /// A window is full.
    Limit {
        /// Where the limit is written: `tier`, `tool`, `key`, `parent`, or `opening`.
        of: String,
        /// The tier or the tool that has the limit.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// Whose requests are counted together: `key`, `agent` or `tenant`.
        per: String,
        /// The permits in a window.
        permits: u32,
        /// The length of the window.
        window_seconds: u32,
        /// All Envoys share the permits.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        global: bool,
        /// The permits that this Envoy gave, because the ledger that divides them did not answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        given: Option<u32>,
        /// After how many seconds there was room again.
        wait_seconds: u64,
    },
    /// The key had as much in progress on this worker as it may have.
    Concurrency {
        /// The bound.
        max: u32,
    },
    /// There were too few credits.
    Credits {
        /// What the call costs.
        needed: Credits,
        /// What there was, if the ledger said so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        had: Option<Credits>,
        /// Where there were too few.
        paid_from: PaidFrom,
    },
    /// Another check, described by what the client was told.
    Check {
        /// What was wrong and what to do.
        told: String,
    },
}

/// Where credits can be too few.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaidFrom {
    /// The tenant's credits.
    Balance,
    /// The tenant's budget for the month.
    TenantBudget,
    /// The key's budget for the month, or its parent's.
    KeyBudget,
}

/// How many credits there are for a call that costs more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortfall {
    /// The credits that are left.
    pub available: Credits,
    /// Where they are left.
    pub paid_from: PaidFrom,
}

impl Reason {
    /// A reason from what the client was told.
    pub fn check(told: &str) -> Reason {
        Reason::Check { told: bounded(told) }
    }

    /// Its name on the wire.
    pub fn rule(&self) -> &'static str {
        match self {
            Reason::Grant { .. } => "grant",
            Reason::Scope { .. } => "scope",
            Reason::Tier { .. } => "tier",
            Reason::UnknownTier { .. } => "unknown_tier",
            Reason::Limit { .. } => "limit",
            Reason::Concurrency { .. } => "concurrency",
            Reason::Credits { .. } => "credits",
            Reason::Check { .. } => "check",
        }
    }
}

/// A text within [`TEXT_BYTES_MAX`].
pub fn bounded(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    text.get(..end).unwrap_or_default().to_owned()
}

/// Names within [`NAMES_MAX`].
pub fn bounded_names<'n>(names: impl IntoIterator<Item = &'n String>) -> Vec<String> {
    names.into_iter().take(NAMES_MAX).map(|name| bounded(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_bounded_and_reads_as_it_was_written() {
        let long = "ä".repeat(1000);
        let names: Vec<String> = (0..100).map(|_| long.clone()).collect();
        let scope = Reason::Scope { needed: bounded_names(&names), had: Vec::new() };
        let credits = Reason::Credits {
            needed: Credits::new(5).unwrap(),
            had: Credits::new(3),
            paid_from: PaidFrom::KeyBudget,
        };
        let tier = Reason::Tier {
            needed: "pro".to_owned(),
            had: "free".to_owned(),
            argument: None,
            value: None,
            open: Vec::new(),
        };
        for reason in [scope, credits, tier, Reason::check(&long)] {
            let text = serde_json::to_string(&reason).unwrap();
            assert!(text.len() <= NAMES_MAX * (TEXT_BYTES_MAX + 8) + 64, "{}", text.len());
            assert!(text.starts_with(&format!("{{\"rule\":\"{}\"", reason.rule())), "{text}");
            assert_eq!(serde_json::from_str::<Reason>(&text).unwrap(), reason);
        }
    }
}
