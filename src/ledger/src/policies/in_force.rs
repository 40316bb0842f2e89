//! The policy in force. The database stores it, and every ledger of the database follows it.
//!
//! When a ledger starts, its policy file is compared with the database:
//!
//! - with an embedded database, the file is put in force (and the API writes to the file);
//! - with a shared database, the file is put in force only if its content never was: then it was edited. Otherwise it is
//!   an old copy, and the newest policy of the database stays.
//!
//! A file that lacks a tier, service, tool or scope that rows use ([`super::names`]) is refused, also at the start; the
//! ledger then uses the policy that was in force.

use super::document::{FILE_BYTES_MAX, Fault, InForce, parse, parse_document};
use super::names::{in_use, tools_leaving};
use crate::metrics::Metrics;
use crate::model::event::{Event, Kind, LEDGER};
use crate::store::Store;
use crate::transaction::{self, Needs, Operation, Refusal, Rows, Unavailable};
use protocol::admin::{NameLeaving, ToolLeaving};
use protocol::filter::Change;
use protocol::{PolicyVersion, Timestamp};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Mutex, watch};
use tracing::{error, info, warn};

/// Puts a policy in force. The same policy again changes nothing.
#[derive(Clone)]
pub struct PutInForce {
    pub version: PolicyVersion,
    pub document: String,
    /// Refuses unless this version is in force.
    pub only_over: Option<String>,
    pub actor: String,
    pub now: Timestamp,
}

impl Operation for PutInForce {
    type Answer = ();

    fn needs(&self, needs: &mut Needs) {
        needs.policy = true;
    }

