//! The decisions of AgentRelay: who may do what, how often and at what price.
//!
//! This crate is pure: no IO, no clock, no randomness, no logging, and it does not depend on Envoy. The filter passes
//! events in and carries out the effects. Reading order: [`Policy`] is the parsed document, [`exchange`] is the state
//! machine of one HTTP exchange, and each other module answers one question that the exchange asks.
//!
//! ```
//! let policy = policy::Policy::from_json(br#"{
//!     "tiers": {"free": {"rank": 0, "limits": [{"permits": 20, "window": "60s"}]}},
//!     "risks": {"read_only": {"scope": "read"}, "local_mutation": {"scope": "generate"},
//!               "external_mutation": {"scope": "generate"}, "destructive": {"scope": "admin"}},
//!     "services": {"studio": {"kind": "mcp", "path": "/mcp", "tools": {"search": {"risk": "read_only"}}}}
//! }"#).unwrap();
//! assert_eq!(policy.tier("free").unwrap().limits[0].limit.permits, 20);
//! ```

pub mod authorize;
pub mod credential;
pub mod document;
pub mod exchange;
pub mod gate_tools;
pub mod http;
pub mod ids_in_use;
pub mod json;
pub mod key;
pub mod key_table;
pub mod lease;
pub mod limit;
pub mod mcp;
pub mod oauth;
mod ordered;
pub mod outage;
#[cfg(any(test, feature = "yaml"))]
pub mod plain;
pub mod price;
pub mod reading;
pub mod reason;
pub mod records;
pub mod rules;
pub mod scope;
pub mod session;
pub mod tool;
pub mod unknown_keys;
pub mod value;
pub mod window;
#[cfg(feature = "yaml")]
pub mod yaml;

pub use document::Invalid;
pub use key::Key;
pub use rules::{Policy, Service, Tier};
pub use tool::Tool;
