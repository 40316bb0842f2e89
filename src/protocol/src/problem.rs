//! RFC 9457 problem details: the format of all errors from the ledger and from the gate's HTTP services.

use crate::Credits;
use crate::reason::PaidFrom;
use serde::{Deserialize, Serialize};

/// Media type of a [`Problem`].
pub const MEDIA_TYPE: &str = "application/problem+json";

/// An error as an RFC 9457 problem document. Programs should decide by `type`, which is stable.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Problem {
    /// A URN such as `urn:agentrelay:problem:rate_limited`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The HTTP status.
    pub status: u16,
    /// A short text, always the same for one `type`.
    pub title: String,
    /// What is wrong in this case, and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The id of the request in logs and in the audit trail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The credits that are left, if there are too few.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available: Option<Credits>,
    /// Where there are too few.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paid_from: Option<PaidFrom>,
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
