//! The exchanges in progress on this worker: how many each key has, which call ids each session uses, and which
//! exchanges must end because their credential has ended.

use policy::Key;
use policy::exchange::{CallId, Entered, Entering};
use protocol::api_key::KeyHash;
use protocol::key::KeyRecord;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Messages that other exchanges wait for, such as answers, have a bound this many times the bound for requests.
const AWAITED_TIMES: u32 = 4;

/// The exchanges in progress.
#[derive(Default)]
pub struct UnderWay {
    open: HashMap<u32, Open>,
    counts: HashMap<u64, Counts>,
    calls: HashSet<CallId>,
}

/// An exchange in progress.
struct Open {
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

impl UnderWay {
    /// Admits an exchange. The messages of a batch are admitted one by one, but count as one exchange.
    pub fn enter(&mut self, stream_id: u32, key: &Arc<Key>, entering: Entering) -> Entered {
        if let Some(call) = &entering.call
            && self.calls.contains(call)
        {
            return Entered::Twin;
        }
        if !self.open.contains_key(&stream_id) {
            let is_stream = entering.work.is_stream();
            let count = self.counts.entry(key.fingerprint).or_default().of(is_stream);
            let most = entering.most(AWAITED_TIMES);
            if *count >= most {
                return Entered::Full { most };
            }
            *count = count.saturating_add(1);
            let open =
                Open { key: key.clone(), credential: entering.credential, is_stream, calls: Vec::new() };
            self.open.insert(stream_id, open);
        }
        if let (Some(call), Some(open)) = (entering.call, self.open.get_mut(&stream_id)) {
            open.calls.push(call.clone());
            self.calls.insert(call);
        }
        Entered::Admitted
    }

    /// Removes a finished exchange.
    pub fn leave(&mut self, stream_id: u32) {
        let Some(open) = self.open.remove(&stream_id) else { return };
        for call in &open.calls {
            self.calls.remove(call);
        }
        if let Some(counts) = self.counts.get_mut(&open.key.fingerprint) {
            let count = counts.of(open.is_stream);
            *count = count.saturating_sub(1);
            if (counts.requests, counts.streams) == (0, 0) {
                self.counts.remove(&open.key.fingerprint);
            }
        }
    }

    /// The credentials of all exchanges in progress.
    pub fn credentials(&self) -> HashSet<KeyHash> {
        self.open.values().map(|open| open.credential).collect()
    }

    /// The exchanges of a credential that must end: all of them if the credential is no longer valid, else those that were
    /// admitted when its key had other permissions.
    pub fn ended(&self, credential: &KeyHash, key: Option<&Key>) -> Vec<u32> {
        let may_go_on = |open: &Open| key.is_some_and(|key| is_as_good(&open.key.record, &key.record));
        let ended = self.open.iter().filter(|(_, open)| open.credential == *credential && !may_go_on(open));
        ended.map(|(stream_id, _)| *stream_id).collect()
    }
}

fn is_as_good(before: &KeyRecord, now: &KeyRecord) -> bool {
    let what = |record: &KeyRecord| {
        (record.tier.clone(), record.scopes.clone(), record.services.clone(), record.tools.clone())
    };
    what(before) == what(now) && before.resources == now.resources
}
