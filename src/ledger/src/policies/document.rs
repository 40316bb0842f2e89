//! A policy document: read, checked as a whole, with its version. What it means is `policy`'s. A faulty document changes
//! nothing: the policy in force stays until there is a better one.

use policy::Policy;
use protocol::PolicyVersion;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::path::Path;

/// Largest policy, in its file or by the API.
pub(crate) const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A policy that passed all checks.
pub struct InForce {
    /// What it means.
    pub policy: Policy,
    /// The document as filters get it: canonical JSON, whose hash is the version.
    pub document: String,
    /// The document's top-level tables, verbatim.
    pub tables: BTreeMap<String, Box<RawValue>>,
}

impl InForce {
    /// Content hash of the document.
    pub fn version(&self) -> &PolicyVersion {
        self.policy.version()
    }

    /// The names of its tiers.
    pub fn tiers(&self) -> Vec<String> {
        let tiers = self.tables.get("tiers").map(|table| serde_json::from_str(table.get()));
        let tiers: BTreeMap<String, serde::de::IgnoredAny> = tiers.and_then(Result::ok).unwrap_or_default();
        tiers.into_keys().collect()
    }
}

/// Why a policy file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It can't be read.
    #[error("it can't be read: {0}")]
    Unreadable(#[source] std::io::Error),
    /// It is larger than any policy.
    #[error("it is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    /// It says what no policy may say.
    #[error("{0}")]
    Invalid(policy::Invalid),
    /// The checked document is no JSON object.
    #[error("it is not a JSON object: {0}")]
    NoObject(#[source] serde_json::Error),
}

/// Checks a text, YAML or JSON.
pub fn parse(text: &str) -> Result<InForce, Fault> {
    let document = policy::yaml::to_json(text).map_err(Fault::Invalid)?;
    let policy = Policy::from_json(document.as_bytes()).map_err(Fault::Invalid)?;
    in_force(policy, document)
}

fn in_force(policy: Policy, document: String) -> Result<InForce, Fault> {
    let tables = serde_json::from_str(&document).map_err(Fault::NoObject)?;
    Ok(InForce { policy, document, tables })
}

/// Checks a document that the database holds.
pub fn parse_document(document: String) -> Result<InForce, Fault> {
    let policy = Policy::from_json(document.as_bytes()).map_err(Fault::Invalid)?;
    in_force(policy, document)
}

/// Reads a policy file's text.
pub async fn read(path: &Path) -> Result<String, Fault> {
    let size = tokio::fs::metadata(path).await.map_err(Fault::Unreadable)?.len();
    if usize::try_from(size).is_ok_and(|bytes| bytes <= FILE_BYTES_MAX) {
        return tokio::fs::read_to_string(path).await.map_err(Fault::Unreadable);
    }
    Err(Fault::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_that_users_copy_is_taken_and_its_tables_are_kept_verbatim() {
        let policy = parse(include_str!("../../../../envoy/policy.yaml")).unwrap();
        assert!(policy.policy.tier("enterprise").is_some());
        for table in ["tiers", "services"] {
            assert!(policy.document.contains(policy.tables[table].get()), "{table}");
        }
    }

    #[test]
    fn a_faulty_text_is_refused_with_its_path() {
        let Err(fault) = parse("tiers: {free: {rank: 0, colour: red}}") else { panic!("it was taken") };
        assert!(fault.to_string().contains("tiers.free.colour"), "{fault}");
    }
}
