//! The change feed: one VM of this Envoy listens for all VMs.
//!
//! A short lease in shared data decides which VM listens. The listener long-polls the ledger and writes the changes to
//! shared data, where every VM reads them on its tick. The listener handles recalls itself, because they concern no
//! record that a VM caches. If the listener dies, its lease expires, and another VM continues at the same position.

use crate::host::{Host, Refused};
use policy::window::Monotonic;
use protocol::filter::{Change, Changes};
use serde::{Deserialize, Serialize};
use std::marker::PhantomData;

const LEASE: &str = "agentrelay/feed/1/lease";
const LOG: &str = "agentrelay/feed/1/log";
const LEASE_MS: u64 = 1_000;
const RETRY_MS: u64 = 500;
/// Changes kept for VMs that read late. A VM that missed more drops its whole cache, which is always safe.
const LOG_MAX: usize = 256;

/// The changes that the listener received, as all VMs read them.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Log {
    /// Number of changes written so far; also the number of the last entry of `changes`.
    line: u64,
    /// The feed position after which to ask the ledger for changes.
    position: Option<u64>,
    /// Monotonic time at which the ledger last confirmed that the log is complete.
    confirmed_ms: u64,
    /// The number of Envoys that the ledger last named.
    #[serde(default)]
    envoys: u32,
    changes: Vec<Change>,
    /// How often all caches had to be dropped.
    resets: u64,
}

/// This VM's view of the feed.
pub struct Feed<H: Host> {
    id: u64,
    is_listener: bool,
    in_flight: bool,
    retry_at_ms: u64,
    log: Log,
    revision: u32,
    /// False until this VM first reads the log. Before that it may have missed changes.
    has_read: bool,
    host: PhantomData<H>,
}

/// What a VM learns when it reads the log.
#[derive(Debug, PartialEq)]
pub enum Update {
    /// Nothing has changed.
    None,
    /// These changes are new.
    Changes(Vec<Change>),
    /// Anything may have changed, so the VM must drop its caches.
    Reset,
}

impl<H: Host> Feed<H> {
    /// Creates a view that has read no changes yet.
    pub fn new() -> Feed<H> {
        Feed {
            id: u64::from_le_bytes(H::random()),
            is_listener: false,
            in_flight: false,
            retry_at_ms: 0,
            log: Log::default(),
            revision: 0,
            has_read: false,
            host: PhantomData,
        }
    }

    /// True if this VM listens for the whole Envoy.
    pub fn is_listener(&self) -> bool {
        self.is_listener
    }

    /// When the ledger last confirmed that all changes are known.
    pub fn confirmed(&self) -> Monotonic {
        Monotonic(self.log.confirmed_ms)
    }

    /// The number of Envoys that the ledger last named; 0 before it named any.
    pub fn envoys(&self) -> u32 {
        self.log.envoys
    }

    /// Reads the changes that the listener has written since the last call.
    pub fn read_changes(&mut self) -> Update {
        let read = H::shared(LOG);
        if read.bytes.is_empty() || read.revision == self.revision {
            return Update::None;
        }
        let Ok(log) = policy::json::read::<Log>(&read.bytes) else { return Update::None };
        self.revision = read.revision;
        let before = std::mem::replace(&mut self.log, log);
        let missed = usize::try_from(self.log.line.saturating_sub(before.line)).unwrap_or(usize::MAX);
        let is_gap = !std::mem::replace(&mut self.has_read, true)
            || before.resets != self.log.resets
            || missed > self.log.changes.len();
        if is_gap {
            return Update::Reset;
        }
        let known = self.log.changes.len().saturating_sub(missed);
        match self.log.changes.get(known..) {
            Some(changes) if !changes.is_empty() => Update::Changes(changes.to_vec()),
            _ => Update::None,
        }
    }

    /// True if this VM should call the ledger now: it is the listener and no call is in flight.
    pub fn should_listen(&mut self, now: Monotonic) -> bool {
        self.is_listener = self.hold_lease(now);
        if !self.is_listener || self.in_flight || now.0 < self.retry_at_ms {
            return false;
        }
        self.in_flight = true;
        true
    }

    /// The feed position after which to ask for changes.
    pub fn position(&self) -> Option<u64> {
        self.log.position
    }

    /// Passes the ledger's answer on to every VM. If shared data can't be written, the answer counts as lost and is
    /// requested again.
    pub fn received(&mut self, answer: Changes, now: Monotonic) {
        for _ in 0..8 {
            let read = H::shared(LOG);
            let mut log: Log = policy::json::read(&read.bytes).unwrap_or_default();
            // The first answer only gives a position. Without a known position, any change may have been missed.
            if answer.reset || log.position.is_none() {
                log.resets = log.resets.saturating_add(1);
                log.changes.clear();
            }
            log.line = log.line.saturating_add(u64::try_from(answer.changes.len()).unwrap_or(0));
            log.changes.extend(answer.changes.iter().cloned());
            let excess = log.changes.len().saturating_sub(LOG_MAX);
            log.changes.drain(..excess);
            log.position = Some(answer.next);
            log.confirmed_ms = now.0;
            log.envoys = answer.envoys;
            let bytes = serde_json::to_vec(&log).unwrap_or_default();
            match H::swap_shared(LOG, &read, &bytes) {
                Ok(true) => {
                    self.in_flight = false;
                    return;
                }
                Ok(false) => {}
                Err(Refused(_)) => break,
            }
        }
        self.retry_later(now);
    }

    /// Schedules a retry after the ledger did not answer.
    pub fn retry_later(&mut self, now: Monotonic) {
        self.in_flight = false;
        self.retry_at_ms = now.0.saturating_add(RETRY_MS);
    }

    /// Takes or renews the lease of the listener. Returns false if another VM holds it.
    fn hold_lease(&self, now: Monotonic) -> bool {
        let read = H::shared(LEASE);
        let (owner, ends_ms) = match read.bytes.split_first_chunk::<8>() {
            Some((owner, rest)) => (
                u64::from_le_bytes(*owner),
                rest.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes)),
            ),
            None => (0, 0),
        };
        let is_mine = owner == self.id;
        if !is_mine && now.0 < ends_ms {
            return false;
        }
        if is_mine && now.0.saturating_add(LEASE_MS / 2) < ends_ms {
            return true;
        }
        let mut bytes = self.id.to_le_bytes().to_vec();
        bytes.extend_from_slice(&now.0.saturating_add(LEASE_MS).to_le_bytes());
        H::swap_shared(LEASE, &read, &bytes).unwrap_or(false)
    }
}
