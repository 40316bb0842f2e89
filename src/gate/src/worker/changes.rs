//! The change feed: one VM of this Envoy asks the ledger for changes, and every VM applies them.

use super::{PolicyCall, Worker};
use crate::calls::{Answer, Call};
use crate::feed::Update;
use crate::host::Host;
use policy::key_table::Changed;
use policy::window::{FEED_WAIT_MS_MAX, Fleet, Monotonic};
use protocol::filter::{Change, Changes};
use std::sync::atomic::Ordering;

impl<H: Host> Worker<H> {
    /// What this Envoy knows of the other Envoys. `is_unavailable` means that the ledger did not answer just now.
    pub fn fleet(&self, is_unavailable: bool) -> Fleet {
        let feed = self.feed.lock();
        Fleet { envoys: feed.envoys(), confirmed: feed.confirmed(), is_unavailable }
    }

    pub(super) fn listen(&self, now: Monotonic) {
        if !self.feed.lock().should_listen(now) {
            return;
        }
        let wait_ms = (self.stale_ms() / 2).clamp(500, FEED_WAIT_MS_MAX);
        let call = self
            .instance()
            .map(|instance| Call::changes(&self.config(), &instance, self.feed.lock().position(), wait_ms));
        if call.and_then(|call| self.dispatch(call)).is_err() {
            self.feed.lock().retry_later(now);
        }
    }

    pub(super) fn changes_answered(&self, answer: &Answer, now: Monotonic) {
        let Some(mut changes) = answer.read::<Changes>(&[200]) else {
            H::add(self.metrics().feed_lost, 1);
            self.feed.lock().retry_later(now);
            return;
        };
        changes.changes.retain(|change| !self.handle_recall(change));
        self.feed.lock().received(changes, now);
        self.apply_changes(now);
        self.listen(now);
    }

    /// Handles a recall for the whole Envoy; returns false if the change invalidates a cached key or the policy. Only those
    /// are passed on to other VMs: under contention there are many recalls.
    fn handle_recall(&self, change: &Change) -> bool {
        match change {
            Change::Recall { tenant_id } => self.recalled(tenant_id),
            Change::Share { owner, limit_id } => self.share_recalled(owner, *limit_id),
            // The number of Envoys is in each answer.
            Change::Envoy { .. } => {}
            Change::Key { .. } | Change::Tenant { .. } | Change::Policy { .. } => return false,
        }
        H::add(self.metrics().changes, 1);
        true
    }

    pub(super) fn apply_changes(&self, now: Monotonic) {
        let update = self.feed.lock().read_changes();
        let changes = match update {
            Update::None => return,
            Update::Reset => {
                H::add(self.metrics().keys, self.keys.lock().clear());
                self.ask_for_policy(now);
                Vec::new()
            }
            Update::Changes(changes) => changes,
        };
        self.changes_applied.fetch_add(1, Ordering::Relaxed);
        let mut changed = Changed::default();
        for change in changes {
            H::add(self.metrics().changes, 1);
            match change {
                Change::Key { key_id } => drop(changed.keys.insert(key_id)),
                Change::Tenant { tenant_id } => drop(changed.tenants.insert(tenant_id)),
                Change::Policy { .. } => self.ask_for_policy(now),
                // The listener has already handled these.
                Change::Recall { .. } | Change::Share { .. } | Change::Envoy { .. } => {}
            }
        }
        H::add(self.metrics().keys, self.keys.lock().drop_changed(&changed));
    }

    /// Fetches the policy at the next tick, even if a call is in flight: its answer may be older than the change.
    fn ask_for_policy(&self, now: Monotonic) {
        self.policy_call.replace(PolicyCall::Due { at_ms: now.0 });
    }
}
