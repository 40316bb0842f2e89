//! Which policy is in force, kept in the database, followed when it changes.
//!
//! The database says which one it is: every ledger follows it, so one that was put in force by the API or by a changed file of
//! one ledger holds on all. What a ledger's own file says when it starts:
//!
//! - beside an embedded database, whose only ledger it is, the file is in force (and the API writes to the file);
//! - on a shared database the file is taken if its content was never in force there: then it was edited meanwhile. What
//!   was in force before is an old copy, and the database's newest policy stays.
//!
//! A file that lacks a tier, service, tool or scope that rows use ([`super::names`]) is refused as a whole, too: also when
//! the ledger starts, which then serves by the policy that was in force.

use super::document::{FILE_BYTES_MAX, Fault, InForce, parse, parse_document};
use super::names::in_use;
use crate::metrics::Metrics;
use crate::model::event::{Event, Kind, LEDGER};
use crate::store::Store;
use crate::transaction::{self, Needs, Operation, Refusal, Rows, Unavailable};
use protocol::admin::NameLeaving;
use protocol::filter::Change;
use protocol::{PolicyVersion, Timestamp};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Mutex, watch};
use tracing::{error, info, warn};

/// Writes into the database which policy is in force. The same again changes nothing.
#[derive(Clone)]
pub struct TakeForce {
    /// Content hash.
    pub version: PolicyVersion,
    pub document: String,
    /// Only over this one.
    pub only_over: Option<String>,
    /// Who put it in force.
    pub actor: String,
    pub now: Timestamp,
}

impl Operation for TakeForce {
    type Answer = ();

    fn needs(&self, needs: &mut Needs) {
        needs.policy = true;
    }

    fn apply(self, rows: &mut Rows) -> Result<(), Refusal> {
        let TakeForce { version, document, only_over, actor, now } = self;
        let before = rows.policy.clone();
        if let (Some(expected), Some(before)) = (only_over, &before)
            && expected != before.as_str()
        {
            return Err(Refusal::PolicyChanged { version: before.clone() });
        }
        if before.as_ref() == Some(&version) {
            return Ok(());
        }
        let detail = json!({"version": version, "before": before});
        rows.record(Event::new(Kind::PolicyInForce, now, actor, &detail));
        rows.change(Change::Policy { version: version.clone() }, now);
        rows.policy = Some(version.clone());
        rows.policies.push((version, document, now));
        Ok(())
    }
}

/// Records a policy as the one in force, for every ledger.
async fn record(
    store: &Store,
    policy: &InForce,
    actor: &str,
    only_over: Option<String>,
    now: Timestamp,
) -> Result<(), transaction::Error> {
    let (version, document) = (policy.version().clone(), policy.document.clone());
    store.run(TakeForce { version, document, only_over, actor: actor.to_owned(), now }).await
}

/// Why a ledger that starts has no policy.
#[derive(Debug)]
pub enum StartError {
    /// The database can't be read or written; the log has the cause.
    Unrecorded,
    /// The database holds one that this program does not take.
    Faulty(PolicyVersion, Fault),
}

impl<E: Into<transaction::Error>> From<E> for StartError {
    fn from(_: E) -> StartError {
        StartError::Unrecorded
    }
}

/// What is in force for a ledger that starts with this file, see the module.
pub async fn settle(
    store: &Store,
    file: InForce,
    is_shared: bool,
    metrics: &Metrics,
    now: Timestamp,
) -> Result<InForce, StartError> {
    let newest = store.policy_other_than(file.version().clone()).await?;
    let Some((version, document)) = newest else {
        record(store, &file, LEDGER, None, now).await?;
        return Ok(file);
    };
    if is_shared && store.knows_policy(file.version().clone()).await? {
        warn!(
            file = %file.version(), in_force = %version,
            "the policy file is an older one than the database holds, and stays without effect; change it, or put it \
             in force with `agentrelay policy apply`"
        );
        return parse_document(document).map_err(|fault| StartError::Faulty(version, fault));
    }
    // One that this release does not take can't stay in force either.
    if let Ok(before) = parse_document(document) {
        let leaving = in_use(store, &before, &file, now).await.map_err(|_| StartError::Unrecorded)?;
        if !leaving.is_empty() {
            refuse(metrics, &leaving);
            return Ok(before);
        }
    }
    record(store, &file, LEDGER, None, now).await?;
    Ok(file)
}

