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
use tokio::sync::{Mutex, watch};
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
    /// Who put it in force.
    pub actor: String,
    /// When.
    pub now: Timestamp,
}

impl Operation for TakeForce {
    type Answer = ();

    fn needs(&self, needs: &mut Needs) {
        needs.policy = true;
    }

    fn apply(self, rows: &mut Rows) -> Result<(), Refusal> {
        let TakeForce { version, document, actor, now } = self;
        let before = rows.policy.take().map(|(version, _)| version);
        if before.as_ref() == Some(&version) {
            rows.policy = before.map(|version| (version, None));
            return Ok(());
        }
        let detail = json!({"version": version, "before": before});
        rows.record(Event::new(Kind::PolicyInForce, now, actor, &detail));
        rows.change(Change::Policy { version: version.clone() }, now);
        rows.policy = Some((version, Some((document, now))));
        Ok(())
    }
}

/// Records a policy as the one in force.
pub async fn record(store: &dyn Store, policy: &InForce, actor: &str) -> Result<(), store::Error> {
    let (version, document) = (policy.version().clone(), policy.document.clone());
    store.run(TakeForce { version, document, actor: actor.to_owned(), now: moment::now() }).await
}

/// Why a policy was not put in another's place.
#[derive(Debug)]
pub enum Replaced {
    /// It is not taken, or the file can't be written.
    Faulty(Fault),
    /// Another one than expected is in force.
    ChangedSince(PolicyVersion),
    /// It is in force, but not recorded yet.
    Unrecorded(store::Error),
}

/// Where policies are judged and put in force, whether they come by the file or by the API.
pub struct Desk {
    path: PathBuf,
    in_force: watch::Sender<Arc<InForce>>,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

struct State {
    /// The text that was judged last, good or not.
    judged: String,
    /// Who put in force what is not recorded yet.
    unrecorded: Option<String>,
}

impl Desk {
    /// With the text of the policy in force, which is recorded.
    pub fn new(
        path: PathBuf,
        judged: String,
        in_force: watch::Sender<Arc<InForce>>,
        store: Arc<dyn Store>,
        metrics: Arc<Metrics>,
    ) -> Desk {
        Desk { path, in_force, store, metrics, state: Mutex::new(State { judged, unrecorded: None }) }
    }

    /// Writes another text to the file and puts it in force, or does neither. With `only_over`, only if that version is
    /// in force.
    pub async fn replace(
        &self,
        text: String,
        only_over: Option<String>,
        actor: String,
    ) -> Result<Arc<InForce>, Replaced> {
        let mut state = self.state.lock().await;
        let before = self.in_force.borrow().version().clone();
        if only_over.is_some_and(|version| version != before.as_str()) {
            return Err(Replaced::ChangedSince(before));
        }
        if u64::try_from(text.len()).is_ok_and(|bytes| bytes > FILE_BYTES_MAX) {
            return Err(Replaced::Faulty(Fault::TooLarge));
        }
        let policy = parse(&text).map_err(|fault| {
            self.metrics.policies_refused.inc();
            Replaced::Faulty(fault)
        })?;
        // Renamed into place, so that a crash leaves the old text or the new one.
        let unfinished = self.path.with_added_extension("new");
        let written = async {
            tokio::fs::write(&unfinished, &text).await?;
            tokio::fs::File::open(&unfinished).await?.sync_all().await?;
            tokio::fs::rename(&unfinished, &self.path).await
        };
        written.await.map_err(|cause| {
            warn!(%cause, path = %self.path.display(), "the policy file can't be written");
            Replaced::Faulty(Fault::Unreadable(cause))
        })?;
        state.judged = text;
        let policy = self.put_in_force(policy);
        state.unrecorded = Some(actor);
        self.record(&mut state).await.map_err(Replaced::Unrecorded)?;
        Ok(policy)
    }

    /// A policy is put in force before it is recorded, because recording it wakes the filters, and what they then fetch
    /// must be the new one.
    fn put_in_force(&self, policy: InForce) -> Arc<InForce> {
        info!(version = %policy.version(), "a new policy is in force");
        let policy = Arc::new(policy);
        self.in_force.send_replace(Arc::clone(&policy));
        policy
    }

    async fn record(&self, state: &mut State) -> Result<(), store::Error> {
        let Some(actor) = state.unrecorded.clone() else { return Ok(()) };
        let policy = Arc::clone(&self.in_force.borrow());
        record(self.store.as_ref(), &policy, &actor).await?;
        state.unrecorded = None;
        Ok(())
    }

    /// Takes or refuses what the file says, once it says the same twice.
    async fn look(&self, seen: &mut Option<String>, text: String) {
        let mut state = self.state.lock().await;
        if text == state.judged {
            *seen = None;
        } else if seen.as_ref() == Some(&text) {
            *seen = None;
            match parse(&text) {
                Ok(policy) => {
                    self.put_in_force(policy);
                    state.unrecorded = Some(LEDGER.to_owned());
                }
                Err(fault) => {
                    self.metrics.policies_refused.inc();
                    let path = self.path.display();
                    error!(%path, "the new policy is refused as a whole, the one in force stays:\n{fault}");
                }
            }
            state.judged = text;
        } else {
            *seen = Some(text);
        }
        if let Err(cause) = self.record(&mut state).await {
            warn!(?cause, "the policy in force could not be recorded yet; trying again");
        }
    }

    /// Follows the file until the ledger stops.
    pub async fn follow(self: Arc<Self>, mut stopping: watch::Receiver<bool>) {
        let mut seen: Option<String> = None;
        let mut unreadable = false;
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            match read(&self.path).await {
                Ok(text) => {
                    unreadable = false;
                    self.look(&mut seen, text).await;
                }
                Err(fault) => {
                    if !unreadable {
                        let path = self.path.display();
                        warn!(%path, %fault, "the policy file can't be taken; the policy in force stays");
                    }
                    unreadable = true;
                }
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
