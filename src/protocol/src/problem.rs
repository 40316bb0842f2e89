//! RFC 9457 problem details: the format of all errors from the ledger and from the gate's HTTP services.

use crate::Credits;
use crate::reason::Purse;
use serde::{Deserialize, Serialize};

/// Media type of a [`Problem`].
pub const MEDIA_TYPE: &str = "application/problem+json";

/// One error. `type` is stable and is what programs match on.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Problem {
    /// A URN such as `urn:agentrelay:problem:rate_limited`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The HTTP status.
    pub status: u16,
    /// What this type of problem is, always the same text.
    pub title: String,
    /// What was wrong this time, where, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The request, as logs and audit know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The credits that are left, if there are too few.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available: Option<Credits>,
    /// Where there are too few.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purse: Option<Purse>,
    /// Whom to ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact: Option<String>,
    /// Where to get a higher tier or credits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade_url: Option<String>,
}

impl Problem {
    /// The URN of the problem with this code.
    pub fn urn(code: &str) -> String {
        format!("urn:agentrelay:problem:{code}")
    }
}
