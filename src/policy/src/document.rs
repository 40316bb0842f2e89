//! The policy as people write it: only the serde types, not their meaning.
//!
//! Where people write policies (the feature `yaml`), unknown fields are refused here, with their path. What a document
//! means, and whether it is consistent, is checked in [`crate::rules`].

#[cfg(any(test, feature = "yaml"))]
use crate::json::Objects;
use protocol::key::Concurrency;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;

/// Why a document was refused: one line for each fault, with its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid(Vec<String>);

impl Invalid {
    pub(crate) fn at(path: impl fmt::Display, fault: impl fmt::Display) -> Invalid {
        Invalid(vec![format!("{path}: {fault}")])
    }

    pub(crate) fn all(faults: Vec<String>) -> Invalid {
        Invalid(faults)
    }

    /// The faults, each as `path: what is wrong and what would be right`.
    pub fn faults(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Invalid {}

/// The whole policy document.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Document {
    #[serde(default)]
    pub(crate) settings: Settings,
    pub(crate) tiers: BTreeMap<String, Tier>,
    pub(crate) risks: Risks,
    pub(crate) services: BTreeMap<String, Service>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    pub(crate) key_stale: Span,
    pub(crate) reservation_ttl: Span,
    pub(crate) unknown_keys_on_ledger_outage: Option<Unverified>,
    pub(crate) contact: Option<String>,
    pub(crate) upgrade_url: Option<String>,
}

/// What a caller may do whose key can't be looked up because the ledger is away.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Unverified {
    pub(crate) tier: String,
    pub(crate) scopes: Vec<String>,
}

impl Default for Settings {
    fn default() -> Settings {
        let two_minutes = Span { seconds: 120 };
        Settings {
            key_stale: two_minutes,
            reservation_ttl: two_minutes,
            unknown_keys_on_ledger_outage: None,
            contact: None,
            upgrade_url: None,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tier {
    pub(crate) rank: u32,
    #[serde(default)]
    pub(crate) limits: Vec<Limit>,
    #[serde(default)]
    pub(crate) concurrency: Concurrency,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limit {
    pub(crate) permits: u32,
    pub(crate) window: Span,
    #[serde(default)]
    pub(crate) shadow: bool,
    #[serde(default)]
    pub(crate) global: bool,
    #[serde(default)]
    pub(crate) per: Per,
    #[serde(default)]
    pub(crate) on_ledger_outage: Option<LimitOutage>,
}

/// Whose requests a limit counts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// Those of each key. A key that another key asked for counts as that one.
    #[default]
    Key,
    /// Those of all keys of one agent. A key without an agent counts by itself.
    Agent,
    /// Those of all keys of one tenant.
    Tenant,
}

impl Per {
    /// Its name in a policy.
    pub const fn name(self) -> &'static str {
        match self {
            Per::Key => "key",
            Per::Agent => "agent",
            Per::Tenant => "tenant",
        }
    }
}

/// What a global limit admits while the ledger does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitOutage {
    /// On each Envoy the permits divided by the number of Envoys last known.
    #[default]
    FairShare,
    /// What each Envoy was already given, until that ends; then nothing.
    Deny,
    /// On each Envoy all permits.
    Allow,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Risks {
    pub(crate) read_only: RiskRule,
    pub(crate) local_mutation: RiskRule,
    pub(crate) external_mutation: RiskRule,
    pub(crate) destructive: RiskRule,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RiskRule {
    pub(crate) scope: String,
    #[serde(default)]
    pub(crate) shadow: bool,
}

/// How much harm a tool can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Risk {
    /// It only reads.
    ReadOnly,
    /// It changes what the caller owns.
    LocalMutation,
    /// It changes what others see.
    ExternalMutation,
    /// It can't be undone.
    Destructive,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Service {
    pub(crate) kind: ServiceKind,
    #[serde(default)]
    pub(crate) hosts: Vec<String>,
    pub(crate) path: String,
    #[serde(default)]
    pub(crate) refusals: Option<Refusals>,
    #[serde(default)]
    pub(crate) body_bytes_max: Option<u32>,
    #[serde(default)]
    pub(crate) forward_credential: bool,
    #[serde(default)]
    pub(crate) upgrades: bool,
    #[serde(default)]
    pub(crate) case_sensitive: bool,
    #[serde(default)]
    pub(crate) usage_tokens: bool,
    #[serde(default)]
    pub(crate) oauth: Option<OAuth>,
    #[serde(default)]
    pub(crate) unlisted: Unlisted,
    pub(crate) tools: BTreeMap<String, Tool>,
    #[serde(default)]
    pub(crate) prompts: Option<BTreeMap<String, Reading>>,
    #[serde(default)]
    pub(crate) resources: Option<BTreeMap<String, Reading>>,
    #[serde(default)]
    pub(crate) gate_tools: BTreeMap<String, Tool>,
    #[serde(default)]
    pub(crate) show_terms: bool,
    #[serde(default)]
    pub(crate) terms: Option<Terms>,
}

/// Where lists tell a tool's price, limits and scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Terms {
    /// Nowhere.
    Hide,
    /// In `_meta`, for programs.
    Meta,
    /// There, and in the description, for models and people.
    Describe,
}

/// Where the clients of a service get credentials.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OAuth {
    pub(crate) resource: String,
    pub(crate) authorization_servers: Vec<String>,
}

/// A prompt or resource of an MCP service. A name that ends in `*` covers all names with that prefix.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reading {
    pub(crate) risk: Risk,
    #[serde(default)]
    pub(crate) scopes: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ServiceKind {
    Mcp,
    Http,
}

/// The form in which a service's refusals are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusals {
    /// RFC 9457 problem+json.
    Http,
    /// The true HTTP status with a JSON-RPC error as body.
    McpHttp,
    /// A refused tool call gets HTTP 200 and a tool result that the model can read; other refusals are as in `mcp-http`.
    McpTool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tool {
    pub(crate) risk: Risk,
    #[serde(default)]
    pub(crate) scopes: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) resource: Option<String>,
    #[serde(default)]
    pub(crate) limits: Vec<Limit>,
    #[serde(default)]
    pub(crate) price: Option<Price>,
    #[serde(default)]
    pub(crate) on_unknown: Option<OnUnknown>,
    #[serde(default)]
    pub(crate) requires: Vec<Requirement>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Price {
    pub(crate) credits: u64,
    #[serde(default)]
    pub(crate) times: Option<Times>,
    #[serde(default)]
    pub(crate) reserve: Reserve,
    #[serde(default)]
    pub(crate) on_ledger_outage: OnLedgerOutage,
    #[serde(default)]
    pub(crate) upstream_cost: bool,
    #[serde(default)]
    pub(crate) overrun_credits_max: u64,
}

/// A factor that depends on one argument of the call.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Times {
    /// The argument's name.
    pub argument: String,
    /// The factor for each value of the argument.
    pub values: BTreeMap<String, u32>,
    /// The value that is used if the argument is absent.
    pub default: String,
}

