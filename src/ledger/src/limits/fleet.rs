//! The Envoys that follow the change feed. Their number says what each may give of a global limit while no ledger answers.

use crate::transaction::{Needs, Operation, Refusal, Rows};
use protocol::filter::Change;
use protocol::{InstanceId, Timestamp};

/// An Envoy counts for this long after it last asked for changes. It asks again several times within this time.
const COUNTED_MILLIS: u64 = 60_000;

/// An Envoy that was seen before this time is no longer counted.
pub fn counted_since(now: Timestamp) -> Timestamp {
    Timestamp::from_millis(now.as_millis().saturating_sub(COUNTED_MILLIS))
}

/// Records that an Envoy asks for changes. A new one is reported to all others at once.
#[derive(Debug, Clone)]
pub struct See {
    pub instance: InstanceId,
    pub now: Timestamp,
}

impl Operation for See {
    type Answer = ();

    fn needs(&self, needs: &mut Needs) {
        needs.envoys.insert(self.instance);
    }

    fn apply(self, rows: &mut Rows) -> Result<(), Refusal> {
        let See { instance, now } = self;
        let is_new = rows.envoys.get(&instance).is_none_or(|seen_at| *seen_at <= counted_since(now));
        if is_new {
            rows.change(Change::Envoy { instance }, now);
        }
        rows.envoys.insert(instance, now);
        Ok(())
    }
}
