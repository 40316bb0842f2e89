//! The exchanges in progress on this worker: how many each key has, which call ids each session uses, and which
//! exchanges must end because their credential has ended.

use policy::Key;
use policy::exchange::{AdmissionAnswered, AdmissionRequest, CallId};
use protocol::api_key::KeyHash;
use protocol::key::KeyRecord;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Messages that other exchanges wait for, such as answers, have a bound this many times the bound for requests.
const AWAITED_TIMES: u32 = 4;

/// The exchanges in progress.
#[derive(Default)]
pub struct InProgress {
    exchanges: HashMap<u32, Entry>,
    counts: HashMap<u64, Counts>,
    calls: HashSet<CallId>,
}

/// An exchange in progress.
struct Entry {
    key: Arc<Key>,
    credential: KeyHash,
    is_stream: bool,
    calls: Vec<CallId>,
}

/// How many exchanges of one key are in progress.
#[derive(Default)]
struct Counts {
    requests: u32,
    streams: u32,
}

impl Counts {
    fn of(&mut self, is_stream: bool) -> &mut u32 {
        if is_stream { &mut self.streams } else { &mut self.requests }
    }
}

impl InProgress {
    /// Admits an exchange. The messages of a batch are admitted one by one, but count as one exchange.
    pub fn admit(&mut self, stream_id: u32, key: &Arc<Key>, request: AdmissionRequest) -> AdmissionAnswered {
        if let Some(call) = &request.call
            && self.calls.contains(call)
        {
            return AdmissionAnswered::DuplicateId;
        }
        if !self.exchanges.contains_key(&stream_id) {
            let is_stream = request.work.is_stream();
            let count = self.counts.entry(key.fingerprint).or_default().of(is_stream);
            let max = request.count_max(AWAITED_TIMES);
            if *count >= max {
                return AdmissionAnswered::Full { max };
            }
            *count = count.saturating_add(1);
            let exchange =
                Entry { key: key.clone(), credential: request.credential, is_stream, calls: Vec::new() };
            self.exchanges.insert(stream_id, exchange);
        }
        if let (Some(call), Some(exchange)) = (request.call, self.exchanges.get_mut(&stream_id)) {
            exchange.calls.push(call.clone());
            self.calls.insert(call);
        }
        AdmissionAnswered::Admitted
    }

    /// Removes a finished exchange.
    pub fn remove(&mut self, stream_id: u32) {
        let Some(exchange) = self.exchanges.remove(&stream_id) else { return };
        for call in &exchange.calls {
            self.calls.remove(call);
        }
        if let Some(counts) = self.counts.get_mut(&exchange.key.fingerprint) {
            let count = counts.of(exchange.is_stream);
            *count = count.saturating_sub(1);
            if (counts.requests, counts.streams) == (0, 0) {
                self.counts.remove(&exchange.key.fingerprint);
            }
        }
    }

    /// The credentials of all exchanges in progress.
    pub fn credentials(&self) -> HashSet<KeyHash> {
        self.exchanges.values().map(|exchange| exchange.credential).collect()
    }

    /// The exchanges of a credential that must end: all of them if the credential is no longer valid, else those that were
    /// admitted when its key had other permissions.
    pub fn to_end(&self, credential: &KeyHash, key: Option<&Key>) -> Vec<u32> {
        let may_continue =
            |exchange: &Entry| key.is_some_and(|key| has_same_permissions(&exchange.key.record, &key.record));
        let ended = self
            .exchanges
            .iter()
            .filter(|(_, exchange)| exchange.credential == *credential && !may_continue(exchange));
        ended.map(|(stream_id, _)| *stream_id).collect()
    }
}

fn has_same_permissions(before: &KeyRecord, now: &KeyRecord) -> bool {
    let what = |record: &KeyRecord| {
        (record.tier.clone(), record.scopes.clone(), record.services.clone(), record.tools.clone())
    };
    what(before) == what(now) && before.resources == now.resources
}
