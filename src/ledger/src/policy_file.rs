//! The policy in force: read from its file, checked as a whole, kept in the database, followed when it changes.
//!
//! What a policy means is `policy`'s; here it is a document with a version. A faulty file changes nothing: the policy
//! in force stays until there is a better one.

use crate::audit::{Event, Kind, LEDGER};
use crate::metrics::Metrics;
use crate::moment;
use crate::store::{self, Needs, Operation, Refusal, Rows, Store};
use policy::Policy;
use protocol::filter::Change;
use protocol::{PolicyVersion, Timestamp};
use serde_json::json;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tracing::{error, info, warn};

/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// How often the file is looked at. A new text must be seen twice, so that a half-written one is not taken.
const LOOK_EVERY: Duration = Duration::from_millis(400);

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
}

/// Why a policy file is not taken.
#[derive(Debug)]
pub enum Fault {
    /// It can't be read.
    Unreadable(std::io::Error),
    /// It is larger than any policy.
    TooLarge,
    /// It says what no policy may say.
    Invalid(policy::Invalid),
    /// The checked document is no JSON object.
    NoObject(serde_json::Error),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Unreadable(cause) => write!(f, "it can't be read: {cause}"),
            Fault::TooLarge => write!(f, "it is larger than {FILE_BYTES_MAX} bytes"),
            Fault::Invalid(faults) => write!(f, "{faults}"),
            Fault::NoObject(cause) => write!(f, "it is no object: {cause}"),
        }
    }
}

impl std::error::Error for Fault {}

/// Checks a text, YAML or JSON.
pub fn parse(text: &str) -> Result<InForce, Fault> {
    let document = policy::yaml::to_json(text).map_err(Fault::Invalid)?;
    let policy = Policy::from_json(document.as_bytes()).map_err(Fault::Invalid)?;
    let tables = serde_json::from_str(&document).map_err(Fault::NoObject)?;
    Ok(InForce { policy, document, tables })
}

/// Reads a policy file's text.
pub async fn read(path: &Path) -> Result<String, Fault> {
    let size = tokio::fs::metadata(path).await.map_err(Fault::Unreadable)?.len();
    if size > FILE_BYTES_MAX {
        return Err(Fault::TooLarge);
    }
    tokio::fs::read_to_string(path).await.map_err(Fault::Unreadable)
}

/// Writes into the database which policy is in force. The same again changes nothing.
pub struct TakeForce {
    /// Content hash.
    pub version: PolicyVersion,
    /// The document.
    pub document: String,
    /// When.
    pub now: Timestamp,
}

impl Operation for TakeForce {
    type Answer = ();

    fn needs(&self, needs: &mut Needs) {
        needs.policy = true;
    }

    fn apply(self, rows: &mut Rows) -> Result<(), Refusal> {
        let TakeForce { version, document, now } = self;
        let before = rows.policy.take().map(|(version, _)| version);
        if before.as_ref() == Some(&version) {
            rows.policy = before.map(|version| (version, None));
            return Ok(());
        }
        let detail = json!({"version": version, "before": before});
        rows.record(Event::new(Kind::PolicyInForce, now, LEDGER, &detail));
        rows.change(Change::Policy { version: version.clone() }, now);
        rows.policy = Some((version, Some((document, now))));
        Ok(())
    }
}

/// Records a policy as the one in force.
pub async fn record(store: &dyn Store, policy: &InForce) -> Result<(), store::Error> {
    let version = policy.version().clone();
    store.run(TakeForce { version, document: policy.document.clone(), now: moment::now() }).await
}

/// Follows the file until the ledger stops.
pub struct Follower {
    /// The file.
    pub path: PathBuf,
    /// The text that was judged last, good or not.
    pub judged: String,
    /// Where the policy in force is put.
    pub in_force: watch::Sender<Arc<InForce>>,
    /// Where it is recorded.
    pub store: Arc<dyn Store>,
    /// Where refused files are counted.
    pub metrics: Arc<Metrics>,
}

impl Follower {
    /// Looks again and again.
    pub async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        let mut seen: Option<String> = None;
        let mut unrecorded: Option<Arc<InForce>> = None;
        let mut unreadable = false;
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            match read(&self.path).await {
                Ok(text) => {
                    unreadable = false;
                    if text == self.judged {
                        seen = None;
                    } else if seen.as_ref() == Some(&text) {
                        unrecorded = self.judge(text).or(unrecorded);
                        seen = None;
                    } else {
                        seen = Some(text);
                    }
                }
                Err(fault) => {
                    if !unreadable {
                        let path = self.path.display();
                        warn!(%path, %fault, "the policy file can't be taken; the policy in force stays");
                    }
                    unreadable = true;
                }
            }
            if let Some(policy) = unrecorded.take()
                && let Err(cause) = record(self.store.as_ref(), &policy).await
            {
                warn!(?cause, "the policy in force could not be recorded yet; trying again");
                unrecorded = Some(policy);
            }
        }
    }

    /// Takes or refuses a new text. A policy is put in force before it is recorded, because recording it wakes the
    /// filters, and what they then fetch must be the new one.
    fn judge(&mut self, text: String) -> Option<Arc<InForce>> {
        let judged = parse(&text);
        self.judged = text;
        match judged {
            Ok(policy) => {
                info!(version = %policy.version(), "a new policy is in force");
                let policy = Arc::new(policy);
                self.in_force.send_replace(Arc::clone(&policy));
                Some(policy)
            }
            Err(fault) => {
                self.metrics.policies_refused.inc();
                let path = self.path.display();
                error!(%path, "the new policy is refused as a whole, the one in force stays:\n{fault}");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_that_users_copy_is_taken_and_its_tables_are_kept_verbatim() {
        let policy = parse(include_str!("../../../envoy/policy.yaml")).unwrap();
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