/// How credits are reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reserve {
    /// One call to the ledger for each request.
    #[default]
    Exact,
    /// Paid from a lease if there is one; otherwise as `exact`.
    Leased,
}

/// What happens to a priced call while the ledger does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLedgerOutage {
    /// It is refused with 503.
    #[default]
    Deny,
    /// It passes without charge.
    Allow,
}

/// What happens to a call that went upstream and for which the gate saw neither a result nor a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnknown {
    /// It is charged, so that disconnecting early does not make a call free.
    #[default]
    Charge,
    /// It is refunded.
    Refund,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Requirement {
    #[serde(default)]
    pub(crate) argument: Option<String>,
    #[serde(default)]
    pub(crate) value: Option<String>,
    pub(crate) tier: String,
    #[serde(default)]
    pub(crate) shadow: bool,
}

/// `deny`, or a rule for all tools that are not listed.
#[derive(Debug, Default)]
pub(crate) enum Unlisted {
    #[default]
    Deny,
    Rule(Box<Tool>),
}

impl<'de> Deserialize<'de> for Unlisted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;

        impl<'de> Visitor<'de> for Form {
            type Value = Unlisted;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`deny` or a tool rule")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Unlisted, E> {
                match text {
                    "deny" => Ok(Unlisted::Deny),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Unlisted, A::Error> {
                Tool::deserialize(de::value::MapAccessDeserializer::new(map))
                    .map(|rule| Unlisted::Rule(Box::new(rule)))
            }
        }

        deserializer.deserialize_any(Form)
    }
}

/// A duration: a whole number and its unit, such as `60s`, `10m`, `1h` or `1d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) seconds: u32,
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;

        impl Visitor<'_> for Form {
            type Value = Span;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time such as `60s`, `10m`, `1h` or `1d`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                let seconds_per_unit = match text.as_bytes().last() {
                    Some(b's') => 1,
                    Some(b'm') => 60,
                    Some(b'h') => 3600,
                    Some(b'd') => 86_400,
                    _ => 0,
                };
                text.get(..text.len().saturating_sub(1))
                    .filter(|count| count.bytes().all(|digit| digit.is_ascii_digit()))
                    .and_then(|count| count.parse::<u32>().ok())
                    .and_then(|count| count.checked_mul(seconds_per_unit))
                    .filter(|seconds| *seconds > 0)
                    .map(|seconds| Span { seconds })
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_str(Form)
    }
}

pub(crate) fn from_json(bytes: &[u8]) -> Result<Document, Invalid> {
    crate::json::check(bytes).map_err(|fault| Invalid::at("policy", fault))?;
    #[cfg(any(test, feature = "yaml"))]
    let parsed = serde_path_to_error::deserialize(Objects(&mut serde_json::Deserializer::from_slice(bytes)))
        .map_err(|error| {
            let path = error.path().to_string();
            // The whole document has no name.
            let path = if path == "." { "policy" } else { path.as_str() };
            Invalid::at(path, crate::plain::plain(&error.inner().to_string()))
        });
    #[cfg(not(any(test, feature = "yaml")))]
    let parsed = crate::json::read(bytes).map_err(|error| Invalid::at("policy", error));
    parsed
}