    fn apply(self, rows: &mut Rows) -> Result<(), Refusal> {
        let PutInForce { version, document, only_over, actor, now } = self;
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

/// Puts a policy in force for every ledger of the database.
async fn record(
    store: &Store,
    policy: &InForce,
    actor: &str,
    only_over: Option<String>,
    now: Timestamp,
) -> Result<(), transaction::Error> {
    let (version, document) = (policy.version().clone(), policy.document.clone());
    store.run(PutInForce { version, document, only_over, actor: actor.to_owned(), now }).await
}

/// Why a ledger can't start with a policy.
#[derive(Debug)]
pub enum StartError {
    /// The database can't be read or written; the log has the cause.
    Unrecorded,
    /// The database has a policy that this release refuses.
    Faulty(PolicyVersion, Fault),
}

impl<E: Into<transaction::Error>> From<E> for StartError {
    fn from(_: E) -> StartError {
        StartError::Unrecorded
    }
}

/// The policy that a starting ledger uses, see the module.
pub async fn policy_at_start(
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
            "the policy file is older than the policy in the database and is ignored; edit the file, or put it in force with \
             `agentrelay policy apply`"
        );
        return parse_document(document).map_err(|fault| StartError::Faulty(version, fault));
    }
    // A policy that this release refuses can't stay in force.
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

/// Logs that a file is refused because rows use names that it lacks.
fn refuse(metrics: &Metrics, leaving: &[NameLeaving]) {
    metrics.policies_refused.inc();
    let leaving = listed(leaving);
    error!(
        "the policy file is refused, the policy in force stays: rows use names that the file no longer has. \
         Change the rows, or put the file in force with `agentrelay policy apply --force`:\n{leaving}"
    );
}

/// One line for each name.
pub fn listed(leaving: &[NameLeaving]) -> String {
    leaving.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Why a policy was not put in force.
#[derive(Debug)]
pub enum ReplaceError {
    /// It is invalid, or the file can't be written.
    Faulty(Fault),
    /// Rows use names that it no longer has.
    InUse(Vec<NameLeaving>),
    /// It could not be recorded.
    Unrecorded(transaction::Error),
}

/// Checks policies from the file, the API and other ledgers, and puts them in force.
pub struct Policies {
    path: PathBuf,
    is_shared: bool,
    in_force: watch::Sender<Arc<InForce>>,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

struct State {
    /// The file's text that was checked last, valid or not.
    checked: String,
    /// A policy that is put in force once it is recorded, and its actor.
    unrecorded: Option<(InForce, String)>,
    /// A refused policy of the database, so that it is logged once.
    refused: Option<PolicyVersion>,
}

impl Policies {
    /// `checked` is the text of the file; the policy in `in_force` is recorded already.
    pub fn new(
        path: PathBuf,
        checked: String,
        is_shared: bool,
        in_force: watch::Sender<Arc<InForce>>,
        store: Arc<Store>,
        metrics: Arc<Metrics>,
    ) -> Policies {
        let state = Mutex::new(State { checked, unrecorded: None, refused: None });
        Policies { path, is_shared, in_force, store, metrics, state }
    }

    /// Puts another document in force on every ledger. With `only_over`, only if that version is in force.
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
            warn!(%actor, "a policy is forced although rows use names that it no longer has:\n{}", listed(&leaving));
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
        state.checked = text;
        state.unrecorded = Some((policy, actor));
        self.record(&mut state, now).await.map_err(ReplaceError::Unrecorded)?;
        Ok(Arc::clone(&self.in_force.borrow()))
    }

    /// The names that rows use and that `after` no longer has.
    pub async fn leaving(&self, after: &InForce, now: Timestamp) -> Result<Vec<NameLeaving>, Unavailable> {
        let before = Arc::clone(&self.in_force.borrow());
        in_use(self.store.as_ref(), &before, after, now).await
    }

    /// The tools that `after` no longer has, with what is under way for them.
    pub async fn tools_leaving(&self, after: &InForce) -> Result<Vec<ToolLeaving>, Unavailable> {
        let before = Arc::clone(&self.in_force.borrow());
        tools_leaving(self.store.as_ref(), &before, after).await
    }

    /// The policy file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the file by a rename, so that a crash leaves the old text or the new one.
    async fn write(&self, text: &str) -> std::io::Result<()> {
        // Replaces a symlink's target, not the link.
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

    /// Recording wakes the filters. They get the policy from the database, so they see the new one even before
    /// `put_in_force` runs here.
    async fn record(&self, state: &mut State, now: Timestamp) -> Result<(), transaction::Error> {
        let Some((policy, actor)) = &state.unrecorded else { return Ok(()) };
        record(self.store.as_ref(), policy, actor, None, now).await?;
        if let Some((policy, _)) = state.unrecorded.take() {
            self.put_in_force(policy);
        }
        Ok(())
    }

    /// Puts in force what another ledger recorded.
    pub async fn refresh(&self) {
        let mut state = self.state.lock().await;
        self.follow_database(&mut state).await;
    }

    async fn follow_database(&self, state: &mut State) {
        let known = self.in_force.borrow().version().clone();
        // The store logs a failure of the database; the next poll tries again.
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
                    "another ledger put a policy in force that this one refuses; are their releases the same? The policy in \
                     force here stays:\n{fault}"
                );
                state.refused = Some(version);
            }
        }
    }

    /// Checks the file's text after it was read twice unchanged.
    pub async fn check_file(&self, seen: &mut Option<String>, text: String, now: Timestamp) {
        let mut state = self.state.lock().await;
        if text == state.checked {
            *seen = None;
        } else if seen.as_ref() == Some(&text) {
            match parse(&text) {
                Ok(policy) => match self.leaving(&policy, now).await {
                    Ok(leaving) if leaving.is_empty() => {
                        state.unrecorded = Some((policy, LEDGER.to_owned()));
                    }
                    Ok(leaving) => refuse(&self.metrics, &leaving),
                    // The log has the cause; the next poll tries again.
                    Err(_) => return,
                },
                Err(fault) => {
                    self.metrics.policies_refused.inc();
                    let path = self.path.display();
                    error!(%path, "the new policy is refused, the one in force stays:\n{fault}");
                }
            }
            *seen = None;
            state.checked = text;
        } else {
            *seen = Some(text);
        }
        if let Err(cause) = self.record(&mut state, now).await {
            warn!(?cause, "the new policy could not be recorded yet; trying again");
        }
    }
}
