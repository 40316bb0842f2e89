//! Policy documents: reading and checking. `policy` interprets them. An invalid document changes nothing: the policy in
//! force stays.

use policy::Policy;
use protocol::PolicyVersion;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::path::Path;

/// Largest policy document.
pub(crate) const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A valid policy.
pub struct InForce {
    pub policy: Policy,
    /// Canonical JSON, as filters get it. Its hash is the version.
    pub document: String,
    /// The document's top-level tables, verbatim.
    pub tables: BTreeMap<String, Box<RawValue>>,
}

impl InForce {
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

/// Why a policy is invalid.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It can't be read.
    #[error("it can't be read: {0}")]
    Unreadable(#[source] std::io::Error),
    /// It is too large.
    #[error("it is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    /// It violates the rules for policies.
    #[error("{0}")]
    Invalid(policy::Invalid),
    /// It is not a JSON object.
    #[error("it is not a JSON object: {0}")]
    NoObject(#[source] serde_json::Error),
}

/// Parses and checks YAML or JSON.
pub fn parse(text: &str) -> Result<InForce, Fault> {
    let document = policy::yaml::to_json(text).map_err(Fault::Invalid)?;
    let policy = Policy::from_json(document.as_bytes());
    in_force(policy.map_err(|invalid| Fault::Invalid(invalid.placed(text)))?, document)
}

fn in_force(policy: Policy, document: String) -> Result<InForce, Fault> {
    let tables = serde_json::from_str(&document).map_err(Fault::NoObject)?;
    Ok(InForce { policy, document, tables })
}

/// Parses and checks a document from the database.
pub fn parse_document(document: String) -> Result<InForce, Fault> {
    let policy = Policy::from_json(document.as_bytes()).map_err(Fault::Invalid)?;
    in_force(policy, document)
}

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
    fn the_shipped_policy_is_accepted_and_its_tables_are_returned_verbatim() {
        let policy = parse(include_str!("../../../../envoy/policy.yaml")).unwrap();
        assert!(policy.policy.tier("enterprise").is_some());
        for table in ["tiers", "services"] {
            assert!(policy.document.contains(policy.tables[table].get()), "{table}");
        }
    }

    #[test]
    fn an_invalid_text_is_refused_with_its_path() {
        let Err(fault) = parse("tiers: {free: {rank: 0, colour: red}}") else { panic!("it was taken") };
        assert!(fault.to_string().contains("tiers.free.colour"), "{fault}");
        assert!(fault.to_string().ends_with("(line 1, column 25)"), "{fault}");
    }
}