/// Says of a file that it is not taken because rows use what it no longer has.
fn refuse(metrics: &Metrics, leaving: &[NameLeaving]) {
    metrics.policies_refused.inc();
    let leaving = listed(leaving);
    error!(
        "the policy file is refused as a whole, the policy in force stays: rows use what the file no longer has. \
         Change them, or put the file in force with `agentrelay policy apply --force`:\n{leaving}"
    );
}

/// One line for each name.
pub fn listed(leaving: &[NameLeaving]) -> String {
    leaving.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Why a policy was not put in another's place.
#[derive(Debug)]
pub enum ReplaceError {
    /// It is not taken, or the file can't be written.
    Faulty(Fault),
    /// Rows use what it no longer has.
    InUse(Vec<NameLeaving>),
    /// It is not recorded, so it is not in force; see the cause.
    Unrecorded(transaction::Error),
}

/// Judges policies and puts them in force, whether they come by the file, by the API or from another ledger.
pub struct Policies {
    path: PathBuf,
    is_shared: bool,
    in_force: watch::Sender<Arc<InForce>>,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

struct State {
    /// The text of the file that was judged last, good or not.
    judged: String,
    /// What is to be in force as soon as it is recorded, and who said so.
    unrecorded: Option<(InForce, String)>,
    /// A policy of the database that is not taken, so that it is said once.
    refused: Option<PolicyVersion>,
}

impl Policies {
    /// With the text of the file, which was judged, and the policy in force, which is recorded.
    pub fn new(
        path: PathBuf,
        judged: String,
        is_shared: bool,
        in_force: watch::Sender<Arc<InForce>>,
        store: Arc<Store>,
        metrics: Arc<Metrics>,
    ) -> Policies {
        let state = Mutex::new(State { judged, unrecorded: None, refused: None });
        Policies { path, is_shared, in_force, store, metrics, state }
    }

    /// Puts another text in force on every ledger, or does nothing. With `only_over`, only if that version is in force.
    pub async fn replace(
        &self,
        text: String,
        only_over: Option<String>,
        force: bool,
        actor: String,
        now: Timestamp,
    ) -> Result<Arc<InForce>, ReplaceError> {
        let mut state = self.state.lock().await;
        self.follow_database(&mut state).await;
        let before = self.in_force.borrow().version().clone();
        if only_over.as_ref().is_some_and(|expected| expected != before.as_str()) {
            let changed = Refusal::PolicyChanged { version: before };
            return Err(ReplaceError::Unrecorded(transaction::Error::Refused(changed)));
        }
        if text.len() > FILE_BYTES_MAX {
            return Err(ReplaceError::Faulty(Fault::TooLarge));
        }
        let policy = parse(&text).map_err(|fault| {
            self.metrics.policies_refused.inc();
            ReplaceError::Faulty(fault)
        })?;
        let leaving =
            self.leaving(&policy, now).await.map_err(|cause| ReplaceError::Unrecorded(cause.into()))?;
        if !leaving.is_empty() {
            if !force {
                return Err(ReplaceError::InUse(leaving));
            }
            warn!(%actor, "a policy is forced although rows use what it no longer has:\n{}", listed(&leaving));
        }
        if self.is_shared {
            let recorded = record(self.store.as_ref(), &policy, &actor, only_over, now).await;
            recorded.map_err(ReplaceError::Unrecorded)?;
            state.unrecorded = None;
            return Ok(self.put_in_force(policy));
        }
        self.write(&text).await.map_err(|cause| {
            warn!(%cause, path = %self.path.display(), "the policy file can't be written");
            ReplaceError::Faulty(Fault::Unreadable(cause))
        })?;
        state.judged = text;
        state.unrecorded = Some((policy, actor));
        self.record(&mut state, now).await.map_err(ReplaceError::Unrecorded)?;
        Ok(Arc::clone(&self.in_force.borrow()))
    }

    /// What rows use of the policy in force that another one no longer has.
    pub async fn leaving(&self, after: &InForce, now: Timestamp) -> Result<Vec<NameLeaving>, Unavailable> {
        let before = Arc::clone(&self.in_force.borrow());
        in_use(self.store.as_ref(), &before, after, now).await
    }

    /// The file that is followed.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Renamed into place, so that a crash leaves the old text or the new one.
    async fn write(&self, text: &str) -> std::io::Result<()> {
        // Of a symlink what it leads to: the link stays one.
        let path = tokio::fs::canonicalize(&self.path).await.unwrap_or_else(|_| self.path.clone());
        let unfinished = path.with_added_extension("new");
        let mut file = tokio::fs::File::create(&unfinished).await?;
        if let Ok(metadata) = tokio::fs::metadata(&path).await {
            file.set_permissions(metadata.permissions()).await?;
        }
        file.write_all(text.as_bytes()).await?;
        file.sync_all().await?;
        tokio::fs::rename(&unfinished, &path).await
    }

    fn put_in_force(&self, policy: InForce) -> Arc<InForce> {
        info!(version = %policy.version(), "a new policy is in force");
        let policy = Arc::new(policy);
        self.in_force.send_replace(Arc::clone(&policy));
        policy
    }

    /// Recording wakes the filters. What they then ask for is looked up in the database, so it is the new one even if
    /// they are faster than the line after it.
    async fn record(&self, state: &mut State, now: Timestamp) -> Result<(), transaction::Error> {
        let Some((policy, actor)) = &state.unrecorded else { return Ok(()) };
        record(self.store.as_ref(), policy, actor, None, now).await?;
        if let Some((policy, _)) = state.unrecorded.take() {
            self.put_in_force(policy);
        }
        Ok(())
    }

    /// Takes what another ledger put in force, if one did.
    pub async fn refresh(&self) {
        let mut state = self.state.lock().await;
        self.follow_database(&mut state).await;
    }

    async fn follow_database(&self, state: &mut State) {
        let known = self.in_force.borrow().version().clone();
        // A database that fails is logged by the store; the next look tries again.
        let Ok(Some((version, document))) = self.store.policy_other_than(known).await else { return };
        if state.unrecorded.is_some() || state.refused.as_ref() == Some(&version) {
            return;
        }
        match parse_document(document) {
            Ok(policy) => {
                self.put_in_force(policy);
                state.refused = None;
            }
            Err(fault) => {
                self.metrics.policies_refused.inc();
                error!(
                    %version,
                    "another ledger put a policy in force that this one does not take; are their releases the same? \
                     The one in force here stays:\n{fault}"
                );
                state.refused = Some(version);
            }
        }
    }

    /// Takes or refuses what the file says, once it says the same twice.
    pub async fn look(&self, seen: &mut Option<String>, text: String, now: Timestamp) {
        let mut state = self.state.lock().await;
        if text == state.judged {
            *seen = None;
        } else if seen.as_ref() == Some(&text) {
            match parse(&text) {
                Ok(policy) => match self.leaving(&policy, now).await {
                    Ok(leaving) if leaving.is_empty() => {
                        state.unrecorded = Some((policy, LEDGER.to_owned()));
                    }
                    Ok(leaving) => refuse(&self.metrics, &leaving),
                    // The log has the cause; the next look asks again.
                    Err(_) => return,
                },
                Err(fault) => {
                    self.metrics.policies_refused.inc();
                    let path = self.path.display();
                    error!(%path, "the new policy is refused as a whole, the one in force stays:\n{fault}");
                }
            }
            *seen = None;
            state.judged = text;
        } else {
            *seen = Some(text);
        }
        if let Err(cause) = self.record(&mut state, now).await {
            warn!(?cause, "the new policy could not be recorded yet; trying again");
        }
    }
}
